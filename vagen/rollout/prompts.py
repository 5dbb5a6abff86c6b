"""How an episode becomes prompts: what the agent is told, and how many of its turns a prompt shows.

==============  ===========================================================
``concat``      one conversation that grows
``window``      the system message and the last few turns
``no_concat``   the system message and the present observation only
==============  ===========================================================

Earlier responses stand in a prompt as the tokens that were sampled; they are never written anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vagen.cloze.build import describe_states
from vagen.policy.chat import Chat, Picture, Prompt, join
from vagen.rollout.failures import WorldsCode
from vagen.rollout.responses import Strategy, Tags, describe_format, writes_states
from worlds import Snapshot, World
from worlds.text import Representation

Context = Literal["concat", "window", "no_concat"]
CONTEXTS: tuple[Context, ...] = get_args(Context)

UNUSABLE = "the last response could not be used"


@dataclass(frozen=True)
class Observation:
    """What the user says in one turn: an image, and what it does not show."""

    picture: Picture
    text: str


@dataclass(frozen=True)
class _Exchange:
    """A turn that is over: what was seen, the (A,) tokens that were written, and whether they end by themselves."""

    observation: Observation
    response: NDArray[np.int64]
    ended: bool


@dataclass
class Conversation:
    """The turns of one episode, from which each next prompt is made.

    Attributes:
        chat: the policy's prompts.
        system: the system message; "" for none.
        shown: how many turns a prompt shows at most, the present one included; ``None`` for all.
    """

    chat: Chat
    system: str
    shown: int | None
    _past: list[_Exchange] = field(default_factory=list)
    _now: Observation | None = None
    _prompt: Prompt | None = None

    def observe(self, observation: Observation) -> tuple[Prompt, tuple[Picture, ...]]:
        """The prompt of the next turn and its images."""
        self._now = observation
        kept = self._past if self.shown is None else self._past[max(0, len(self._past) - self.shown + 1) :]
        if self._prompt is not None and len(kept) == len(self._past):
            self._prompt = self._follow(self._prompt, kept[-1], observation)
        else:
            self._prompt = self._begin(kept, observation)
        return self._prompt, (*(past.observation.picture for past in kept), observation.picture)

    def respond(self, response: NDArray[np.int64], ended: bool) -> None:
        """Note what was written in the present turn, and whether its last token ends it."""
        assert self._now is not None, "observations come before responses"
        self._past.append(_Exchange(self._now, response, ended))

    def _begin(self, kept: list[_Exchange], observation: Observation) -> Prompt:
        seen = [*(past.observation for past in kept), observation]
        prompt = self.chat.opening(self.system, seen[0].text, [seen[0].picture])
        for past, following in zip(kept, seen[1:], strict=True):
            prompt = self._follow(prompt, past, following)
        return prompt

    def _follow(self, prompt: Prompt, past: _Exchange, observation: Observation) -> Prompt:
        follow_up = self.chat.follow_up(observation.text, [observation.picture])
        return join(prompt, past.response, follow_up, past.ended)


def turns_shown(context: Context, window: int) -> int | None:
    """How many turns a prompt shows at most, the present one included; ``None`` for all."""
    return {"concat": None, "window": window, "no_concat": 1}[context]


def describe_task(
    world: World, strategy: Strategy, tags: Tags, representation: Representation, max_actions: int
) -> str:
    """The system message: the world's rules, its actions, the notation of states where they are asked for, the form.

    Args:
        max_actions: how many actions a response may hold.
    """
    number = "one action" if max_actions == 1 else f"1 to {max_actions} actions"
    parts = [world.rules, f"Actions: {', '.join(world.actions)}. Each response takes {number}."]
    if writes_states(strategy):
        parts.append(describe_states(representation))
    return " ".join([*parts, describe_format(strategy, tags)])


def describe_circumstances(world: World, snapshot: Snapshot, usable: bool) -> str:
    """What the agent must know and the image does not show; "" where there is nothing.

    Args:
        usable: whether the last response was.

    Raises:
        WorldFailure: an error of the world's own.
    """
    with WorldsCode():
        parts = {"mission": world.mission(snapshot), "holding": world.inventory(snapshot)}
    told = [f"{name}: {value}" for name, value in parts.items() if value]
    return ". ".join(told if usable else [UNUSABLE, *told])

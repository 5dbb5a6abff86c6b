"""Who acts: at random, by the solver, a mixture of both, or a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.cloze.sample import Sample
from vagen.mdp import Trajectory
from vagen.policy.batches import draw
from vagen.policy.chat import Chat
from vagen.policy.generate import generate
from worlds import World, WorldError
from worlds.text import read_actions


class Agent(Protocol):
    """Chooses actions for many episodes at once."""

    name: str

    def act(self, worlds: Sequence[World], generators: Sequence[np.random.Generator]) -> list[int | None]:
        """An action for each world in its present state; ``None`` where the answer was no action.

        Args:
            worlds: live worlds, not to be changed.
            generators: one per episode, so that an episode does not depend on its neighbours.
        """
        ...


class RandomAgent:
    """Uniform over all actions."""

    name = "random"

    def act(self, worlds: Sequence[World], generators: Sequence[np.random.Generator]) -> list[int | None]:
        return [int(g.integers(len(w.actions))) for w, g in zip(worlds, generators, strict=True)]


class ExpertAgent:
    """A random one of the optimal actions, or of those that a heuristic advises where the optimal ones are not known.

    Where success is out of reach (a box in a corner) or nothing is advised, it acts at random.
    """

    name = "expert"

    def act(self, worlds: Sequence[World], generators: Sequence[np.random.Generator]) -> list[int | None]:
        return [self._one(world, generator) for world, generator in zip(worlds, generators, strict=True)]

    def _one(self, world: World, generator: np.random.Generator) -> int:
        best = world.expert_actions(world.state().snapshot) or tuple(range(len(world.actions)))
        return int(generator.choice(best))


class MixtureAgent:
    """The expert, with a random action at each step with chance ``epsilon``."""

    def __init__(self, epsilon: float):
        self.epsilon = epsilon
        self.name = f"mixture({epsilon:g})"
        self._random, self._expert = RandomAgent(), ExpertAgent()

    def act(self, worlds: Sequence[World], generators: Sequence[np.random.Generator]) -> list[int | None]:
        return [
            (self._random if generator.random() < self.epsilon else self._expert).act([world], [generator])[0]
            for world, generator in zip(worlds, generators, strict=True)
        ]


class ModelAgent:
    """Asks a model the ``policy`` cloze (``o0 -> a0*``) at every step."""

    def __init__(self, chat: Chat, batch: int = 128):
        self.chat = chat
        self.batch = batch
        self.name = chat.policy.name

    def act(self, worlds: Sequence[World], generators: Sequence[np.random.Generator]) -> list[int | None]:
        samples = [self._sample(world) for world in worlds]
        prompts = [(self.chat.prompt(s, p), p) for s, p in zip(samples, draw(samples), strict=True)]
        longest = max(len(self.chat.answer_tokens(action)) for world in worlds for action in world.actions)
        answers = generate(self.chat, prompts, longest, self.batch)
        return [self._read(answer, world) for answer, world in zip(answers, worlds, strict=True)]

    def _sample(self, world: World) -> Sample:
        """The policy cloze about the present state; its answer is not needed, and may not exist."""
        pattern = named("policy")
        snapshot = world.state().snapshot
        window = Trajectory(world.id, world.split(snapshot), 0, self.name, (snapshot, snapshot), (0,), (0.0,))
        return build("policy", pattern, window, self.chat.policy.format.representation, with_answer=False)

    @staticmethod
    def _read(answer: str, world: World) -> int | None:
        actions = read_actions(answer, world.actions)
        return actions[0] if actions is not None and len(actions) == 1 else None


def make_agent(name: str, epsilon: float = 0.5) -> Agent:
    """An agent that needs no model, by name."""
    if name == "mixture":
        return MixtureAgent(epsilon)
    agents = {"random": RandomAgent, "expert": ExpertAgent}
    if name not in agents:
        raise WorldError(f"unknown behaviour {name!r}: choose random, expert or mixture")
    return agents[name]()

"""Episodes of a model, many at once: it is shown the world, writes a response, its actions are taken, and so on.

Responses are sampled as tokens and stay tokens. An episode is a function of the policy, its seed and its number in its
group; its neighbours change nothing but the last bits of sums. Whatever goes wrong inside a world ends that episode
alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vagen.config import Rollouts
from vagen.data.shards import provenance
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat, Picture
from vagen.rollout.engine import Engine, Request, Sampled
from vagen.rollout.episodes import Episode
from vagen.rollout.failures import WorldFailure
from vagen.rollout.prompts import (
    Context,
    Conversation,
    Observation,
    describe_circumstances,
    describe_task,
    turns_shown,
)
from vagen.rollout.responses import Response, Strategy, Tags, read_response
from vagen.rollout.sampling import Sampling
from vagen.rollout.turns import Rollout, Turn
from worlds import Split, World, make
from worlds.text import Representation, read_actions

_SAMPLING = 2  # tells the random numbers of responses from those of other agents


class RolloutError(ValueError):
    """Rollouts that cannot be made as asked; the message says which setting to change."""


@dataclass(frozen=True)
class Settings:
    """How episodes are played.

    Attributes:
        strategy: what a response consists of.
        representation: how states are written in it.
        context: what a prompt shows of the episode.
        window: turns that a prompt shows with context ``window``, the present one included.
        explain: whether a system message gives rules, actions, notation and form.
        tags: names of the parts of a response.
        max_actions: actions of one response; more make it unusable.
        max_turns: responses of one episode, unusable ones included.
        max_steps: actions of one episode; ``None`` leaves it to the world.
        max_length: tokens of a prompt and the longest response to it. An episode ends before a turn that might exceed
            it (truncated).
        sampling: how responses are sampled.
        split: of the layouts.
    """

    strategy: Strategy = "free_think"
    representation: Representation = "natural"
    context: Context = "concat"
    window: int = 2
    explain: bool = True
    tags: Tags = field(default_factory=Tags)
    max_actions: int = 1
    max_turns: int = 16
    max_steps: int | None = None
    max_length: int = 4096
    sampling: Sampling = field(default_factory=Sampling)
    split: Split = "train"

    def __post_init__(self) -> None:
        for name in ("window", "max_actions", "max_turns", "max_length"):
            if getattr(self, name) < 1:
                raise RolloutError(f"{name} must be at least 1, got {getattr(self, name)}")


def settings_of(chat: Chat, rollouts: Rollouts, split: Split = "train", temperature: float | None = None) -> Settings:
    """How a configuration says episodes are played, with the states and explanations of the policy's clozes.

    Args:
        temperature: instead of the configuration's.
    """
    form = chat.policy.format
    return Settings(
        strategy=rollouts.strategy,
        representation=form.representation,
        context=rollouts.context,
        window=rollouts.window,
        explain=form.explain,
        max_actions=rollouts.actions,
        max_turns=rollouts.turns,
        max_length=rollouts.length,
        sampling=Sampling(rollouts.temperature if temperature is None else temperature, max_tokens=rollouts.tokens),
        split=split,
    )


def begin_conversation(chat: Chat, world: World, settings: Settings) -> Conversation:
    """A conversation about a world, before its first turn."""
    task = ""
    if settings.explain:
        task = describe_task(world, settings.strategy, settings.tags, settings.representation, settings.max_actions)
    return Conversation(chat, task, turns_shown(settings.context, settings.window))


def rollout(
    engine: Engine, world_id: str, seeds: Sequence[int], groups: Sequence[int], settings: Settings
) -> Iterator[Rollout]:
    """Play one episode per seed and yield them in that order.

    As many as the engine has lanes are played side by side, and each that ends makes room for the next. The engine's
    session is open until the last one is yielded, so nothing may train meanwhile: take them all first.

    Args:
        seeds: of the worlds.
        groups: the group of each episode. Episodes of a group must have one seed; they differ by their number in it.

    Raises:
        RolloutError: a group with two seeds, or settings that leave no room for a single turn.
        WorldError: unknown world, or too few layouts for the split.
    """
    table = _Table(engine, world_id, settings, _jobs(seeds, groups))
    idle: Sequence[int] = range(min(engine.lanes, len(seeds)))
    delivered = 0
    with engine.session(settings.sampling):
        while delivered < len(seeds):
            engine.submit(table.ask(idle))
            while delivered in table.finished:
                yield table.finished.pop(delivered)
                delivered += 1
            answers = engine.step() if table.waiting else []
            for sampled in answers:
                table.answer(sampled)
            idle = [sampled.lane for sampled in answers]


class ConversingModel:
    """A model that plays whole conversations, with settings of its own but for the split and the steps."""

    def __init__(self, engine: Engine, settings: Settings):
        self.name = engine.chat.policy.name
        self._engine = engine
        self._settings = settings

    def play(self, world_id: str, seeds: Sequence[int], split: Split, max_steps: int | None) -> Iterator[Rollout]:
        """One episode per seed, in that order."""
        settings = replace(self._settings, split=split, max_steps=max_steps)
        return rollout(self._engine, world_id, seeds, range(len(seeds)), settings)


def read_turn(text: str, world: World, settings: Settings) -> tuple[Response | None, tuple[int, ...]]:
    """The parts of a response and its actions; ``None`` and none where it is not exactly of the form asked for."""
    response = read_response(text, settings.strategy, settings.tags)
    actions = None if response is None else read_actions(response.answer, world.actions)
    if actions is None or len(actions) > settings.max_actions:
        return None, ()
    return response, actions


@dataclass(frozen=True)
class _Job:
    """An episode to play: its number in the order of delivery, its seed, its group, its number in that."""

    number: int
    seed: int
    group: int
    member: int


def _jobs(seeds: Sequence[int], groups: Sequence[int]) -> deque[_Job]:
    seed_of: dict[int, int] = {}
    members: Counter[int] = Counter()
    jobs: deque[_Job] = deque()
    for number, (seed, group) in enumerate(zip(seeds, groups, strict=True)):
        if seed_of.setdefault(group, seed) != seed:
            raise RolloutError(f"group {group} has the seeds {seed_of[group]} and {seed}: a group begins in one state")
        jobs.append(_Job(number, seed, group, members[group]))
        members[group] += 1
    return jobs


class _Table:
    """The episodes that are being played, one per lane of the engine, and those that are to be.

    Attributes:
        finished: by their numbers, the episodes that are over.
    """

    def __init__(self, engine: Engine, world_id: str, settings: Settings, jobs: deque[_Job]):
        self.finished: dict[int, Rollout] = {}
        self._chat = engine.chat
        self._world_id = world_id
        self._settings = settings
        self._jobs = jobs
        self._versions = provenance(world_id)
        self._worlds: dict[int, World] = {}  # by lane
        self._seats: dict[int, _Seat] = {}

    @property
    def waiting(self) -> bool:
        """Whether any episode waits for a response."""
        return bool(self._seats)

    def ask(self, lanes: Iterable[int]) -> list[Request]:
        """The next request of each of some idle lanes; where an episode ends instead, another one begins at once."""
        requests = []
        for lane in lanes:
            while lane in self._seats or self._jobs:
                seat = self._seats.get(lane) or self._begin(lane)
                request = seat.ask()
                if request is not None:
                    requests.append(request)
                    break
                self._end(lane)
        return requests

    def answer(self, sampled: Sampled) -> None:
        """Take the actions of a response."""
        self._seats[sampled.lane].answer(sampled)

    def _begin(self, lane: int) -> _Seat:
        if lane not in self._worlds:
            self._worlds[lane] = make(self._world_id)
        seat = self._seats[lane] = _Seat(lane, self._jobs.popleft(), self._worlds[lane], self._chat, self._settings)
        return seat

    def _end(self, lane: int) -> None:
        seat = self._seats.pop(lane)
        if seat.error:
            del self._worlds[lane]  # who knows what state it is in
        self.finished[seat.job.number] = seat.rollout(self._versions)


class _Seat:
    """One episode while it is played.

    Attributes:
        job: what is played.
        error: where the world has failed and how; "" while it has not. The episode is over then.
    """

    def __init__(self, lane: int, job: _Job, world: World, chat: Chat, settings: Settings):
        self.job = job
        self.error = ""
        self._lane = lane
        self._world = world
        self._chat = chat
        self._settings = settings
        self._generator = np.random.default_rng([job.seed, job.member, _SAMPLING])
        self._conversation = begin_conversation(chat, world, settings)
        self._turns: list[Turn] = []
        self._usable = True  # the last response
        self._request: Request | None = None
        self._episode: Episode | None = None  # none where the world could not even be reset
        with self._at("reset"):
            self._episode = Episode.begin(world, job.seed, settings.split)

    def ask(self) -> Request | None:
        """What to write next; ``None`` where the episode is over."""
        episode = self._episode
        if episode is None or episode.over or self.error:
            return None
        if len(self._turns) == self._settings.max_turns:
            episode.truncated = True
            return None
        text = ""
        with self._at(f"step {len(episode.actions)}"):
            text = describe_circumstances(self._world, episode.snapshots[-1], self._usable)
        if self.error:
            return None
        prompt, pictures = self._conversation.observe(Observation(Picture.of(episode.frame), text))
        if int(prompt.image_of.max()) + 1 != len(pictures):
            raise RolloutError(f"{self._where()}: {len(pictures)} images for {int(prompt.image_of.max()) + 1} places")
        if not self._fits(len(prompt.ids)):
            episode.truncated = True
            return None
        self._request = Request(self._lane, prompt, pictures, self._generator)
        return self._request

    def answer(self, sampled: Sampled) -> None:
        """Take the actions of a response; one that is unusable takes a turn and does nothing."""
        assert self._request is not None, "answers come to requests"
        assert self._episode is not None, "only episodes that began ask for anything"
        text = self._chat.transcript(sampled.tokens.tolist())
        response, actions = (None, ()) if sampled.cut else read_turn(text, self._world, self._settings)
        before = len(self._episode.actions)
        for action in actions:
            with self._at(f"step {len(self._episode.actions)}, {self._world.actions[action]}"):
                self._episode.step(action, self._settings.max_steps)
            if self._episode.over or self.error:
                break
        turn = Turn(
            self._request.prompt,
            self._request.pictures,
            sampled.tokens,
            sampled.log_probs,
            text,
            response,
            tuple(self._episode.actions[before:]),
            before,
            sum(self._episode.rewards[before:]),
            sampled.cut,
        )
        self._turns.append(turn)
        self._usable = response is not None
        self._conversation.respond(sampled.tokens, not sampled.cut)

    def rollout(self, versions: Mapping[str, Any]) -> Rollout:
        """What is left of the episode."""
        name = self._chat.policy.name
        if self._episode is None:
            trajectory = Trajectory(self._world.id, self._settings.split, self.job.seed, name, (), (), ())
        else:
            trajectory = self._episode.trajectory(name, versions)
        return Rollout(trajectory, self.job.group, tuple(self._turns), self.error)

    @contextmanager
    def _at(self, place: str) -> Iterator[None]:
        """What is done at a place of the episode; where the world fails there, that is noted."""
        try:
            yield
        except WorldFailure as failure:
            self.error = f"{place}: {failure}"

    def _fits(self, prompt: int) -> bool:
        needed = prompt + self._settings.sampling.max_tokens
        if needed > self._settings.max_length and not self._turns:
            raise RolloutError(
                f"{self._where()}: the first prompt has {prompt} tokens and the longest response "
                f"{self._settings.sampling.max_tokens}: raise max_length to {needed} or more"
            )
        return needed <= self._settings.max_length

    def _where(self) -> str:
        return f"{self._world.id}, seed {self.job.seed}, turn {len(self._turns)}"

"""A cloze test, and what it is made of: windows of trajectories, counterfactual branches, states after plans.

Building one from a pattern is the business of ``build``, saying what is right that of ``truth`` and ``scoring``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vagen.cloze.grammar import ClozeError, Pattern, Slot
from vagen.mdp import Trajectory
from worlds import Snapshot, World, make
from worlds.text import Representation

YES, NO = "yes", "no"
IMPOSSIBLE = "impossible"
LABELS = "ABCDEFGHI"  # of options and of shuffled things
OUTCOMES_KEPT = 1 << 13  # outcomes of actions that are remembered


class UnaskableError(ClozeError):
    """A cloze that fits the world, and this window does not allow it; another window may."""


@lru_cache(maxsize=64)
def simulator(world: str) -> World:
    """One world per id and process, shared by everything that only asks it about snapshots."""
    return make(world)


@dataclass(frozen=True)
class Sample:
    """One cloze test.

    Attributes:
        name: the cloze's name, or its pattern where it has none.
        pattern: what is given and asked.
        window: the transitions it is about; slot times count from its start.
        representation: how states are written.
        branch: what happens where the primed actions are taken instead; ``None`` without primed slots. As long as the
            window, and the same up to the fork.
        order: for shuffled groups, which of the asked slots (0, 1, … in order of time) is shown as A, B, …
        images: snapshots whose renderings are shown, in order.
        question: the text that follows the images.
        answer: one right answer, in canonical form (there may be others: see ``scoring``).
    """

    name: str
    pattern: Pattern
    window: Trajectory
    representation: Representation
    branch: Trajectory | None = None
    order: tuple[int, ...] = ()
    images: tuple[Snapshot, ...] = ()
    question: str = ""
    answer: str = ""

    @property
    def world(self) -> World:
        return simulator(self.window.world)

    @property
    def cell(self) -> tuple[str, str]:
        """What metrics keep it by: its world and cloze."""
        return self.window.world, self.name

    @property
    def own_window(self) -> Trajectory:
        """The window without the history that is only shown."""
        return window_at(self.window, self.pattern.history, len(self.window) - self.pattern.history)

    def trajectory(self, primed: bool) -> Trajectory:
        """The window, or the counterfactual branch."""
        if not primed:
            return self.window
        assert self.branch is not None, "a pattern with primed slots has a branch"
        return self.branch

    def snapshot(self, slot: Slot) -> Snapshot:
        """The state at a slot's time."""
        return self.trajectory(slot.primed).snapshots[slot.time]

    def action(self, slot: Slot) -> int:
        return self.trajectory(slot.primed).actions[slot.time]


def write_labels(numbers: Iterable[int]) -> str:
    """Options or an order as text: ``B A C``."""
    return " ".join(LABELS[number] for number in numbers)


_LABELS = re.compile(rf"[{LABELS}](?:,? ?[{LABELS}])*")


def read_labels(text: str, options: int) -> tuple[int, ...] | None:
    """The labels that ``text`` lists, or ``None`` where a word is not one of the first ``options`` labels."""
    if _LABELS.fullmatch(text.strip()) is None:
        return None
    numbers = tuple(LABELS.index(label) for label in text if label in LABELS)
    return numbers if max(numbers) < options else None


def window_at(trajectory: Trajectory, start: int, length: int) -> Trajectory:
    """Transitions ``start`` to ``start + length`` of a trajectory, as a trajectory of its own."""
    stop = start + length
    last = stop == len(trajectory)
    return replace(
        trajectory,
        snapshots=trajectory.snapshots[start : stop + 1],
        actions=trajectory.actions[start:stop],
        rewards=trajectory.rewards[start:stop],
        frames=trajectory.frames[start : stop + 1],
        terminated=trajectory.terminated and last,
        truncated=trajectory.truncated and last,
        success=trajectory.success and last,
    )


def imagined(window: Trajectory, actions: Iterable[int] | None = None) -> Iterator[Trajectory]:
    """The window once for each last action the agent could have taken, each simulated from the same state.

    Free supervision for dynamics: the simulator knows what every action would have done.

    Args:
        actions: which last actions, in order; all of them by default.
    """
    world = simulator(window.world)
    for action in range(len(world.actions)) if actions is None else actions:
        if action == window.actions[-1]:
            yield window
            continue
        world.restore(window.snapshots[-2])
        _, reward, terminated, truncated, info = world.step(action)  # type: ignore[arg-type]
        yield replace(
            window,
            snapshots=(*window.snapshots[:-1], world.state().snapshot),
            actions=(*window.actions[:-1], action),
            rewards=(*window.rewards[:-1], float(reward)),
            frames=window.frames[:-1],
            terminated=terminated,
            truncated=truncated,
            success=bool(info["success"]),
        )


def counterfactual(window: Trajectory, actions: Sequence[int]) -> Trajectory:
    """What happens from the window's first state where ``actions`` are taken instead.

    Raises:
        UnaskableError: the world ends before all are taken.
    """
    world = simulator(window.world)
    world.restore(window.snapshots[0])
    snapshots, rewards = [window.snapshots[0]], []
    terminated = truncated = success = False
    for action in actions:
        if terminated:
            raise UnaskableError("the counterfactual branch ends before its last action")
        _, reward, terminated, truncated, info = world.step(action)  # type: ignore[arg-type]
        snapshots.append(world.state().snapshot)
        rewards.append(float(reward))
        success = bool(info["success"])
    return replace(
        window,
        snapshots=tuple(snapshots),
        actions=tuple(actions),
        rewards=tuple(rewards),
        frames=window.frames[:1],
        terminated=terminated,
        truncated=truncated,
        success=success,
    )


def execute(world: World, snapshot: Snapshot, actions: Sequence[int]) -> list[Snapshot] | None:
    """The states after each of ``actions``, from ``snapshot``; ``None`` if the world ends before all are taken."""
    states = []
    for action in actions:
        after = outcome(world, snapshot, action)
        if after is None:
            return None
        snapshot = after.snapshot
        states.append(snapshot)
    return states


@dataclass(frozen=True)
class Outcome:
    """What one action leads to: the state, the reward, and whether the world ends there."""

    snapshot: Snapshot
    reward: float
    terminated: bool


def outcome(world: World, snapshot: Snapshot, action: int) -> Outcome | None:
    """What an action leads to; ``None`` from where the world has ended. Remembered where nothing is left to chance."""
    text = json.dumps(snapshot)
    return _remembered(world, text, action) if world.deterministic else _outcome(world, text, action)


def _outcome(world: World, snapshot: str, action: int) -> Outcome | None:
    world.restore(json.loads(snapshot))
    if world.terminated:
        return None
    _, reward, terminated, _, _ = world.step(action)  # type: ignore[arg-type]
    return Outcome(world.state().snapshot, float(reward), terminated)


_remembered = lru_cache(maxsize=OUTCOMES_KEPT)(_outcome)

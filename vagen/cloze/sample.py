"""Cloze samples: a pattern applied to a window of a trajectory, written out as images, a question and an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vagen.cloze.grammar import ClozeError, Pattern, Slot
from vagen.mdp import Trajectory
from worlds import Snapshot, World, make
from worlds.text import Representation, write_actions, write_facts

YES, NO = "yes", "no"


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
        images: snapshots whose renderings are shown, in order.
        question: the text that follows the images.
        answer: one right answer, in canonical form (there may be others: see ``scoring``).
    """

    name: str
    pattern: Pattern
    window: Trajectory
    representation: Representation
    images: tuple[Snapshot, ...]
    question: str
    answer: str

    @property
    def world(self) -> World:
        return simulator(self.window.world)


def build(
    name: str, pattern: Pattern, window: Trajectory, representation: Representation, with_answer: bool = True
) -> Sample:
    """Apply a pattern to a window of at least ``pattern.length`` transitions.

    Args:
        with_answer: off to only ask, as an agent does in a state whose answer nobody knows; ``answer`` is then "".

    Raises:
        ClozeError: the window is too short, the world does not determine the answer, or an optimal action is asked
            where there is none.
    """
    if len(window) < pattern.length:
        raise ClozeError(f"cloze {name!r} needs {pattern.length} transitions, the window has {len(window)}")
    check_answerable(name, pattern, simulator(window.world))
    return Sample(
        name,
        pattern,
        window,
        representation,
        images=tuple(window.snapshots[slot.time] for slot in pattern.images),
        question=_question(pattern, window, representation),
        answer=_answer(pattern, window, representation) if with_answer else "",
    )


def check_answerable(name: str, pattern: Pattern, world: World) -> None:
    """Refuse what a world's visible facts do not determine: accuracy would measure luck."""
    asked = pattern.asked[0]
    if pattern.task == "reward" and not world.visible_reward:
        raise ClozeError(f"cloze {name!r}: slot {asked}: in {world.id} the reward depends on what cannot be seen")
    if not world.deterministic and (pattern.dynamics or pattern.task == "policy"):
        raise ClozeError(f"cloze {name!r}: slot {asked}: {world.id} is random, which this version cannot score")


def window_at(trajectory: Trajectory, start: int, length: int) -> Trajectory:
    """Transitions ``start`` to ``start + length`` of a trajectory, as a trajectory of its own."""
    stop = start + length
    last = stop == len(trajectory)
    return replace(
        trajectory,
        snapshots=trajectory.snapshots[start : stop + 1],
        actions=trajectory.actions[start:stop],
        rewards=trajectory.rewards[start:stop],
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
            terminated=terminated,
            truncated=truncated,
            success=bool(info["success"]),
        )


def describe_notation(world: World, representation: Representation) -> str:
    """What a model that has never seen a cloze must be told besides the world's rules."""
    return (
        "An image at time t shows the world before action t; action t leads to time t + 1. "
        f"Actions: {', '.join(world.actions)}. {_STATE_FORMATS[representation]} "
        "Answer with what is asked and nothing else."
    )


_STATE_FORMATS: dict[Representation, str] = {
    "natural": "A state is written 'kind x y detail, x y; kind x y', kinds in their usual order, things row by row.",
    "json": 'A state is written as JSON: {"kind": [[x, y, "detail"], ...], ...}.',
    "grid": "A state is written as one line per row and one word per cell.",
}


def _question(pattern: Pattern, window: Trajectory, representation: Representation) -> str:
    parts = []
    times = [slot.time for slot in pattern.images]
    if times and times != list(range(len(times))):
        parts.append(f"images {' '.join(map(str, times))}")
    parts += [
        f"{_NOUNS[slot.kind]} {slot.time}: {_value(slot, window, representation)}"
        for slot in pattern.given
        if slot.kind != "o"
    ]
    noun = "best action" if pattern.task == "policy" else _NOUNS[pattern.asked[0].kind]
    parts.append(f"{noun} {' '.join(str(slot.time) for slot in pattern.asked)}?")
    return ". ".join(parts)


_NOUNS = {"s": "state", "a": "action", "r": "reward", "d": "end"}


def _value(slot: Slot, window: Trajectory, representation: Representation) -> str:
    world = simulator(window.world)
    match slot.kind:
        case "s":
            return write_facts(world.facts(window.snapshots[slot.time]), world.schema, representation)
        case "a":
            return write_actions([window.actions[slot.time]], world.actions)
        case "r":
            return write_reward(window.rewards[slot.time])
        case _:
            return YES if window.transition(slot.time).terminated else NO


def _answer(pattern: Pattern, window: Trajectory, representation: Representation) -> str:
    world = simulator(window.world)
    if pattern.task == "policy":
        best = world.optimal_actions(window.snapshots[pattern.asked[0].time])
        if not best:
            raise ClozeError(
                f"slot {pattern.asked[0]}: no action is optimal here, the goal is reached or out of reach"
            )
        return write_actions([best[0]], world.actions)
    if pattern.task == "actions":
        return write_actions([window.actions[slot.time] for slot in pattern.asked], world.actions)
    return _value(pattern.asked[0], window, representation)


def write_reward(reward: float) -> str:
    """A reward as it is asked and answered: two decimals, no trailing zeros."""
    return f"{reward:.2f}".rstrip("0").rstrip(".")


def execute(world: World, snapshot: Snapshot, actions: Sequence[int]) -> list[Snapshot] | None:
    """The states after each of ``actions``, from ``snapshot``; ``None`` if the world ends before all are taken."""
    world.restore(snapshot)
    states = []
    for number, action in enumerate(actions):
        _, _, terminated, _, _ = world.step(action)  # type: ignore[arg-type]
        if terminated and number < len(actions) - 1:
            return None
        states.append(world.state().snapshot)
    return states

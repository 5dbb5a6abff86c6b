"""Which window of a trajectory to ask about: the same for training and evaluation.

Most transitions of an episode are alike, and many change nothing. Drawn as they come, they would teach and measure
little, so they are drawn by stratum: what changes (only the agent; agent and box; nothing …), or what is answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vagen.cloze.build import write_reward
from vagen.cloze.grammar import Pattern
from vagen.cloze.sample import Sample, simulator, window_at
from vagen.mdp import Trajectory
from worlds import Facts

Event = tuple[str, ...]  # the kinds of things that a transition changes, sorted; () where nothing visible changes


@dataclass(frozen=True)
class Strata:
    """How windows are drawn.

    Attributes:
        idle: share of windows whose first transition changes nothing visible, where there are such and others.
        balance: draw the kind of event first and then a transition of it, so that rare events are not rare.
    """

    idle: float = 0.1
    balance: bool = True


def event(before: Facts, after: Facts) -> Event:
    """What kind of thing a transition changes."""
    return tuple(sorted({thing.kind for thing in before.things ^ after.things}))


def events(trajectory: Trajectory) -> list[Event]:
    """The event of each transition."""
    facts = [simulator(trajectory.world).facts(snapshot) for snapshot in trajectory.snapshots]
    return [event(before, after) for before, after in pairwise(facts)]


def changes(sample: Sample) -> bool:
    """Whether anything that can be seen changes in the window of a sample, or in the branch where that is asked."""
    trajectory = sample.trajectory(sample.pattern.asked[0].primed)
    own = trajectory.snapshots[sample.pattern.history :]
    first, *others = (sample.world.facts(snapshot) for snapshot in own)
    return any(facts != first for facts in others)


def event_shares(samples: Sequence[Sample]) -> dict[str, float]:
    """The share of samples by what kinds of things their first transition changes, as in "agent box"."""
    counts: Counter[Event] = Counter((*events(window_at(sample.own_window, 0, 1)), ())[0] for sample in samples)
    return {" ".join(kinds): count / len(samples) for kinds, count in sorted(counts.items())}


def choose_start(
    trajectory: Trajectory, starts: Sequence[int], strata: Strata, generator: np.random.Generator
) -> int | None:
    """One of ``starts``, by the event of the transition that begins there; ``None`` where there are none."""
    if not len(starts):
        return None
    happened = events(trajectory)
    groups: defaultdict[Event, list[int]] = defaultdict(list)
    for start in starts:
        groups[happened[start] if start < len(happened) else ()].append(start)
    idle = groups.pop((), [])
    if idle and (not groups or generator.random() < strata.idle):
        return int(generator.choice(idle))
    kinds = sorted(groups)
    if strata.balance:
        return int(generator.choice(groups[kinds[generator.integers(len(kinds))]]))
    return int(generator.choice([start for kind in kinds for start in groups[kind]]))


def choose_window(
    trajectory: Trajectory, pattern: Pattern, strata: Strata, generator: np.random.Generator
) -> int | None:
    """Where in a trajectory to apply a pattern; ``None`` if nowhere.

    Rewards and terminations are drawn by their value first: else nearly all answers would be the usual one. What is
    about one moment, such as reading a state, is asked anywhere.
    """
    starts = range(len(trajectory) - max(1, pattern.length) + 1)
    if pattern.task in ("reward", "termination"):
        values: defaultdict[Hashable, list[int]] = defaultdict(list)
        for start in starts:
            values[_value(trajectory, pattern, start)].append(start)
        if not values:
            return None
        chosen = sorted(values, key=str)[generator.integers(len(values))]
        return int(generator.choice(values[chosen]))
    if pattern.dynamics:
        return choose_start(trajectory, starts, strata, generator)
    return int(generator.choice(starts)) if len(starts) else None


def _value(trajectory: Trajectory, pattern: Pattern, start: int) -> Hashable:
    time = start + pattern.asked[0].time
    if pattern.task == "termination":
        return trajectory.transition(time).terminated
    return write_reward(trajectory.rewards[time])

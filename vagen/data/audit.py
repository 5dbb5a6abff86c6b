"""What folders of shards hold, and whether it is true: ``vagen data check`` and ``vagen data stats``.

A check reads every shard whole, compares every frame that can be compared, and plays every episode again from its
first state: the simulator of today must come by the same states, rewards and endings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from vagen.cloze.sample import simulator
from vagen.cloze.windows import event
from vagen.data.frames import FrameError, decode_frame
from vagen.data.places import DataError, Place
from vagen.data.shards import Manifest, read_manifest, read_shard, read_trajectories
from vagen.mdp import Trajectory
from vagen.progress import Progress
from worlds import World, WorldError

PROBLEMS_KEPT = 20  # per place; all are counted
Seen = tuple[int, int, int]  # hash of the facts before, action, hash of the facts after: equal within one process

# --------------------------------------------------------------------------------------------------------------- check


@dataclass
class Check:
    """What is wrong with one place.

    Attributes:
        place: its address.
        world: of its trajectories; "" where its manifest cannot be read.
        shards, trajectories, frames, transitions: how much was checked.
        count: how many problems there are.
        problems: the first of them, in words.
    """

    place: str
    world: str = ""
    shards: int = 0
    trajectories: int = 0
    frames: int = 0
    transitions: int = 0
    count: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.count

    def report(self, problem: str) -> None:
        self.count += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def check(places: Sequence[Place], cache: Path) -> list[Check]:
    """Check everything that can be checked, and go on after what is wrong."""
    return [_check_place(place, cache) for place in places]


def _check_place(place: Place, cache: Path) -> Check:
    result = Check(str(place))
    try:
        manifest = read_manifest(place)
    except DataError as error:
        result.report(str(error))
        return result
    result.world = manifest.world
    world, layouts = simulator(manifest.world), set()
    with Progress(manifest.trajectories, f"check {place}", "trajectories") as progress:
        for index, shard in enumerate(manifest.shards):
            try:
                trajectories = read_shard(place, manifest, index, cache)
            except DataError as error:
                result.report(str(error))
                trajectories = []
            result.shards += bool(trajectories)
            for number, trajectory in enumerate(trajectories):
                where = f"{place.file(shard.file)}, trajectory {number} (seed {trajectory.seed})"
                for problem in _problems(world, manifest, trajectory):
                    result.report(f"{where}: {problem}")
                layouts.add(world.key(trajectory.snapshots[0]))
                result.trajectories += 1
                result.transitions += len(trajectory)
                result.frames += max(1, len(trajectory.frames))
            progress.update(shard.trajectories)
    if not result.count and (len(layouts), result.transitions) != (manifest.layouts, manifest.transitions):
        found = f"{len(layouts)} layouts and {result.transitions} transitions"
        result.report(f"{place}: there are {found}, its manifest says otherwise")
    return result


def _problems(world: World, manifest: Manifest, trajectory: Trajectory) -> Iterator[str]:
    """What is wrong with one trajectory, besides its first frame, whose hash is checked when it is read."""
    if (split := world.split(trajectory.snapshots[0])) != trajectory.split or split != manifest.split:
        yield f"its layout belongs to the {split} split, it says {trajectory.split}, and its manifest {manifest.split}"
    yield from _replay(world, trajectory)


def _replay(world: World, trajectory: Trajectory) -> Iterator[str]:
    """Where the simulator goes another way than the trajectory says; nothing is compared after that."""
    try:
        world.restore(trajectory.snapshots[0])
        yield from _other_frame(world, trajectory, 0)
        for t, action in enumerate(trajectory.actions):
            step = trajectory.transition(t)
            if not 0 <= action < len(world.actions):
                yield f"action {t} is {action}, which {world.id} does not have"
                return
            _, reward, terminated, _, info = world.step(np.int64(action))
            if world.state().snapshot != step.after:
                yield f"action {t} leads to another state when it is taken again"
                return
            if (float(reward), bool(terminated)) != (step.reward, step.terminated):
                ends = "ends" if terminated else "does not end"
                yield f"action {t} pays {reward:g} and {ends} the world, and it says otherwise"
                return
            yield from _other_frame(world, trajectory, t + 1)
    except WorldError as error:
        yield str(error)
        return
    if len(trajectory) and bool(info["success"]) != trajectory.success:
        yield f"it says success is {trajectory.success}, and is not right"


def _other_frame(world: World, trajectory: Trajectory, t: int) -> Iterator[str]:
    if not trajectory.frames:
        return
    try:
        stored = decode_frame(trajectory.frames[t])
    except FrameError as error:
        yield f"frame {t} is {error}"
        return
    if not np.array_equal(stored, world.render()):
        yield f"frame {t} is another than is drawn today"


# --------------------------------------------------------------------------------------------------------------- stats


@dataclass(frozen=True)
class Stats:
    """What one place holds.

    Attributes:
        place, world, split, behaviour, seed: where it is and how it was made.
        trajectories, transitions, layouts, bytes: how much there is.
        steps: mean length of an episode.
        success, terminated, truncated: shares of episodes.
        effective: share of transitions that change what can be seen.
        distinct: share of transitions that no other repeats: states before and after by their facts, and the action.
        actions: share of each action.
        events: share of each kind of change, such as "agent box"; "nothing" where nothing visible changes.
        rewards: share of each reward.
    """

    place: str
    world: str
    split: str
    behaviour: str
    seed: int
    trajectories: int
    transitions: int
    layouts: int
    bytes: int
    steps: float
    success: float
    terminated: float
    truncated: float
    effective: float
    distinct: float
    actions: dict[str, float]
    events: dict[str, float]
    rewards: dict[str, float]


@dataclass(frozen=True)
class Overlap:
    """What two places of one world share: how much of ``first`` is also in ``second``.

    Attributes:
        first, second: addresses.
        layouts: share of the first's layouts.
        transitions: share of the first's transitions, as far as they can be seen.
    """

    first: str
    second: str
    layouts: float
    transitions: float


@dataclass(frozen=True)
class _Contents:
    """What of a place is compared with others."""

    world: str
    layouts: frozenset[str]
    transitions: Counter[Seen]


def stats(places: Sequence[Place], cache: Path) -> tuple[list[Stats], list[Overlap]]:
    """Count what is there, and what places of the same world share.

    Raises:
        DataError: one cannot be read.
    """
    rows, contents = [], []
    for place in places:
        row, content = _stats_of(place, cache)
        rows.append(row)
        contents.append(content)
    overlaps = []
    for (one, first), (two, second) in combinations(zip(rows, contents, strict=True), 2):
        if first.world == second.world:
            overlaps += [_overlap(one.place, first, two.place, second), _overlap(two.place, second, one.place, first)]
    return rows, overlaps


def _stats_of(place: Place, cache: Path) -> tuple[Stats, _Contents]:
    manifest = read_manifest(place)
    world = simulator(manifest.world)
    layouts: set[str] = set()
    transitions: Counter[Seen] = Counter()
    events: Counter[str] = Counter()
    rewards: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for trajectory in read_trajectories(place, cache):
        layouts.add(world.key(trajectory.snapshots[0]))
        facts = [world.facts(snapshot) for snapshot in trajectory.snapshots]
        events.update(" ".join(event(before, after)) or "nothing" for before, after in pairwise(facts))
        seen = list(map(hash, facts))  # kept in place of facts, which take much memory
        transitions.update(zip(seen[:-1], trajectory.actions, seen[1:], strict=True))
        rewards.update(f"{reward:g}" for reward in trajectory.rewards)
        ends.update(
            {"success": trajectory.success, "terminated": trajectory.terminated, "truncated": trajectory.truncated}
        )
    actions = Counter(action for _, action, _ in transitions.elements())
    n = max(1, transitions.total())
    row = Stats(
        place=str(place),
        world=manifest.world,
        split=manifest.split,
        behaviour=manifest.behaviour,
        seed=manifest.seed,
        trajectories=manifest.trajectories,
        transitions=manifest.transitions,
        layouts=len(layouts),
        bytes=sum(shard.bytes for shard in manifest.shards),
        steps=manifest.transitions / manifest.trajectories,
        success=ends["success"] / manifest.trajectories,
        terminated=ends["terminated"] / manifest.trajectories,
        truncated=ends["truncated"] / manifest.trajectories,
        effective=1 - events["nothing"] / n,
        distinct=len(transitions) / n,
        actions={word: actions[number] / n for number, word in enumerate(world.actions)},
        events=_shares(events),
        rewards=_shares(rewards),
    )
    return row, _Contents(manifest.world, frozenset(layouts), transitions)


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: count / counts.total() for name, count in counts.most_common()}


def _overlap(one: str, first: _Contents, two: str, second: _Contents) -> Overlap:
    shared = sum(count for transition, count in first.transitions.items() if transition in second.transitions)
    return Overlap(
        one, two, len(first.layouts & second.layouts) / len(first.layouts), shared / max(1, first.transitions.total())
    )


def check_table(rows: Sequence[Check]) -> str:
    """The checks as text, a line per place and per problem."""
    lines = []
    for row in rows:
        verdict = "ok" if row.passed else f"{row.count} PROBLEMS"
        lines.append(
            f"{row.place}: {verdict} ({row.shards} shards, {row.trajectories} trajectories, {row.transitions} "
            f"transitions played again, {row.frames} frames compared)"
        )
        lines += [f"    {problem}" for problem in row.problems]
        if row.count > len(row.problems):
            lines.append(f"    and {row.count - len(row.problems)} more")
    return "\n".join(lines)


def stats_table(rows: Sequence[Stats], overlaps: Sequence[Overlap]) -> str:
    """The statistics as text."""
    lines = []
    for row in rows:
        lines += [
            f"{row.place}",
            f"    {row.world}, {row.split} split, {row.behaviour}, seed {row.seed}; {row.bytes / 1e3:.0f} kB",
            f"    {row.trajectories} trajectories, {row.transitions} transitions, {row.layouts} layouts, "
            f"{row.steps:.1f} steps each",
            f"    success {row.success:.3f}, terminated {row.terminated:.3f}, truncated {row.truncated:.3f}; "
            f"effective {row.effective:.3f}, distinct {row.distinct:.3f}",
            f"    actions  {_listed(row.actions)}",
            f"    events   {_listed(row.events)}",
            f"    rewards  {_listed(row.rewards)}",
        ]
    lines += [
        f"of {overlap.first}, {overlap.second} holds {overlap.layouts:.3f} of the layouts and "
        f"{overlap.transitions:.3f} of the transitions"
        for overlap in overlaps
    ]
    return "\n".join(lines)


def _listed(shares: dict[str, float], most: int = 8) -> str:
    shown = [f"{name} {share:.3f}" for name, share in list(shares.items())[:most]]
    return ", ".join([*shown, *([f"and {len(shares) - most} more"] if len(shares) > most else [])])

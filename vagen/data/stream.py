"""The stream of training groups: a pure function of (configuration, seed, number).

Every training row is a *group*: all clozes about one window of one trajectory, so that they can share their images.
Group ``n`` is the same whoever asks for it, on whatever rank or worker, before or after a restart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from vagen.cloze.grammar import Pattern, named
from vagen.cloze.sample import Sample, build, imagined, simulator, window_at
from vagen.config import Clozes
from vagen.data.shards import DataError, read_manifest, read_shard
from vagen.mdp import Trajectory

IDLE_SHARE = 0.1  # of windows whose first transition changes nothing that can be seen


@dataclass(frozen=True)
class Group:
    """Clozes about one window; ``weights[i]`` scales the loss of ``samples[i]``."""

    samples: tuple[Sample, ...]
    weights: tuple[float, ...]


class TrajectoryStore:
    """Trajectories of one folder of shards by number, reshuffled every epoch; keeps few shards in memory."""

    def __init__(self, folder: Path, seed: Sequence[int]):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._seed = tuple(seed)
        self._shard = lru_cache(maxsize=2)(lambda index: read_shard(folder, self.manifest.shards[index]))
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def trajectory(self, number: int) -> Trajectory:
        """The ``number``-th trajectory of an endless walk that sees each exactly once per epoch."""
        epoch, place = divmod(number, self.manifest.trajectories)
        shard, index = self._order(epoch)[place]
        return self._shard(shard)[index]

    def _epoch_order(self, epoch: int) -> list[tuple[int, int]]:
        """(shard, index) pairs: shards in random order, and random order within each, so reading stays local."""
        generator = np.random.default_rng([*self._seed, epoch])
        return [
            (int(shard), int(index))
            for shard in generator.permutation(len(self.manifest.shards))
            for index in generator.permutation(self.manifest.shards[shard].trajectories)
        ]


class ClozeStream:
    """Groups by number, drawn in turn from each folder of shards; a world with a share of 2 gets two turns.

    Raises:
        DataError: no folders, or one that cannot be read.
        ClozeError: a cloze that cannot be built.
    """

    def __init__(
        self, folders: Sequence[str | Path], clozes: Clozes, seed: int, shares: Mapping[str, int] | None = None
    ):
        if not folders:
            raise DataError("no shards given: set `shards` to folders made by `vagen collect`")
        self.clozes = clozes
        self.seed = seed
        self.patterns: dict[str, Pattern] = {name: named(name) for name in clozes.weights}
        self.stores = [TrajectoryStore(Path(folder), (seed, index)) for index, folder in enumerate(folders)]
        for store in self.stores:
            if store.manifest.split != "train":
                raise DataError(
                    f"{store.folder} holds the {store.manifest.split} split; train on the train split only"
                )

        shares = shares or {}
        if unknown := set(shares) - set(self.worlds):
            raise DataError(f"shares name {min(unknown)!r}, which is not among the shards' worlds")
        #: One cycle of turns: which store, and how often it had its turn before in this cycle.
        self._cycle = [
            (which, turn)
            for which, store in enumerate(self.stores)
            for turn in range(shares.get(store.manifest.world, 1))
        ]

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds of the shards, each once, in order."""
        return tuple(dict.fromkeys(store.manifest.world for store in self.stores))

    def group(self, number: int) -> Group:
        """Group ``number`` of the endless stream."""
        cycle, place = divmod(number, len(self._cycle))
        which, turn = self._cycle[place]
        turns = sum(store == which for store, _ in self._cycle)
        trajectory = self.stores[which].trajectory(cycle * turns + turn)
        start = _choose_start(trajectory, np.random.default_rng([self.seed, number]))
        pairs = [
            (build(name, pattern, window, self.clozes.representation), self.clozes.weights[name])
            for name, pattern in self.patterns.items()
            for window in self._windows(pattern, trajectory, start)
        ]
        return Group(tuple(sample for sample, _ in pairs), tuple(weight for _, weight in pairs))

    def share(self, step: int, rows: int, rank: int, ranks: int) -> list[Group]:
        """The groups of one step that fall to one rank; their union over ranks does not depend on ``ranks``."""
        return [self.group(step * rows + row) for row in range(rank, rows, ranks)]

    def _windows(self, pattern: Pattern, trajectory: Trajectory, start: int) -> Sequence[Trajectory]:
        """The windows a pattern is applied to: none where it does not fit, several where actions are imagined."""
        if start + pattern.length > len(trajectory):
            return ()
        window = window_at(trajectory, start, pattern.length)
        if pattern.task == "policy":
            world = simulator(window.world)
            return (window,) if world.optimal_actions(window.snapshots[pattern.asked[0].time]) else ()
        if not (self.clozes.imagined and pattern.dynamics):
            return (window,)
        if pattern.task != "actions":
            return tuple(imagined(window))
        # Only outcomes that can be seen tell which action it was.
        facts = simulator(window.world).facts
        telling = tuple(w for w in imagined(window) if facts(w.snapshots[-1]) != facts(w.snapshots[-2]))
        return telling or (window,)


def _choose_start(trajectory: Trajectory, generator: np.random.Generator) -> int:
    """A transition of the trajectory, drawn so that rare events are not rare.

    Transitions are grouped by the kinds of things they change (only the agent; agent and box; nothing …). A group is
    drawn first, then a transition of it; the group that changes nothing is drawn one time in ten at most.
    """
    facts = [simulator(trajectory.world).facts(snapshot) for snapshot in trajectory.snapshots]
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for start, (before, after) in enumerate(pairwise(facts)):
        groups[tuple(sorted({thing.kind for thing in before.things ^ after.things}))].append(start)
    idle = groups.pop((), [])
    if idle and (not groups or generator.random() < IDLE_SHARE):
        return int(generator.choice(idle))
    kinds = sorted(groups)
    return int(generator.choice(groups[kinds[generator.integers(len(kinds))]]))

"""The stream of training groups: a pure function of (configuration, seed, number).

Every training row is a *group*: all clozes about one window of one trajectory, so that they can share their images.
Group ``n`` is the same whoever asks for it, on whatever rank or worker, before or after a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vagen.cloze.build import build, check_answerable
from vagen.cloze.grammar import Pattern, named
from vagen.cloze.sample import Sample, UnaskableError, imagined, simulator, window_at
from vagen.cloze.windows import Strata, choose_start
from vagen.config import Clozes
from vagen.data.shards import DataError, read_manifest, read_shard
from vagen.mdp import Trajectory

K = TypeVar("K")
T = TypeVar("T")
KEPT = 2  # shards, and orders of epochs, a store keeps in memory
GROUP_TRIES = 100  # trajectories tried before it is said that no cloze fits any of them


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
        self._shards: OrderedDict[int, list[Trajectory]] = OrderedDict()
        self._orders: OrderedDict[int, list[tuple[int, int]]] = OrderedDict()

    def trajectory(self, number: int) -> Trajectory:
        """The ``number``-th trajectory of an endless walk that sees each exactly once per epoch."""
        epoch, place = divmod(number, self.manifest.trajectories)
        shard, index = recall(self._orders, epoch, lambda: self._epoch_order(epoch), KEPT)[place]
        return recall(self._shards, shard, lambda: read_shard(self.folder, self.manifest, shard), KEPT)[index]

    def _epoch_order(self, epoch: int) -> list[tuple[int, int]]:
        """(shard, index) pairs: shards in random order, and random order within each, so reading stays local."""
        generator = np.random.default_rng([*self._seed, epoch])
        return [
            (int(shard), int(index))
            for shard in generator.permutation(len(self.manifest.shards))
            for index in generator.permutation(self.manifest.shards[shard].trajectories)
        ]


def recall(kept: OrderedDict[K, T], key: K, make: Callable[[], T], limit: int) -> T:
    """The value of ``key``, made anew unless it is among the ``limit`` last used (an LRU cache, picklable)."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > limit:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


class ClozeStream:
    """Groups by number, drawn in turn from each folder of shards; a world with a share of 2 gets two turns.

    Args:
        length: groups in the whole training, of which ``clozes.begin`` gives shares.

    Raises:
        DataError: no folders, or one that cannot be read.
        ClozeError: a cloze that cannot be built.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        clozes: Clozes,
        seed: int,
        shares: Mapping[str, int] | None = None,
        length: int = 0,
    ):
        if not clozes.weights:
            raise DataError("no clozes given: set `clozes.weights`")
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

        for name, pattern in self.patterns.items():
            for world in self.worlds:
                check_answerable(name, pattern, simulator(world))
        if unknown := set(clozes.begin) - set(self.patterns):
            raise DataError(f"clozes.begin names {min(unknown)!r}, which is not among clozes.weights")
        self._first = {name: round(clozes.begin.get(name, 0) * length) for name in self.patterns}
        if min(self._first.values()) > 0:
            raise DataError("clozes.begin leaves nothing to ask at the start: let one cloze begin at 0")
        self._strata = Strata(clozes.sampling.idle, clozes.sampling.balance)
        self._shortest = min(max(1, pattern.length) for pattern in self.patterns.values())
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
        generator = np.random.default_rng([self.seed, number])
        for attempt in range(GROUP_TRIES):  # where no cloze fits (an episode too short, a state without a way on)
            trajectory = self.stores[which].trajectory(cycle * turns + turn + attempt)
            if group := self._group_of(trajectory, number, generator):
                return group
        folder, names = self.stores[which].folder, ", ".join(self.patterns)
        raise DataError(f"{folder}: none of {GROUP_TRIES} trajectories has room for any of the clozes {names}")

    def _group_of(self, trajectory: Trajectory, number: int, generator: np.random.Generator) -> Group | None:
        """A group about a random window of a trajectory; ``None`` if no cloze fits it."""
        start = choose_start(trajectory, range(len(trajectory) - self._shortest + 1), self._strata, generator)
        if start is None:
            return None
        pairs = [
            (sample, self.clozes.weights[name])
            for name, pattern in self.patterns.items()
            if number >= self._first[name]
            for window in self._windows(pattern, trajectory, start, generator)
            if (sample := self._sample(name, pattern, window)) is not None
        ]
        return Group(tuple(sample for sample, _ in pairs), tuple(weight for _, weight in pairs)) if pairs else None

    def _sample(self, name: str, pattern: Pattern, window: Trajectory) -> Sample | None:
        try:
            return build(name, pattern, window, self.clozes.representation)
        except UnaskableError:
            return None

    def share(self, step: int, rows: int, rank: int, ranks: int) -> list[Group]:
        """The groups of one step that fall to one rank; their union over ranks does not depend on ``ranks``."""
        return [self.group(step * rows + row) for row in range(rank, rows, ranks)]

    def _windows(
        self, pattern: Pattern, trajectory: Trajectory, start: int, generator: np.random.Generator
    ) -> Sequence[Trajectory]:
        """The windows a pattern is applied to: none where it does not fit, several where actions are imagined."""
        if start + pattern.length > len(trajectory):
            return ()
        window = window_at(trajectory, start, pattern.length)
        if not (self.clozes.imagined and pattern.dynamics) or pattern.task == "order" or pattern.choices:
            return (window,)
        world = simulator(window.world)
        if pattern.task != "actions":
            others = [a for a in range(len(world.actions)) if a != window.actions[-1]]
            chosen = generator.permutation(others)[: self.clozes.imagined]
            return tuple(imagined(window, [window.actions[-1], *map(int, chosen)]))
        if pattern.asked[-1].time < pattern.length - 1:
            return (window,)
        # Only outcomes that can be seen tell which action it was.
        telling = tuple(w for w in imagined(window) if world.facts(w.snapshots[-1]) != world.facts(w.snapshots[-2]))
        return telling or (window,)

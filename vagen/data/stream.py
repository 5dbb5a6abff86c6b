"""The stream of training groups: a pure function of (configuration, seed, number).

A *group* is all clozes about one window of one trajectory, so that they can share their images. With a history, the
window is longer, and clozes are asked after each of its images, with all images before.
Group ``n`` is the same whoever asks for it, on whatever rank or worker, before or after a restart.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from vagen.cloze.build import build, check_answerable
from vagen.cloze.grammar import Pattern, named, with_history
from vagen.cloze.sample import Sample, UnaskableError, imagined, simulator, window_at
from vagen.cloze.windows import Strata, choose_start
from vagen.config import Clozes, Data, Source
from vagen.data.examples import Example
from vagen.data.mixture import Turns, moments, weight_at
from vagen.data.places import DataError, Place, places
from vagen.data.shards import CorruptShardError, missing_shards, read_manifest, read_shard
from vagen.mdp import Trajectory

K = TypeVar("K")
S = TypeVar("S", bound=Sample | Example, covariant=True)
T = TypeVar("T")
KEPT = 2  # shards, and orders of epochs, a store keeps in memory
GROUP_TRIES = 100  # trajectories tried before it is said that no cloze fits any of them


@dataclass(frozen=True)
class Group(Generic[S]):
    """Clozes about one window, or questions about one set of images; ``weights[i]`` scales ``samples[i]``'s loss."""

    samples: tuple[S, ...]
    weights: tuple[float, ...]


class TrajectoryStore:
    """Trajectories of one place by number, reshuffled every epoch; keeps few shards in memory.

    Args:
        place: where the shards are.
        seed: decides the order.
        data: where copies are kept, and what to do about a shard that is damaged or gone. One that is skipped is stood
            in for by another, chosen for this epoch: a function of the seed and of which shards are whole, so every
            process goes on with the same data. The first is said on standard error.
    """

    def __init__(self, place: Place, seed: Sequence[int], data: Data = Data()):  # noqa: B008 - it cannot be changed
        self.place = place
        self.manifest = read_manifest(place)
        self.skipped: dict[int, str] = {}  # the shards that were found to be damaged or gone, with what is wrong
        self._seed = tuple(seed)
        self._fails = data.on_corrupt == "fail"
        self._cache = Path(data.cache).expanduser()
        self._shards: OrderedDict[int, list[Trajectory]] = OrderedDict()
        self._orders: OrderedDict[int, list[tuple[int, int]]] = OrderedDict()
        if (missing := missing_shards(place, self.manifest)) and self._fails:
            raise DataError(
                f"shard {place.file(missing[0])} is missing ({len(missing)} of {len(self.manifest.shards)} are); "
                "collect the data again, or set --data.on_corrupt=skip"
            )

    def trajectory(self, number: int) -> Trajectory:
        """The ``number``-th trajectory of an endless walk that sees each exactly once per epoch.

        Raises:
            DataError: its shard is damaged or gone, and shards are not to be skipped, or none is left.
        """
        epoch, place = divmod(number, self.manifest.trajectories)
        shard, index = recall(self._orders, epoch, lambda: self._epoch_order(epoch), KEPT)[place]
        for candidate in self._candidates(shard, epoch):
            if (found := self._read(candidate)) is not None:
                return found[index % len(found)]
        raise DataError(f"{self.place}: all {len(self.manifest.shards)} shards are damaged or gone")

    def _epoch_order(self, epoch: int) -> list[tuple[int, int]]:
        """(shard, index) pairs: shards in random order, and random order within each, so reading stays local."""
        generator = np.random.default_rng([*self._seed, epoch])
        return [
            (int(shard), int(index))
            for shard in generator.permutation(len(self.manifest.shards))
            for index in generator.permutation(self.manifest.shards[shard].trajectories)
        ]

    def _candidates(self, shard: int, epoch: int) -> Iterator[int]:
        """A shard, and then those that stand in for it in this epoch, in order."""
        yield shard
        others = np.random.default_rng([*self._seed, epoch, shard, 1]).permutation(len(self.manifest.shards))
        yield from (other for other in others.tolist() if other != shard)

    def _read(self, shard: int) -> list[Trajectory] | None:
        """The trajectories of a shard; ``None`` where it is skipped."""
        if shard in self.skipped:
            return None
        try:
            return recall(self._shards, shard, lambda: read_shard(self.place, self.manifest, shard, self._cache), KEPT)
        except CorruptShardError as error:
            if self._fails:
                raise
            self.skipped[shard] = str(error)
            count = f"{len(self.skipped)} of {len(self.manifest.shards)} shards of {self.place} skipped so far"
            print(f"vagen: skipped: {error} ({count})", file=sys.stderr, flush=True)
            return None


def recall(kept: OrderedDict[K, T], key: K, make: Callable[[], T], limit: int) -> T:
    """The value of ``key``, made anew unless it is among the ``limit`` last used (an LRU cache, picklable)."""
    if key not in kept:
        remember(kept, key, make(), limit)
    kept.move_to_end(key)
    return kept[key]


def remember(kept: OrderedDict[K, T], key: K, value: T, limit: int) -> None:
    """Keep a value for :func:`recall`; the one that was longest not used makes room."""
    kept[key] = value
    if len(kept) > limit:
        kept.popitem(last=False)


@dataclass(frozen=True)
class _Asked:
    """What is asked about the trajectories of one place: the clozes, and the fewest transitions one of them needs."""

    patterns: Mapping[str, Pattern]
    shortest: int


class ClozeStream:
    """Groups by number, drawn from each place as often as its weight says.

    Args:
        folders: entries of ``shards``; see :mod:`vagen.data.places`.
        clozes: which clozes, and their loss weights.
        seed: decides the order of trajectories and the windows.
        mixture: weight and clozes of a world, or of an entry; an entry goes before its world. An entry that stands for
            several places gives each of them its weight.
        length: groups in the whole training, which schedules give shares of; 0 where it has no end.
        data: how shards are read.

    Raises:
        DataError: no folders, one that cannot be read, or a mixture that does not fit them.
        ClozeError: a cloze that cannot be built.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        clozes: Clozes,
        seed: int,
        mixture: Mapping[str, Source] | None = None,
        length: int = 0,
        data: Data = Data(),  # noqa: B008 - it cannot be changed
    ):
        if not clozes.weights:
            raise DataError("no clozes given: set `clozes.weights`")
        if not folders:
            raise DataError("no shards given: set `shards` to folders made by `vagen collect`")
        self.clozes = clozes
        self.seed = seed
        self.length = length
        self.patterns: dict[str, Pattern] = {name: named(name) for name in clozes.weights}
        found = places(folders, Path(data.cache).expanduser())
        self.stores = [TrajectoryStore(place, (seed, index), data) for index, place in enumerate(found)]
        for store in self.stores:
            if store.manifest.split != "train":
                raise DataError(f"{store.place} holds the {store.manifest.split} split; train on the train split only")
        self.sources = _sources(self.stores, mixture or {})
        self._asked = [self._asked_of(store, source) for store, source in zip(self.stores, self.sources, strict=True)]
        self._turns = Turns([source.weight for source in self.sources], length)
        for moment in moments(self._turns.weights):
            if not any(weight_at(weight, moment) for weight in self._turns.weights):
                raise DataError(f"mixture: all weights are 0 after {moment:g} of the training; give one source some")

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds of the shards, each once, in order."""
        return tuple(dict.fromkeys(store.manifest.world for store in self.stores))

    @property
    def digests(self) -> dict[str, str]:
        """What every folder of shards holds, by its address: a digest of the checksums in its manifest."""
        return {str(store.place): store.manifest.digest for store in self.stores}

    def progress(self, number: int) -> float:
        """The share of the training that lies before group ``number``; 1 where the training has no end."""
        return min(number / self.length, 1.0) if self.length else 1.0

    def group(self, number: int) -> Group[Sample]:
        """Group ``number`` of the endless stream."""
        which, turn = self._turns.turn(number)
        generator = np.random.default_rng([self.seed, number])
        for attempt in range(GROUP_TRIES):  # where no cloze fits (an episode too short, a state without a way on)
            trajectory = self.stores[which].trajectory(turn + attempt)
            if group := self._group_of(trajectory, self._asked[which], number, generator):
                return group
        place, names = self.stores[which].place, ", ".join(self._asked[which].patterns)
        raise DataError(f"{place}: none of {GROUP_TRIES} trajectories has room for any of the clozes {names}")

    def _asked_of(self, store: TrajectoryStore, source: Source) -> _Asked:
        """The clozes of one place, checked against its world and their schedules."""
        for name in source.clozes or ():
            if name not in self.patterns:
                raise DataError(f"mixture: {name!r} is to be asked about {store.place}, and has no clozes.weights")
        patterns = {name: p for name, p in self.patterns.items() if source.clozes is None or name in source.clozes}
        for name, pattern in patterns.items():
            check_answerable(name, pattern, simulator(store.manifest.world))
        weights = [self.clozes.weights[name] for name in patterns]
        for moment in moments(weights):
            if not any(weight_at(weight, moment) for weight in weights):
                raise DataError(
                    f"clozes.weights leave nothing to ask about {store.place} after {moment:g} of the training; "
                    "give one cloze some weight there"
                )
        return _Asked(patterns, min(max(1, pattern.length) for pattern in patterns.values()))

    def _group_of(
        self, trajectory: Trajectory, asked: _Asked, number: int, generator: np.random.Generator
    ) -> Group[Sample] | None:
        """A group about a random window of a trajectory; ``None`` if no cloze fits it."""
        progress = self.progress(number)
        weights = {name: weight_at(self.clozes.weights[name], progress) for name in asked.patterns}
        return ask(trajectory, asked.patterns, weights, self.clozes, generator, asked.shortest)

    def share(self, step: int, rows: int, rank: int, ranks: int) -> list[Group[Sample]]:
        """The groups of one step that fall to one rank; their union over ranks does not depend on ``ranks``."""
        return [self.group(step * rows + row) for row in range(rank, rows, ranks)]


def ask(
    trajectory: Trajectory,
    patterns: Mapping[str, Pattern],
    weights: Mapping[str, float],
    clozes: Clozes,
    generator: np.random.Generator,
    shortest: int | None = None,
    starts: Collection[int] | None = None,
) -> Group[Sample] | None:
    """A group about a random window of a trajectory; ``None`` if no cloze fits it.

    With a history the strata choose one moment, and the history lies anywhere about it.

    Args:
        patterns, weights: what is asked, by name; what has no weight is not.
        clozes: how it is asked.
        generator: chooses the window.
        shortest: the fewest transitions that a window may have before the trajectory ends; by default those that the
            shortest of the patterns needs.
        starts: transitions that windows may begin with; any by default.
    """
    shortest = shortest or min(max(1, pattern.length) for pattern in patterns.values())
    strata = Strata(clozes.sampling.idle, clozes.sampling.balance)
    possible = range(len(trajectory) - shortest + 1)
    if starts is not None:
        possible = [start for start in possible if start in starts]
    start = choose_start(trajectory, possible, strata, generator)
    if start is None:
        return None
    earlier = int(generator.integers(min(start, clozes.history) + 1)) if clozes.history else 0
    pairs = [
        (sample, weights[name])
        for name in _drawn([name for name in patterns if weights[name]], clozes.drawn, generator)
        for moment, begins in _moments(clozes, patterns[name], start, earlier)
        for window in _windows(clozes, moment, trajectory, begins, generator)
        if (sample := _sample(name, moment, window, clozes)) is not None
    ]
    return Group(tuple(sample for sample, _ in pairs), tuple(weight for _, weight in pairs)) if pairs else None


def _drawn(names: list[str], count: int | None, generator: np.random.Generator) -> list[str]:
    """So many of the clozes, or all of them."""
    if count is None or count >= len(names):
        return names
    chosen = set(generator.permutation(names)[:count])
    return [name for name in names if name in chosen]


def _moments(clozes: Clozes, pattern: Pattern, start: int, earlier: int) -> list[tuple[Pattern, int]]:
    """What a pattern becomes after each image of a group, with the start of its window."""
    if not (clozes.history and pattern.takes_history):
        return [(pattern, start)]
    latest = max(0, clozes.history + 1 - len(pattern.images))
    return [(with_history(pattern, shown), start - earlier) for shown in range(latest + 1)]


def _sample(name: str, pattern: Pattern, window: Trajectory, clozes: Clozes) -> Sample | None:
    try:
        return build(name, pattern, window, clozes.representation)
    except UnaskableError:
        return None


def _windows(
    clozes: Clozes, pattern: Pattern, trajectory: Trajectory, start: int, generator: np.random.Generator
) -> Sequence[Trajectory]:
    """The windows a pattern is applied to: none where it does not fit, several where actions are imagined."""
    if start + pattern.length > len(trajectory):
        return ()
    window = window_at(trajectory, start, pattern.length)
    if not (clozes.imagined and pattern.dynamics) or pattern.task == "order" or pattern.choices:
        return (window,)
    world = simulator(window.world)
    if pattern.task != "actions":
        others = [a for a in range(len(world.actions)) if a != window.actions[-1]]
        chosen = generator.permutation(others)[: clozes.imagined]
        return tuple(imagined(window, [window.actions[-1], *map(int, chosen)]))
    if pattern.asked[-1].time < pattern.length - 1:
        return (window,)
    # Only outcomes that can be seen tell which action it was.
    telling = tuple(w for w in imagined(window) if world.facts(w.snapshots[-1]) != world.facts(w.snapshots[-2]))
    return telling or (window,)


def _sources(stores: Sequence[TrajectoryStore], mixture: Mapping[str, Source]) -> list[Source]:
    """What the mixture says about each store: about its entry, or else about its world."""
    known = {name for store in stores for name in (store.place.entry, store.manifest.world)}
    if unknown := set(mixture) - known:
        raise DataError(f"mixture names {min(unknown)!r}, which is neither a world of the shards nor one of `shards`")
    return [mixture.get(store.place.entry) or mixture.get(store.manifest.world) or Source() for store in stores]

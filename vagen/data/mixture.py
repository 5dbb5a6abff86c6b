"""Whose turn it is: which source each group of the stream comes from, exactly as often as the weights say.

Weights may change over the training (:data:`vagen.config.Schedule`). Turns are dealt in blocks: within a block every
source gets the whole number of turns nearest to its due, what is left over or owed is carried into the next block, and
the turns are spread evenly. So after any number of blocks no source is a whole turn away from its share, and who has
turn ``n`` depends on the weights and on ``n`` only. Knows nothing about shards or clozes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vagen.config import Schedule

BLOCK = 240  # turns dealt at a time; many ratios of small numbers come out even


def weight_at(schedule: Schedule, progress: float) -> float:
    """The weight at a share of the training in [0, 1]: linear between the points, constant before and after them.

    Of two points at the same progress the first ends what came before, and the second begins what comes after.
    """
    if isinstance(schedule, float | int):
        return float(schedule)
    before = schedule[0]
    for point in schedule:
        if progress < point[0]:
            span = point[0] - before[0]
            return before[1] + (point[1] - before[1]) * (progress - before[0]) / span if span else point[1]
        before = point
    return before[1]


def moments(schedules: Sequence[Schedule]) -> list[float]:
    """Shares of the training among which is one where all schedules are 0, if there is any such share.

    Between two neighbouring points all schedules are straight lines, which are all 0 either in the middle or nowhere.
    """
    points = {0.0, 1.0, *(at for schedule in schedules if not isinstance(schedule, float | int) for at, _ in schedule)}
    ordered = sorted(points)
    return sorted([*ordered, *((one + two) / 2 for one, two in pairwise(ordered))])


class Turns:
    """Who has turn ``n``, and how many turns it had before.

    Args:
        weights: of each source; only their ratios matter. Not all 0 at any time.
        length: turns in the whole training; 0 where it has no end: the weights are then those at its end.
    """

    def __init__(self, weights: Sequence[Schedule], length: int):
        self.weights = tuple(weights)
        self.length = length
        self._owed = np.zeros(len(weights))  # turns due and not dealt, at the end of the blocks counted
        # (sources,) turns before each block that was counted, and after the last of them
        self._before = [np.zeros(len(weights), dtype=np.int64)]
        self._dealt: tuple[int, list[tuple[int, int]]] = (-1, [])  # the block dealt last

    def turn(self, number: int) -> tuple[int, int]:
        """(source, turns that this source had before) of turn ``number``."""
        block, place = divmod(number, BLOCK)
        while len(self._before) <= block + 1:
            self._count(len(self._before) - 1)
        if self._dealt[0] != block:
            self._dealt = block, _spread(self._before[block + 1] - self._before[block], self._before[block])
        return self._dealt[1][place]

    def shares(self, number: int) -> NDArray[np.float64]:
        """What the weights give each source of the turns around ``number``; sums to 1."""
        progress = min(number / self.length, 1.0) if self.length else 1.0
        weights = np.array([weight_at(weight, progress) for weight in self.weights])
        return weights / weights.sum()

    def _count(self, block: int) -> None:
        """Deal the next block's turns: the whole part of what is due, and the rest by largest remainder."""
        due = self.shares(block * BLOCK + BLOCK // 2) * BLOCK + self._owed
        counts = np.maximum(np.floor(due), 0).astype(np.int64)
        by_remainder = np.argsort(counts - due, kind="stable")  # those owed most first
        left = BLOCK - int(counts.sum())
        if left >= 0:
            counts[by_remainder[:left]] += 1
        else:  # sources that have left the mixture had a turn too many
            counts[[source for source in by_remainder[::-1] if counts[source]][:-left]] -= 1
        self._owed = due - counts
        self._before.append(self._before[-1] + counts)


def _spread(counts: NDArray[np.int64], before: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The turns of a block in order, each source's as evenly as they can be."""
    places = sorted(
        ((turn + 0.5) / count, source, int(before[source]) + turn)
        for source, count in enumerate(counts.tolist())
        for turn in range(count)
    )
    return [(source, turn) for _, source, turn in places]

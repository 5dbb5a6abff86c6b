"""Tests and intervals for the difference of two accuracies. Knows nothing about clozes or models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vagen.cloze.statistics import Z95, wilson


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies, second minus first, with its 95 % interval.

    Attributes:
        value: the difference, in [-1, 1].
        low, high: its interval.
        p: two-sided p-value of "no difference"; ``None`` where no test is made.
    """

    value: float
    low: float
    high: float
    p: float | None


def paired(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Two models on the same questions.

    The test is McNemar's, exact (binomial over the questions that exactly one model gets right); the interval is that
    of Bonett & Price 2012 (equation 4), which keeps its level for small n and for extreme accuracies.

    Raises:
        ValueError: not as many answers of one as of the other, or none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"need as many answers of both, at least one; got {len(first)} and {len(second)}")
    n = len(first)
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    p_won, p_lost = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    spread = Z95 * math.sqrt((p_won + p_lost - (p_won - p_lost) ** 2) / (n + 2))
    centre = p_won - p_lost
    value = (won - lost) / n
    return Difference(value, max(-1.0, centre - spread), min(1.0, centre + spread), mcnemar(won, lost))


def mcnemar(won: int, lost: int) -> float:
    """The exact two-sided p-value of ``won`` against ``lost`` under a fair coin (McNemar 1947)."""
    n, smaller = won + lost, min(won, lost)
    tail = sum(math.comb(n, k) for k in range(smaller + 1))
    return min(1.0, 2 * tail / 2**n)


def unpaired(first: tuple[float, int], second: tuple[float, int]) -> Difference:
    """Two models on different questions, each an (accuracy, n).

    The interval joins the Wilson intervals of both (Newcombe 1998, method 10); no test is made.
    """
    one, other = (wilson(accuracy * n, n) for accuracy, n in (first, second))
    value = other.value - one.value
    low = value - math.hypot(other.value - other.low, one.high - one.value)
    high = value + math.hypot(other.high - other.value, one.value - one.low)
    return Difference(value, max(-1.0, low), min(1.0, high), None)


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean of independent differences; its interval is normal, with the half-widths adding up in squares."""
    count = len(differences)
    value = sum(d.value for d in differences) / count
    low = value - math.sqrt(sum((d.value - d.low) ** 2 for d in differences)) / count
    high = value + math.sqrt(sum((d.high - d.value) ** 2 for d in differences)) / count
    return Difference(value, low, high, None)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for there being several, in their order (Holm 1979): the chance of any false alarm is kept."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return adjusted

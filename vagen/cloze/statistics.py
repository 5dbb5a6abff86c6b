"""Intervals, floors and ceilings: what an accuracy must be compared with before it means anything."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from vagen.cloze.sample import Sample
from vagen.cloze.scoring import PLANS_TRIED, accepted_plans, plan_count, true_facts

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Proportion:
    """A share with its 95 % Wilson score interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int) -> Proportion:
    """The Wilson interval for ``successes`` out of ``n`` (fractions of successes allowed: expected counts).

    Raises:
        ValueError: n is not positive, or successes outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + spread) / scale)
    return Proportion(p, low, high, n)


def majority_floor(samples: Sequence[Sample]) -> Proportion | None:
    """Always giving the answer that is right most often among samples with the same text.

    It is chosen on the very samples it is measured on, so it is an upper bound of what ignoring the image can reach.
    ``None`` for clozes without images, whose text is all there is, and for plans too long to enumerate.
    """
    if not samples[0].pattern.images or _too_many_plans(samples[0]):
        return None
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.question].append(sample)
    hits = sum(max(_answer_counts(group).values(), default=0) for group in groups.values())
    return wilson(hits, len(samples))


def random_floor(samples: Sequence[Sample]) -> Proportion | None:
    """A uniformly drawn valid answer: any sequence of actions, or else the truth of another sample.

    ``None`` for plans too long to enumerate.
    """
    if _too_many_plans(samples[0]):
        return None
    n = len(samples)
    if _asks_actions(samples[0]):
        return wilson(sum(len(accepted_plans(sample)) / plan_count(sample) for sample in samples), n)
    pairs = sum(count * (count - 1) for count in _answer_counts(samples).values())
    return wilson(pairs / max(1, n - 1), n)


def copy_floor(samples: Sequence[Sample]) -> Proportion | None:
    """Answering the last state shown, as if nothing had changed; ``None`` if the cloze asks for no later state."""
    pattern = samples[0].pattern
    if pattern.task != "state" or pattern.horizon == 0:
        return None
    asked = pattern.asked[0].time
    anchor = asked - pattern.horizon
    hits = sum(s.world.facts(s.window.snapshots[anchor]) == true_facts(s) for s in samples)
    return wilson(hits, len(samples))


def ceiling(samples: Sequence[Sample]) -> float | None:
    """What a perfect predictor can reach: 1 where the facts shown determine the answer, else unknown (``None``)."""
    world = samples[0].world
    return 1.0 if world.deterministic and world.fully_visible else None


def skill(accuracy: float, floors: Sequence[float], top: float | None) -> float | None:
    """(accuracy - best floor) / (ceiling - best floor), or ``None`` where it is undefined."""
    best = max(floors, default=0.0)
    if top is None or top <= best:
        return None
    return (accuracy - best) / (top - best)


def _asks_actions(sample: Sample) -> bool:
    return sample.pattern.task in ("actions", "policy")


def _too_many_plans(sample: Sample) -> bool:
    return _asks_actions(sample) and plan_count(sample) > PLANS_TRIED


def _answer_counts(samples: Sequence[Sample]) -> Counter[Hashable]:
    """How many of the samples each answer would be right for."""
    counts: Counter[Hashable] = Counter()
    for sample in samples:
        counts.update(accepted_plans(sample) if _asks_actions(sample) else [sample.answer])
    return counts

"""Intervals, floors and ceilings: what an accuracy must be compared with before it means anything."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vagen.cloze.sample import Sample
from vagen.cloze.scoring import accepted_actions, true_facts

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


def majority_floor(samples: Sequence[Sample]) -> Proportion:
    """Always giving the answer that is right most often among samples with the same text.

    It is chosen on the very samples it is measured on, so it is an upper bound of what ignoring the image can reach.
    """
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.question].append(sample)
    hits = sum(max(_answer_counts(group).values(), default=0) for group in groups.values())
    return wilson(hits, len(samples))


def random_floor(samples: Sequence[Sample]) -> Proportion:
    """A uniformly drawn valid answer: any action for actions, the truth of another sample for the rest."""
    first = samples[0]
    if first.pattern.task in ("actions", "policy"):
        choices = len(first.world.actions) ** len(first.pattern.asked)
        if len(first.pattern.asked) == 1:
            expected = sum(len(accepted_actions(sample)) / choices for sample in samples)
        else:
            expected = len(samples) / choices  # one plan is sure to be right; others are not counted
        return wilson(expected, len(samples))
    n = len(samples)
    counts = _answer_counts(samples)
    pairs = sum(count * (count - 1) for count in counts.values())
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


def _answer_counts(samples: Sequence[Sample]) -> Counter[str]:
    """How many of the samples each answer would be right for."""
    counts: Counter[str] = Counter()
    for sample in samples:
        if sample.pattern.task in ("actions", "policy") and len(sample.pattern.asked) == 1:
            counts.update(sample.world.actions[action] for action in accepted_actions(sample))
        else:
            counts[sample.answer] += 1
    return counts

"""Intervals, floors and ceilings: what an accuracy must be compared with before it means anything."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from vagen.cloze.sample import Sample
from vagen.cloze.scoring import accepted_answers, answer_count, can_enumerate, chances, score
from vagen.cloze.truth import agrees
from worlds import Facts

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
CALIBRATION_BINS = 10


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
    """Always giving the answer that is right most often for the same text.

    What is most often right is learned from every other sample and tested on those between, and the other way round:
    chosen on the samples it is tested on, it would be flattered wherever a text is rare. For a text not seen in the
    other half it is the answer most often right of all. ``None`` for plans too long to enumerate.
    """
    if not can_enumerate(samples[0]):
        return None
    accepted = [accepted_answers(sample) for sample in samples]
    hits = 0
    for half in (0, 1):
        overall: Counter[Hashable] = Counter()
        by_text: defaultdict[str, Counter[Hashable]] = defaultdict(Counter)
        for sample, answers in list(zip(samples, accepted, strict=True))[1 - half :: 2]:
            overall.update(answers)
            by_text[sample.question].update(answers)
        for sample, answers in list(zip(samples, accepted, strict=True))[half::2]:
            guess = _most_common(by_text.get(sample.question) or overall)
            hits += guess in answers or _is_possible(sample, guess)
    return wilson(hits, len(samples))


def _is_possible(sample: Sample, guess: Hashable) -> bool:
    """Whether a guessed state can be the asked one where several can."""
    several = sample.pattern.task == "state" and not (
        sample.pattern.choices or sample.pattern.is_foretold(sample.pattern.asked[0])
    )
    return several and isinstance(guess, str) and score(sample, guess).correct


def _most_common(counts: Counter[Hashable]) -> Hashable:
    """The answer with the highest count, the same in every process where several have it."""
    return max(counts, key=lambda answer: (counts[answer], repr(answer)), default=None)


def random_floor(samples: Sequence[Sample]) -> Proportion | None:
    """A uniformly drawn valid answer: any sequence of actions, order or option, or else the truth of another sample.

    ``None`` for plans too long to enumerate.
    """
    if not can_enumerate(samples[0]):
        return None
    n = len(samples)
    if answer_count(samples[0]) is not None:
        return wilson(sum(len(accepted_answers(sample)) / (answer_count(sample) or 1) for sample in samples), n)
    pairs = sum(count * (count - 1) for count in _answer_counts(samples).values())
    return wilson(pairs / max(1, n - 1), n)


def copy_floor(samples: Sequence[Sample]) -> Proportion | None:
    """Answering the state shown nearest to the asked one, as if nothing had changed.

    ``None`` if the cloze asks for no state at another time than those shown.
    """
    pattern = samples[0].pattern
    if pattern.task != "state" or pattern.choices or pattern.horizon == 0:
        return None
    hits = sum(agrees(s, _last_shown(s)) for s in samples)
    return wilson(hits, len(samples))


def _last_shown(sample: Sample) -> Facts:
    shown = sample.snapshot(sample.pattern.anchor)
    return sample.world.belief([shown], shown)


def ceiling(samples: Sequence[Sample]) -> float | None:
    """What a perfect predictor can reach: 1 where what is shown determines the answer, ``None`` where that is unknown.

    In a random world it is the mean chance of the likeliest outcome. Answers about states of partial views are what
    can be known of them, and so determined.
    """
    first = samples[0]
    if not first.world.deterministic and first.pattern.dynamics:
        return sum(max(chances(sample).values()) for sample in samples) / len(samples)
    determined = first.world.fully_visible or (first.pattern.task == "state" and not first.pattern.choices)
    return 1.0 if determined else None


def divergence(chances: Sequence[float], log_probabilities: Sequence[float]) -> tuple[float, float]:
    """How far a model's distribution is from the true one.

    Args:
        chances: of each thing that can happen, all above 0; they sum to 1.
        log_probabilities: what the model gives to saying each, in nats.

    Returns:
        KL(true || model) in nats, with the model's probabilities normalised over what can happen, so that 0 is
        perfect; and the mass the model puts on what can happen.
    """
    p, log_q = np.asarray(chances), np.asarray(log_probabilities, dtype=np.float64)
    log_mass = float(np.logaddexp.reduce(log_q))
    return max(0.0, float(p @ (np.log(p) - (log_q - log_mass)))), math.exp(log_mass)


@dataclass(frozen=True)
class Bin:
    """Answers of alike confidence: the mean of their confidences, the share of them that is right, how many."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """How far a model's confidence tells whether it is right (Guo et al. 2017).

    Attributes:
        ece: expected calibration error: the mean, over answers, of how far the accuracy of their bin is from its mean
            confidence; 0 is perfect, and an accuracy of 0 or 1 can be so too.
        bins: those that hold answers, by confidence: the points of a reliability diagram.
    """

    ece: float
    bins: tuple[Bin, ...]


def calibration(confidences: Sequence[float], correct: Sequence[bool], count: int = CALIBRATION_BINS) -> Calibration:
    """Bin answers by confidence, into ``count`` bins of equal width.

    Args:
        confidences: the probability, from 0 to 1, that the model gave to each answer as a whole.
        correct: whether each is right.
    """
    members: defaultdict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in zip(confidences, correct, strict=True):
        members[min(int(confidence * count), count - 1)].append((confidence, right))
    bins = []
    for _, answers in sorted(members.items()):
        sums = [math.fsum(values) for values in zip(*answers, strict=True)]
        bins.append(Bin(sums[0] / len(answers), sums[1] / len(answers), len(answers)))
    total = sum(b.n for b in bins)
    return Calibration(math.fsum(b.n * abs(b.accuracy - b.confidence) for b in bins) / total, tuple(bins))


def skill(accuracy: float, floors: Sequence[float], top: float | None) -> float | None:
    """(accuracy - best floor) / (ceiling - best floor), or ``None`` where it is undefined."""
    best = max(floors, default=0.0)
    if top is None or top <= best:
        return None
    return (accuracy - best) / (top - best)


def _answer_counts(samples: Sequence[Sample]) -> Counter[Hashable]:
    """How many of the samples each answer would be right for."""
    counts: Counter[Hashable] = Counter()
    for sample in samples:
        counts.update(accepted_answers(sample))
    return counts

"""Where the policy's gradient comes from: that of each term of the loss, by how much the rewards of a group vary.

Groups whose episodes earn nearly the same have advantages that are mostly noise, and are pulled by the regularisers as
much as any other (RAGEN-2, Wang et al. 2026): what moves the policy then is no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vagen.train.experience import Measured
from vagen.train.objective import Terms

BUCKETS = 4


def by_variance(spread: Mapping[int, float], most: int = BUCKETS) -> list[list[int]]:
    """Groups in up to ``most`` buckets of nearly equal size, those whose rewards vary least first.

    Args:
        spread: of each group; see :func:`variances`.
    """
    groups = sorted(spread, key=lambda group: (spread[group], group))
    return [part.tolist() for part in np.array_split(np.asarray(groups), min(most, len(groups)))]


def variances(episodes: Sequence[Measured]) -> dict[int, float]:
    """Of the total rewards of each group's episodes (ddof 0)."""
    earned: dict[int, list[float]] = {}
    for episode in episodes:
        earned.setdefault(episode.group, []).append(float(episode.rewards.sum()))
    return {group: float(np.var(totals)) for group, totals in earned.items()}


def gradient_metrics(norms: Sequence[Sequence[float]], spread: Sequence[float]) -> Mapping[str, float]:
    """What there is to say about the norms of each bucket's gradients.

    Args:
        norms: of each bucket, those of the terms of :class:`vagen.train.objective.Terms`; 0 for terms there are not.
        spread: of each bucket, the mean variance of its groups.

    Returns:
        ``gradient/TERM/BUCKET`` and ``gradient/variance/BUCKET``, buckets counted from 1, and
        ``gradient/regularisers``, their share of all norms.
    """
    values = {f"gradient/variance/{bucket}": value for bucket, value in enumerate(spread, start=1)}
    for bucket, terms in enumerate(norms, start=1):
        values |= {f"gradient/{name}/{bucket}": norm for name, norm in zip(Terms._fields, terms, strict=True)}
    every, task = sum(map(sum, norms)), sum(terms[0] for terms in norms)
    return values | {"gradient/regularisers": 1 - task / every if every else 0.0}

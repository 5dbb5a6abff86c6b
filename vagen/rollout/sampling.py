"""From logits to tokens: temperature, nucleus, tokens that may not be written. Knows nothing about models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_p: only the likeliest tokens that together have this probability may be drawn (Holtzman et al. 2020).
        max_tokens: where a response is cut if its turn has not ended.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature:g}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p:g}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


GREEDY = Sampling(temperature=0.0)


def choose(logits: Tensor, sampling: Sampling, banned: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The next token of each row.

    A token is found at a point of its row's cumulative distribution, in the order of token ids, so that it depends on
    nothing but the row.

    Args:
        logits: (B, V).
        banned: (K,) token ids that are never chosen.
        points: (B,) float64 in [0, 1), not used at temperature 0.

    Returns:
        (B,) token ids, and (B,) their log-probabilities in nats at temperature 1 over the whole vocabulary, the banned
        tokens included: what a forward pass over the finished text gives.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    allowed = logits.index_fill(1, banned, -torch.inf)
    if sampling.temperature == 0:
        tokens = allowed.argmax(1)
    else:
        tokens = _draw(_nucleus((allowed / sampling.temperature).double().softmax(1), sampling.top_p), points)
    log_probs = logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]
    return tokens, log_probs


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(B, V) with 0 for all but the fewest likeliest tokens whose sum reaches ``top_p``; not normalised again."""
    if top_p == 1:
        return probabilities
    ordered, order = probabilities.sort(1, descending=True)
    kept = ordered.cumsum(1) - ordered < top_p
    return probabilities * torch.zeros_like(kept).scatter_(1, order, kept)


def _draw(weights: Tensor, points: Tensor) -> Tensor:
    """(B, V) weights and (B,) points -> (B,) the first index whose cumulative weight lies above the point's share."""
    cumulative = weights.cumsum(1)
    target = points[:, None].to(weights.device) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, target, right=True)[:, 0]
    last = weights.shape[1] - 1 - (weights > 0).flip(1).int().argmax(1)  # rounding must not lead past it
    return torch.minimum(found, last)

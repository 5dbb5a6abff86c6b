"""Cross-entropy over large vocabularies in little memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**25  # logits held at a time: 128 MiB in single precision


def cross_entropy(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> torch.Tensor:
    """(N,) negative log-probabilities of targets, each in nats.

    Where the (N, V) logits would be many they are computed in chunks, and again for the gradient instead of kept.
    Logits in less than single precision are turned into it first.

    Args:
        hidden: (N, D) outputs of the language model where there is a target.
        head: the language model's head, (n, D) -> (n, V).
        targets: (N,) token ids.
        logits_at_once: how many logits to hold at a time.
    """

    def losses(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(_logits(head, hidden), targets, reduction="none")

    return _in_chunks(losses, hidden, targets, logits_at_once // _vocabulary(head))


def losses_and_entropies(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`cross_entropy`, and beside each loss the (N,) entropy, in nats, of what could have been said."""

    def both(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = _logits(head, hidden)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return torch.stack([losses, entropy(logits)], 1)

    found = _in_chunks(both, hidden, targets, logits_at_once // _vocabulary(head))
    return found[:, 0], found[:, 1]


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """(..., V) -> (...): entropy in nats. Banned tokens (logit -inf) are fine, in the gradient too."""
    log_probs = torch.log_softmax(logits, -1)
    return -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0)).sum(-1)


def _logits(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    logits = head(hidden)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _in_chunks(
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """What ``compute`` makes of rows, so many at a time, and again for the gradient where they are more than that."""
    rows = max(1, rows)
    if len(targets) <= rows:
        return compute(hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(compute, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def _vocabulary(head: Callable[[torch.Tensor], torch.Tensor]) -> int:
    """How many logits a head gives; read off the layer, since weights may be partitioned over processes."""
    return int(head.out_features)  # type: ignore[attr-defined]

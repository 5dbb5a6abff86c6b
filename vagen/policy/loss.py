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
        logits = head(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    rows = max(1, logits_at_once // _vocabulary(head))
    if len(targets) <= rows:
        return losses(hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def _vocabulary(head: Callable[[torch.Tensor], torch.Tensor]) -> int:
    """How many logits a head gives; read off the layer, since weights may be partitioned over processes."""
    return int(head.out_features)  # type: ignore[attr-defined]

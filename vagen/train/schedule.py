"""How the learning rate changes over the steps of a training; plain numbers, no optimizer."""

from __future__ import annotations

import math

from vagen.config import Optimizer


def rate_factor(optimizer: Optimizer, steps: int, step: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``, relative to the peak.

    It rises linearly from ``final_lr`` to 1 in ``warmup_steps``, and then falls back to ``final_lr``: along half a
    cosine (``cosine``) or a line (``linear``) over all steps that are left, along half a cosine over the last
    ``decay`` share of all steps (``wsd``), or not at all (``constant``).
    """
    fall = _fall(optimizer, steps)
    warmup = min(optimizer.warmup_steps, steps - fall)
    if step < warmup:
        share = step / warmup
    elif step < steps - fall or fall == 0:
        share = 1.0
    else:
        progress = min(1.0, (step - (steps - fall)) / fall)
        share = 1 - progress if optimizer.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return optimizer.final_lr + (1 - optimizer.final_lr) * share


def _fall(optimizer: Optimizer, steps: int) -> int:
    """In how many steps, at the end, the rate falls; at least one, so that progress through them is defined."""
    if optimizer.schedule == "wsd":
        return round(optimizer.decay * steps)
    if optimizer.schedule == "constant":
        return 0
    return max(1, steps - optimizer.warmup_steps)

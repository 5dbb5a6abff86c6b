"""Losses of reinforcement learning, token by token, and how they become one number.

Everything is a function of log-probabilities, values and advantages as tensors, usually (B, T); masks come in where
tokens are summed up, in :func:`aggregate`. Log-probabilities must be finite, on padding too (0 will do): what is
masked later adds nothing to the loss, but an infinity would still poison the gradient on its way. Half precision is
computed with in single: differences of log-probabilities would be all rounding.

Knows nothing about models, optimizers or how advantages were found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vagen.policy.loss import entropy as entropy
from vagen.rl.segments import as_float

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
KlKind = Literal["k1", "k2", "k3"]

LARGEST_LOG_RATIO = 20.0  # beyond e^20, ratios of probabilities are cut off (as in verl): they would overflow


def ppo_clip(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """The clipped policy loss of PPO (Schulman et al. 2017, equation 7) of each token.

    ``max(-ratio A, -clip(ratio, 1 - low, 1 + high) A)`` with separate bounds (clip-higher, DAPO, Yu et al. 2025). With
    ``dual_clip`` = c > 1, tokens of negative advantage lose at most ``-c A`` (Ye et al. 2020): without it a token that
    became much more probable has no bound. The gradient is 0 where a bound holds.

    Args:
        log_probs: of the sampled tokens under the policy being trained.
        old_log_probs: under the policy at the start of the update, from the trainer itself and not the sampler, so
            that ratios of the first step are exactly 1. Both are treated as constants, as are ``advantages``, of the
            same shape.

    Raises:
        ValueError: a bound that could never hold or would always.
    """
    if not (0 <= clip_low <= 1 and clip_high >= 0):
        raise ValueError(f"need 0 <= clip_low <= 1 and clip_high >= 0, got {clip_low} and {clip_high}")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip bounds ratios above 1, got {dual_clip}; 3 is usual, null turns it off")
    log_probs, old_log_probs, advantages = as_float(log_probs, old_log_probs.detach(), advantages.detach())
    ratio = _ratio(log_probs, old_log_probs)
    loss = torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def sampler_weights(old_log_probs: Tensor, sampler_log_probs: Tensor, cap: float = 2.0) -> Tensor:
    """Truncated importance weights ``min(π_trainer / π_sampler, cap)`` to multiply losses with (TIS, Yao et al. 2025).

    The sampler's kernels compute other probabilities than the trainer's, so that even fresh samples are a little
    off-policy. Constants: no gradient flows through them.

    Args:
        old_log_probs: from the trainer, of the policy that sampled.
        sampler_log_probs: what the sampler said when it sampled.
    """
    return _ratio(*as_float(old_log_probs.detach(), sampler_log_probs.detach())).clamp(max=cap)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None = None) -> Tensor:
    """Half the squared error of each value, clipped as in PPO's code (Schulman et al. 2017; Engstrom et al. 2020).

    ``max((V - R)², (clip(V, V_old - clip, V_old + clip) - R)²) / 2``: moving away from the old value by more than
    ``clip`` earns nothing.

    Args:
        values: of the critic being trained; ``old_values``: at the start of the update; ``returns``: what to predict.
        clip: None turns clipping off.
    """
    values, old_values, returns = as_float(values, old_values.detach(), returns.detach())
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * error


# ------------------------------------------------------------------------------------------------------- to one number


def aggregate(loss: Tensor, mask: Tensor, how: Aggregation, *, count: float | Tensor | None = None) -> Tensor:
    """The loss of a batch from the losses of its tokens.

    ``token-mean``: mean over tokens (DAPO). ``seq-mean-token-mean``: mean over rows of the mean over their tokens
    (GRPO). ``seq-mean-token-sum``: mean over rows of the sum over their tokens. Rows without tokens do not count; a
    batch without any has loss 0, with a gradient of zeros.

    Args:
        loss: (B, T), ignored where ``mask`` (B, T) is 0.
        count: what the sum is divided by when this is only a part of a batch, in micro-batches or on one of several
            processes: how many tokens (``token-mean``) or rows with tokens (the others) the whole batch has. The sum
            of the parts' losses is then the loss of the whole. A trainer that averages gradients over processes, as
            DeepSpeed does, multiplies by their number.

    Raises:
        ValueError: there is no such way.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {how!r}: known are {', '.join(AGGREGATIONS)}")
    (loss,), mask = as_float(loss), mask.bool()
    total, own_count = AGGREGATIONS[how](loss.masked_fill(~mask, 0), mask)
    divisor = own_count if count is None else torch.as_tensor(count, device=loss.device)
    return (total / divisor.clamp(min=1)).to(loss.dtype)


def _token_mean(loss: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return loss.sum(), mask.sum()


def _seq_mean_token_mean(loss: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return (loss.sum(-1) / mask.sum(-1).clamp(min=1)).sum(), mask.any(-1).sum()


def _seq_mean_token_sum(loss: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return loss.sum(), mask.any(-1).sum()


#: (masked losses, mask) -> (sum, what to divide it by). Adding a way is one function and one entry.
AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "token-mean": _token_mean,
    "seq-mean-token-mean": _seq_mean_token_mean,
    "seq-mean-token-sum": _seq_mean_token_sum,
}


# ------------------------------------------------------------------------------------------------------ regularization


def kl(log_probs: Tensor, ref_log_probs: Tensor, kind: KlKind) -> Tensor:
    """Estimates of ``KL(π || π_ref)`` from the sampled tokens alone (Schulman 2020), with ``d = log π_ref - log π``.

    ``k1 = -d``: unbiased, may be negative. ``k2 = d² / 2``: biased, little variance. ``k3 = exp(d) - 1 - d``: unbiased
    and never negative. That is about their values, as a penalty in the reward; as a loss on fresh samples it is k2
    whose gradient is that of the divergence, while k1's is 0 in expectation (Tang & Munos 2025). k3 is level where the
    reference is more than e^20 times as likely: it would overflow.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KL:
        raise ValueError(f"unknown kind of KL {kind!r}: known are {', '.join(KL)}")
    log_probs, ref_log_probs = as_float(log_probs, ref_log_probs.detach())
    return KL[kind](ref_log_probs - log_probs)


def _k1(d: Tensor) -> Tensor:
    return -d


def _k2(d: Tensor) -> Tensor:
    return 0.5 * d.square()


def _k3(d: Tensor) -> Tensor:
    d = d.clamp(max=LARGEST_LOG_RATIO)
    return torch.expm1(d) - d


#: ``log π_ref - log π`` -> estimate. Adding one is one function and one entry.
KL: dict[str, Callable[[Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}


@torch.no_grad()
def penalize(rewards: Tensor, divergence: Tensor, mask: Tensor, weight: float) -> Tensor:
    """(B, T) rewards minus ``weight`` times a divergence on the masked tokens: KL as part of the reward."""
    rewards, divergence = as_float(rewards, divergence)
    return rewards - weight * divergence.masked_fill(~mask.bool(), 0)


def sign_weights(advantages: Tensor, positive: float, negative: float) -> Tensor:
    """A weight for each token by the sign of its advantage: ``positive`` above 0, ``negative`` from 0 down.

    Multiplied with policy losses, Positive-Advantage Reweighting (Jin et al. 2025): tokens of positive advantage are
    what makes entropy collapse.
    """
    (advantages,) = as_float(advantages.detach())
    return torch.where(advantages > 0, positive, negative).to(advantages.dtype)


def entropy_loss(entropies: Tensor, advantages: Tensor, positive: float, negative: float) -> Tensor:
    """Minus the entropy of each token's distribution, weighted by the sign of its advantage; a bonus when minimized.

    Equal weights give the usual entropy bonus.
    """
    return -sign_weights(advantages, positive, negative) * entropies


def sigmoid_gate(gap: Tensor, sharpness: float = 1.0) -> Tensor:
    """The gate ``σ(sharpness · gap)`` in (0, 1) on an auxiliary loss's tokens (SDAR, Lu et al. 2026); a constant.

    RL stays the backbone: the auxiliary loss is strong only where its target is ahead of the policy.

    Args:
        gap: how much more probable the target is to the teacher than to the policy, ``log π_teacher - log π``, each
            token's own. A free label, of which the simulator is certain, has ``log π_teacher = 0``.
    """
    return torch.sigmoid(sharpness * gap.detach())


#: Policy losses a configuration can name, all with the arguments of :func:`ppo_clip`. Adding one is one entry.
POLICY_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, float, float, float | None], Tensor]] = {
    "ppo_clip": ppo_clip
}


def _ratio(log_probs: Tensor, other: Tensor) -> Tensor:
    return (log_probs - other).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()

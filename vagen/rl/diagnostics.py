"""What to watch while a policy is trained by reinforcement: numbers that turn bad before the reward does.

Reasoning that no longer depends on what was seen (template collapse), probabilities that differ between sampler and
trainer, how sure the policy is of the true state. All functions detach, compute in float64 on the CPU and return plain
numbers, as their inputs are small and few.

Knows nothing about models: it starts from log-probabilities, counts and flags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vagen.rl.losses import kl
from vagen.rl.segments import as_tensor

RETRIEVAL_DEPTHS = (1, 2, 4, 8)
Z_EPS = 1e-3  # added to the spread of the marginals in the z-score
INTERVAL_FULL_SCORE = 1.8

Normalization = Literal["sequence", "token_code", "token_paper"]


def _exact(x: Tensor | Sequence[float]) -> Tensor:
    return as_tensor(x).detach().cpu().double()


def _numbers(x: Tensor | Sequence[int]) -> Tensor:
    return as_tensor(x).detach().cpu().long()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# --------------------------------------------------------------------------------------------------- template collapse


@dataclass(frozen=True)
class Information:
    """How much each of N reasonings says about its own prompt, in nats.

    Attributes:
        matched: (N,) ``log p(z | own x)``.
        marginal: (N,) ``log mean_x p(z | x)`` over the M prompts of the batch.
        sequence: (N,) matched - marginal.
        token_code: (N,) the same of log-probabilities divided by the reasoning's length, as in RAGEN-2's code.
        token_paper: (N,) ``sequence`` divided by the reasoning's length, as in RAGEN-2's paper.
    """

    matched: Tensor
    marginal: Tensor
    sequence: Tensor
    token_code: Tensor
    token_paper: Tensor


def information(log_probs: Tensor, lengths: Tensor, own_column: Tensor) -> Information:
    """The pointwise mutual information of reasonings and prompts (RAGEN-2, Wang et al. 2026).

    Args:
        log_probs: (N, M) ``log p(z_i | x_j)``, summed over the tokens of reasoning i after prompt j.
        lengths: (N,) tokens of each reasoning.
        own_column: (N,) which prompt a reasoning was written for.

    Raises:
        ValueError: there are no reasonings, the shapes do not fit, or there is no such column.
    """
    joint, tokens, own = _exact(log_probs), _exact(lengths).clamp(min=1), _numbers(own_column)
    if joint.ndim != 2 or 0 in joint.shape or tokens.shape != own.shape or len(own) != len(joint):
        raise ValueError(
            "mutual information needs (N, M) log-probabilities with N, M > 0, N lengths and N columns, "
            f"got {tuple(joint.shape)}, {tuple(tokens.shape)} and {tuple(own.shape)}"
        )
    if int(own.min()) < 0 or int(own.max()) >= joint.shape[1]:
        raise ValueError(f"own columns must be from 0 to {joint.shape[1] - 1}, got {own.tolist()}")
    matched, marginal = _matched(joint, own), _marginal(joint)
    per_token = joint / tokens[:, None]
    sequence = matched - marginal
    return Information(matched, marginal, sequence, _matched(per_token, own) - _marginal(per_token), sequence / tokens)


def mutual_information(
    log_probs: Tensor, lengths: Tensor, own_column: Tensor, duplicate_of: Tensor | None = None
) -> dict[str, float]:
    """Whether reasoning still depends on what it was written for (RAGEN-2, Wang et al. 2026, template collapse).

    Entropy cannot tell: reasoning may be diverse and yet the same for every prompt. Prompts that differ from a
    reasoning's own in the image only, or in the text only, measure what it takes from either.

    Args:
        log_probs, lengths, own_column: as for :func:`information`.
        duplicate_of: (M,) for each prompt the column of an equal one; its own, or a negative number, if there is none.
            Retrieving an equal prompt counts as right. (All columns count in the mixture, as they do in the batch.)

    Returns:
        Mutual information I(X; Z) as ``mi_sequence``, ``mi_token_code`` and ``mi_token_paper``, the means of
        :class:`Information`; at most log M per sequence. ``h_z_given_x`` = -mean matched and ``h_z`` = -mean marginal,
        entropies of whole sequences, whose difference is ``mi_sequence``. ``retrieval@k`` for k = 1, 2, 4, 8: how
        often the own prompt is among the k that make the reasoning most probable, in expectation over ties broken at
        random. ``chance@k``: the same for a random order. ``z_score``: mean of (matched - marginal) over the standard
        deviation of the marginals (ddof 0) + 1e-3, of whole sequences, as in RAGEN-2's code.
    """
    found = information(log_probs, lengths, own_column)
    joint, own = _exact(log_probs), _numbers(own_column)
    right = _same_prompt(joint.shape[1], own, duplicate_of)
    result = {
        "mi_sequence": found.sequence.mean(),
        "mi_token_code": found.token_code.mean(),
        "mi_token_paper": found.token_paper.mean(),
        "h_z_given_x": -found.matched.mean(),
        "h_z": -found.marginal.mean(),
        "z_score": found.sequence.mean() / (found.marginal.std(unbiased=False) + Z_EPS),
    }
    for depth in RETRIEVAL_DEPTHS:
        result[f"retrieval@{depth}"] = _retrieval(joint, right, depth).mean()
        result[f"chance@{depth}"] = _retrieval(torch.zeros_like(joint), right, depth).mean()
    return {name: float(value) for name, value in result.items()}


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: Tensor, clusters: Tensor, seed: int, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of a mean, drawing whole clusters with replacement.

    Args:
        values: (N,) such as one of the fields of :class:`Information`.
        clusters: (N,) what belongs together: the prompt of each reasoning, since reasonings of one prompt are alike.
        seed: equal seeds give equal intervals.
        level: share of the bootstrap means inside.
    """
    x = _exact(values)
    _, cluster, sizes = torch.unique(_numbers(clusters), return_inverse=True, return_counts=True)
    sums = x.new_zeros(len(sizes)).index_add(0, cluster, x)
    drawn = torch.randint(len(sizes), (resamples, len(sizes)), generator=_generator(seed), device="cpu")
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, means.new_tensor([tail, 1 - tail])).tolist()
    return Interval(float(x.mean()), low, high)


@dataclass(frozen=True)
class PermutationNull:
    """What a mutual information would be if reasoning had nothing to do with prompts.

    Attributes:
        value: the mutual information measured.
        mean, std: of the permuted ones.
        p_value: share of permutations with as much, the measured one among them.
    """

    value: float
    mean: float
    std: float
    p_value: float


def permutation_null(
    log_probs: Tensor,
    lengths: Tensor,
    own_column: Tensor,
    seed: int,
    permutations: int = 1000,
    normalization: Normalization = "sequence",
) -> PermutationNull:
    """Mutual information with the prompts dealt out anew to the reasonings, many times.

    Args:
        log_probs, lengths, own_column: as for :func:`information`.
        seed: equal seeds give equal permutations.
        normalization: which of the three.
    """
    joint, tokens, own = _exact(log_probs), _exact(lengths).clamp(min=1)[:, None], _numbers(own_column)
    value = float(getattr(information(log_probs, lengths, own_column), normalization).mean())
    if normalization == "token_code":
        pointwise = joint / tokens - _marginal(joint / tokens)[:, None]
    else:
        pointwise = (joint - _marginal(joint)[:, None]) / (tokens if normalization == "token_paper" else 1)
    orders = torch.rand(permutations, len(own), generator=_generator(seed), device="cpu").argsort(1)
    null = pointwise.gather(1, own[orders].T).mean(0)  # (permutations,)
    reached = int((null >= value - 1e-12).sum())
    return PermutationNull(
        value, float(null.mean()), float(null.std(unbiased=False)), (1 + reached) / (1 + permutations)
    )


def _matched(joint: Tensor, own: Tensor) -> Tensor:
    return joint.gather(1, own[:, None])[:, 0]


def _marginal(joint: Tensor) -> Tensor:
    return joint.logsumexp(1) - math.log(joint.shape[1])


def _same_prompt(columns: int, own: Tensor, duplicate_of: Tensor | None) -> Tensor:
    """(N, M) bool: the columns that hold a reasoning's own prompt."""
    prompt = torch.arange(columns, device=own.device)
    if duplicate_of is not None:
        if len(duplicate_of) != columns:
            raise ValueError(f"duplicate_of needs a number for each of {columns} prompts, got {len(duplicate_of)}")
        other = torch.where(_numbers(duplicate_of) < 0, prompt, _numbers(duplicate_of))
        for _ in range(columns):  # duplicates of duplicates: each takes the smallest column that it is linked to
            prompt = torch.minimum(prompt, prompt[other]).scatter_reduce(0, other, prompt, "amin")
    return prompt[own][:, None] == prompt


def _retrieval(joint: Tensor, right: Tensor, depth: int) -> Tensor:
    """(N,) chance that one of the right columns is among the ``depth`` best, if ties are broken at random.

    Where a log-probability is no number there is no order, and the chance is none either.
    """
    best = joint.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    better = (joint > best).sum(1)
    tied_right = (right & (joint == best)).sum(1)
    tied_wrong = (~right & (joint == best)).sum(1)
    # Draw the places that are left among the tied columns: all of them wrong is a hypergeometric probability.
    missed = joint.new_ones(len(joint))
    for place in range(depth):
        drawing = place >= better
        left = tied_wrong - (place - better)
        miss = left.clamp(min=0).double() / (left + tied_right).clamp(min=1)
        missed = torch.where(drawing, missed * miss, missed)
    return torch.where(joint.isnan().any(1), torch.nan, 1 - missed)


# ---------------------------------------------------------------------------------------------------------- perplexity


def state_perplexity(token_log_probs: Tensor, mask: Tensor | None = None, units: int | Tensor | None = None) -> float:
    """Perplexity of the true state's text given the context (SPA, Chen et al. 2025): ``exp(-Σ log p / units)``.

    Beside it belongs :func:`random_guess_perplexity` of the same unit, of a model that knows nothing of the state.

    Args:
        token_log_probs: log-probabilities of the true text's tokens, any shape.
        mask: the same shape, 1 on the tokens that count; all by default.
        units: what to divide by: by default the number of tokens (per token); the number of cells of the state's grid
            for the perplexity per cell.

    Raises:
        ValueError: there are no tokens or units.
    """
    x = _exact(token_log_probs)
    counted = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.cpu().bool()
    number = int(counted.sum()) if units is None else int(units)
    if number < 1:
        raise ValueError("a perplexity needs at least one token or cell, got none")
    return float((-x[counted].sum() / number).exp())


def random_guess_perplexity(choices: Tensor | Sequence[int]) -> float:
    """Perplexity of guessing evenly among what each unit (token or cell) could be: the geometric mean of the choices.

    Raises:
        ValueError: there are no units, or one without any choice.
    """
    x = _exact(choices)
    if not x.numel() or float(x.min()) < 1:
        raise ValueError(f"need at least one choice for each of at least one unit, got {x.tolist()}")
    return float(x.log().mean().exp())


# -------------------------------------------------------------------------------------------------------- the training


@dataclass(frozen=True)
class LogProbGap:
    """How far the trainer's log-probabilities are from the sampler's, over masked tokens.

    Attributes:
        mean, std: of ``log π_trainer - log π_sampler`` (std with ddof 0).
        mean_abs, max_abs: of its size; in the first step of an update against old log-probabilities, exactly 0.
        kl: k3 estimate of ``KL(π_sampler || π_trainer)``.
        probability_mean_abs, probability_max_abs: of the difference of the probabilities themselves.
    """

    mean: float
    std: float
    mean_abs: float
    max_abs: float
    kl: float
    probability_mean_abs: float
    probability_max_abs: float


def log_prob_gap(log_probs: Tensor, other: Tensor, mask: Tensor) -> LogProbGap:
    """Compare two sets of log-probabilities of the same tokens.

    Args:
        log_probs: (B, T) from the trainer.
        other: (B, T) from the sampler, or from the trainer before.
        mask: (B, T) 1 on response tokens. Without any, everything is 0.
    """
    counted = mask.cpu().bool()
    if not counted.any():
        return LogProbGap(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    mine, theirs = _exact(log_probs)[counted], _exact(other)[counted]
    gap = mine - theirs
    shift = (mine.exp() - theirs.exp()).abs()
    return LogProbGap(
        mean=float(gap.mean()),
        std=float(gap.std(unbiased=False)),
        mean_abs=float(gap.abs().mean()),
        max_abs=float(gap.abs().max()),
        kl=float(kl(theirs, mine, "k3").mean()),
        probability_mean_abs=float(shift.mean()),
        probability_max_abs=float(shift.max()),
    )


@dataclass(frozen=True)
class ClipShares:
    """Shares of the masked tokens whose policy loss is at a bound, so that they teach nothing.

    Attributes:
        high: positive advantage and a ratio above 1 + clip_high.
        low: negative advantage and a ratio below 1 - clip_low.
        dual: negative advantage and a ratio above the dual clip.
    """

    high: float
    low: float
    dual: float


def clip_shares(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> ClipShares:
    """How often each bound of :func:`vagen.rl.losses.ppo_clip` holds; (B, T) each, all 0 without masked tokens."""
    counted = mask.cpu().bool()
    ratio = (_exact(log_probs) - _exact(old_log_probs))[counted].exp()
    advantage = _exact(advantages)[counted]
    bounded = (
        (advantage > 0) & (ratio > 1 + clip_high),
        (advantage < 0) & (ratio < 1 - clip_low),
        (advantage < 0) & (ratio > (math.inf if dual_clip is None else dual_clip)),
    )
    return ClipShares(*(_share(x) for x in bounded))


def fraction(flags: Tensor | Sequence[bool]) -> float:
    """Share of flags that are set (truncated trajectories, kept groups, successes); 0 without any."""
    return _share(as_tensor(flags).bool())


def mean_by(values: Tensor | Sequence[float], labels: Sequence[str]) -> dict[str, float]:
    """Mean of the values of each label, such as success by world, in the labels' alphabetical order."""
    x = _exact(values).tolist()
    return {
        label: math.fsum(value for value, own in zip(x, labels, strict=True) if own == label) / labels.count(label)
        for label in sorted(set(labels))
    }


def variance_buckets(scores: Tensor, buckets: int = 6) -> Tensor:
    """(G,) -> (G,): which of ``buckets`` equally large buckets a group belongs to, 0 with the smallest scores.

    For the gradient by reward variance (RAGEN-2, Wang et al. 2026): where rewards hardly differ, the task's gradient
    is small and what regularizes has its way.
    """
    order = _exact(scores).argsort(stable=True)
    bucket = torch.empty_like(order)
    bucket[order] = torch.arange(len(order), device=order.device) * buckets // max(1, len(order))
    return bucket


def gradient_shares(norms: Mapping[str, float]) -> dict[str, float]:
    """Each part's share of the summed gradient norms (task, entropy, KL); all 0 if there is no gradient."""
    total = math.fsum(norms.values())
    return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}


def _share(flags: Tensor) -> float:
    return float(flags.double().mean()) if flags.numel() else 0.0


# ----------------------------------------------------------------------------------------------------------- abilities


def pass_at_k(trials: Tensor | Sequence[int], successes: Tensor | Sequence[int], k: int) -> Tensor:
    """Chance that one of k trials succeeds, without bias (Chen et al. 2021, equation 1): ``1 - C(n-c, k) / C(n, k)``.

    Args:
        trials, successes: (P,) n and c of each problem.

    Returns:
        (P,) float64; its mean is pass@k.

    Raises:
        ValueError: k is not from 1 to n, or c not from 0 to n.
    """
    n, c = _exact(trials), _exact(successes)
    if n.shape != c.shape or (n.numel() and not (1 <= k <= int(n.min()) and bool(((c >= 0) & (c <= n)).all()))):
        raise ValueError(f"pass@k needs 1 <= k <= trials and 0 <= successes <= trials, got k={k} of {n}, {c}")
    failed = torch.ones_like(n)
    for drawn in range(k):
        failed = failed * (n - c - drawn) / (n - drawn)  # 0 for good once every draw would succeed
    return 1 - failed


def interval_score(low: float, high: float, actual: float) -> float:
    """What an interval for the steps or tokens left is worth, ``1.8 · max(0, 1 - width / actual)`` (Lin et al. 2026).

    The score of BAGEN. 0 if the interval does not cover the truth. "Impossible" is the interval [inf, inf], and the
    truth is infinite where the solver finds no way: if right, it has width 0 and the full score, as [0, 0] has where
    nothing is left.
    """
    if not low <= actual <= high:
        return 0.0
    if low == high:
        return INTERVAL_FULL_SCORE
    return INTERVAL_FULL_SCORE * max(0.0, 1 - (high - low) / actual) if actual > 0 else 0.0

"""Which groups of rollouts are worth an update: those whose rewards differ.

In a group whose episodes all earned the same, advantages are 0 and regularization is all that is left of the gradient.
RAGEN (Wang et al. 2025, 2026) and DAPO (Yu et al. 2025) therefore leave such groups out, each in its own way.

Knows nothing about rollouts or losses: it turns rewards into scores of groups, and scores into indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vagen.rl.segments import Ids, as_float, as_tensor, groups_of

Mode = Literal["ragen_code", "ragen_paper"]
ScoreKind = Literal["std", "variance"]
Scaling = Literal["none", "linear", "sqrt"]

ZERO = 1e-10  # scores no larger count as zero
MODE_EPS = {"ragen_code": 0.01, "ragen_paper": 0.0}  # slack in the mass that top_p must reach
MOST_EMPTY_STEPS = 5  # so many steps in a row without a group to learn from end a training


class NothingToLearnError(RuntimeError):
    """No group has been worth an update for many steps; the message says what to look at."""


# -------------------------------------------------------------------------------------------------------------- scores


@torch.no_grad()
def group_scores(
    rewards: Tensor, groups: Ids, kind: ScoreKind = "std", ddof: int = 1, episodes: Ids | None = None
) -> Tensor:
    """How much the rewards within each group differ.

    Args:
        rewards: (B,) total reward of the episode a row belongs to, or only the part that should count.
        groups: (B,) which rows share the world and its seed.
        kind: standard deviation or variance.
        ddof: 1 as in RAGEN, 0 (population) for VAGEN's filter.
        episodes: (B,) which rows belong to one episode, which then counts once, with its first row's reward.

    Returns:
        (G,) scores in ascending order of the group ids; 0 for a group of one, and exactly 0 where all are equal.
    """
    (rewards,) = as_float(rewards)
    variances = groups_of(groups, episodes, rewards.device).variances(rewards, ddof)
    if kind == "variance":
        return variances
    if kind == "std":
        return variances.sqrt()
    raise ValueError(f"unknown kind of score {kind!r}: known are std, variance")


def rows_of(kept: Tensor, groups: Ids) -> Tensor:
    """(B,) bool: the rows of the kept groups, given as indices into :func:`group_scores`."""
    found = groups_of(groups, device=kept.device)
    chosen = torch.zeros(found.count, dtype=torch.bool, device=kept.device)
    chosen[kept] = True
    return chosen[found.number]


@dataclass(frozen=True)
class Gate:
    """Scores that only real outcomes contribute to.

    Attributes:
        scores: (G,) scores of the total reward, 0 for phantom groups.
        phantom: (G,) bool, the groups whose episodes differ in nothing but penalties.
        variance_mean, variance_std: of the total reward's variance over groups (std with ddof 1, 0 for one group).
    """

    scores: Tensor
    phantom: Tensor
    variance_mean: float
    variance_std: float

    @property
    def variance_ratio(self) -> float:
        """Std/Mean of the reward variance: how unevenly the signal is spread over groups; 0 without any signal."""
        return self.variance_std / self.variance_mean if self.variance_mean > 0 else 0.0


@torch.no_grad()
def outcome_gate(
    outcomes: Tensor,
    penalties: Tensor,
    groups: Ids,
    kind: ScoreKind = "std",
    ddof: int = 1,
    episodes: Ids | None = None,
) -> Gate:
    """Scores of the total reward that do not count variance which comes from format penalties alone.

    A group in which every episode did equally well but some were badly formatted passes any filter by variance, and
    teaches the format only.

    Args:
        outcomes: (B,) reward without format rewards and penalties.
        penalties: (B,) those; the total reward is the sum of both.
        groups, kind, ddof, episodes: as for :func:`group_scores`.
    """
    outcomes, penalties = as_float(outcomes, penalties)
    totals = outcomes + penalties
    scores = group_scores(totals, groups, kind, ddof, episodes)
    phantom = (scores > ZERO) & (group_scores(outcomes, groups, kind, ddof, episodes) <= ZERO)
    variances = group_scores(totals, groups, "variance", ddof, episodes)
    return Gate(
        scores.masked_fill(phantom, 0),
        phantom,
        float(variances.mean()) if len(variances) else 0.0,
        float(variances.std()) if len(variances) > 1 else 0.0,
    )


# ----------------------------------------------------------------------------------------------------------- selection


@dataclass(frozen=True)
class Selection:
    """What :func:`select_groups` was asked; ``groups``: how many there were before zeros were dropped."""

    value: float
    mode: Mode
    largest: bool
    eps: float
    groups: int


def select_groups(
    scores: Tensor,
    strategy: str,
    value: float | None,
    mode: Mode = "ragen_code",
    largest: bool = True,
    include_zero: bool = True,
    eps: float | None = None,
) -> Tensor:
    """Choose the groups to learn from.

    Strategies, with p or k for ``value``:

    - ``top_p``: groups in descending order until their scores add up to ``p · sum - eps``, stopping before a score of
      0 or less; none at all if the sum is not reached by then. Mode ``ragen_code`` adds up the scores as they are and
      has ``eps`` 0.01; ``ragen_paper`` takes scores for standard deviations, adds up their squares, and has ``eps`` 0.
      With p = 1 groups without variance are dropped (the released code keeps them; that is ``none`` here).
    - ``top_p_softmax``: as nucleus sampling, the fewest groups whose softmax adds up to p.
    - ``top_k``: the share k of all groups, rounded down, at least one. ``top_k_abs``: k groups, at least one.
    - ``min_p``: groups with at least p times the largest score (for ``largest`` off, at most the smallest over p).
    - ``dapo``: groups whose rewards are not all the same (dynamic sampling, Yu et al. 2025); no value.
    - ``vagen``: ``top_p`` as VAGEN's filter has it: no ``eps``, at least one group, and all of them if none has any
      variance. Its scores are population variances, ``group_scores(..., "variance", ddof=0)``, taken as they are.
    - ``none``: all groups.

    Args:
        scores: (G,) from :func:`group_scores` or :func:`outcome_gate`.
        largest: off to prefer small scores, to see what filtering is worth.
        include_zero: off to drop groups of score 0 beforehand.
        eps: slack of ``top_p`` instead of the mode's.

    Returns:
        Ascending indices of the kept groups. Of equal scores, the first are kept.

    Raises:
        ValueError: an unknown strategy or mode, scores that are no finite numbers, or no finite value where the
            strategy takes one.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown filter strategy {strategy!r}: known are {', '.join(STRATEGIES)}")
    if mode not in MODE_EPS:
        raise ValueError(f"unknown filter mode {mode!r}: known are {', '.join(MODE_EPS)}")
    scores = as_tensor(scores)
    exact = scores.detach().cpu().double()
    if value is None and strategy in VALUELESS:
        value = 0.0
    if value is None or not (exact.isfinite().all() and math.isfinite(value)):
        raise ValueError(f"filter {strategy!r} needs finite scores and value, got {exact.tolist()} and {value}")
    eligible = torch.ones_like(exact, dtype=torch.bool) if include_zero else exact.abs() > ZERO
    candidates = eligible.nonzero()[:, 0]
    if len(candidates):
        selection = Selection(value, mode, largest, MODE_EPS[mode] if eps is None else eps, len(exact))
        candidates = candidates[STRATEGIES[strategy](exact[candidates], selection)]
    return candidates.sort().values.to(scores.device)


def _order(scores: Tensor, selection: Selection) -> Tensor:
    return scores.sort(descending=selection.largest, stable=True).indices


def _reach(mass: Tensor, share: float, eps: float) -> int:
    """How many leading entries add up to ``share`` of the mass, less ``eps``; more than there are if all do not."""
    # The last cumulative sum, not sum(): they round differently, and share 1 would never be reached.
    cumulative = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    reached = (cumulative >= share * cumulative[-1] - eps).nonzero()[:, 0]
    return int(reached[0]) if len(reached) else len(mass) + 1


def _top_p(scores: Tensor, selection: Selection) -> Tensor:
    order = _order(scores, selection)
    ordered = scores[order]
    mass = ordered.square() * ordered.sign() if selection.mode == "ragen_paper" else ordered
    needed = _reach(mass, selection.value, selection.eps)
    positive = int((ordered > 0).cumprod(0).sum())  # until the first that is not
    return order[:needed] if needed <= positive else order[:0]


def _top_p_softmax(scores: Tensor, selection: Selection) -> Tensor:
    order = _order(scores, selection)
    cumulative = torch.softmax(scores if selection.largest else -scores, 0)[order].cumsum(0)
    return order[: int((cumulative < selection.value).sum()) + 1]


def _top_k(scores: Tensor, selection: Selection) -> Tensor:
    return _order(scores, selection)[: max(1, int(selection.value * selection.groups))]


def _top_k_abs(scores: Tensor, selection: Selection) -> Tensor:
    return _order(scores, selection)[: max(1, int(selection.value))]


def _min_p(scores: Tensor, selection: Selection) -> Tensor:
    if selection.largest:
        return (scores >= scores.max() * selection.value - ZERO).nonzero()[:, 0]
    return (scores <= scores.min() / max(selection.value, ZERO) + ZERO).nonzero()[:, 0]


def _dapo(scores: Tensor, selection: Selection) -> Tensor:
    return (scores > ZERO).nonzero()[:, 0]


def _vagen(scores: Tensor, selection: Selection) -> Tensor:
    order = _order(scores, selection)
    if scores.sum() <= 0:
        return order
    return order[: max(1, _reach(scores[order], selection.value, 0.0))]


def _none(scores: Tensor, selection: Selection) -> Tensor:
    return torch.arange(len(scores), device=scores.device)


#: (scores, how) -> positions in scores. Adding a strategy is one function and one entry.
STRATEGIES: dict[str, Callable[[Tensor, Selection], Tensor]] = {
    "top_p": _top_p,
    "top_p_softmax": _top_p_softmax,
    "top_k": _top_k,
    "top_k_abs": _top_k_abs,
    "min_p": _min_p,
    "dapo": _dapo,
    "vagen": _vagen,
    "none": _none,
}
VALUELESS = ("dapo", "none")  # they take no p or k


# -------------------------------------------------------------------------------------------------------- what follows


def loss_scale(kept_ratio: float, how: Scaling) -> float:
    """What to multiply losses with when only a share of the groups is kept (RAGEN-2; VAGEN uses ``sqrt``).

    ``none``: 1. ``linear``: the share, as if the groups left out had lost 0. ``sqrt``: its root, in between.

    Raises:
        ValueError: an unknown scaling, or no share.
    """
    if not 0 <= kept_ratio <= 1:
        raise ValueError(f"kept_ratio is a share of the groups, from 0 to 1, got {kept_ratio}")
    if how not in SCALINGS:
        raise ValueError(f"unknown loss scaling {how!r}: known are {', '.join(SCALINGS)}")
    return SCALINGS[how](kept_ratio)


#: Share of the groups kept -> factor of the loss.
SCALINGS: dict[str, Callable[[float], float]] = {
    "none": lambda kept_ratio: 1.0,
    "linear": float,
    "sqrt": math.sqrt,
}


def count_empty(empty_steps: int, kept: int) -> int:
    """How many steps in a row have had no group to learn from, after one more that kept ``kept`` groups.

    An empty step is skipped.

    Raises:
        NothingToLearnError: it is the :data:`MOST_EMPTY_STEPS`-th in a row.
    """
    if kept:
        return 0
    if empty_steps + 1 >= MOST_EMPTY_STEPS:
        raise NothingToLearnError(
            f"no group of rollouts was worth an update for {MOST_EMPTY_STEPS} steps in a row: all episodes of a group "
            "earn the same. Check the success rate (near 0: easier worlds, a better start; near 1: harder worlds), "
            "use larger groups, or a weaker filter"
        )
    return empty_steps + 1

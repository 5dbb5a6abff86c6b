"""Advantages of multi-turn episodes: who deserves the reward.

Token estimators read (B, T) tensors of padded rows in which observations lie between responses. They look at response
tokens only: what rewards and values say elsewhere does not matter, and results are 0 there. Everything is computed
without gradients, in float64 if an argument is, else in float32. No estimator whitens; :func:`whiten` does.

A trajectory that was cut (truncated, not terminated) goes on somewhere: pass the value of where it goes on as
``bootstrap``, see :func:`bootstrap_values`. Without it, every row ends in a terminal state of value 0.

Knows nothing about policies, losses or where rewards come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vagen.rl.segments import Ids, as_float, as_tensor, following, groups_of, turns_of, value_at

GROUP_EPS = 1e-6  # added to a group's standard deviation
WHITEN_EPS = 1e-8  # added to the batch's variance


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, bootstrap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over response tokens (Schulman et al. 2016, equation 16).

    ``δ_t = r_t + γ V_next - V_t`` and ``A_t = δ_t + γ λ A_next``, where *next* is the next response token of the row:
    observation tokens between two turns are skipped and cost no discount.

    Args:
        rewards: (B, T).
        values: (B, T) the critic's value before each token is written.
        mask: (B, T) 1 on response tokens.
        gamma: discount per response token.
        lam: 0 trusts the critic, 1 the rewards.
        bootstrap: (B,) value of the state after the row's last response token; 0 where it is terminal (the default).

    Returns:
        (B, T) advantages, and (B, T) returns ``A_t + V_t`` for the critic to fit; both 0 outside responses.
    """
    rewards, values = as_float(rewards, values)
    mask = mask.bool()
    delta = _errors(rewards, values, mask, gamma, bootstrap)
    advantages = _accumulate(delta, torch.full_like(delta, gamma * lam), mask)
    return advantages, (advantages + values).masked_fill(~mask, 0)


@torch.no_grad()
def bi_level_gae(
    rewards: Tensor,
    values: Tensor,
    turn_ids: Tensor,
    gamma: float,
    lam: float,
    gamma_turn: float,
    lam_turn: float | None = None,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Bi-level GAE (VAGEN, Wang et al. 2025, section 4.2): first between turns, then inside each.

    Between turns, with ``e_k`` the last token of turn k and ``r_k`` the sum of the turn's rewards:
    ``δ_k = r_k + γ_turn V(e_{k+1}) - V(e_k)`` and ``A_k = δ_k + γ_turn λ_turn A_{k+1}``. Inside a turn: GAE over its
    tokens with the reward at ``e_k`` replaced by ``A_k + V(e_k)``, where bootstrap and accumulator start afresh, so
    that the last token's advantage is ``A_k``. Turns are told apart by their ids: a turn without reward is a turn like
    any other. Equal to :func:`gae` if ``γ_turn = γ = λ = λ_turn = 1`` and rewards fall on turn ends only.

    A reward before ``e_k`` (a KL penalty) is kept where it falls and is part of ``r_k`` too, so the tokens of the
    same turn before it see it twice. Where that is not wanted, :func:`at_turn_ends` moves rewards to turn ends first.

    Args:
        rewards, values: (B, T), as for :func:`gae`.
        turn_ids: (B, T) id of the turn a response token belongs to, -1 outside responses.
        gamma, lam: of the tokens inside a turn.
        gamma_turn, lam_turn: from turn to turn; ``lam_turn`` is ``lam`` by default, as in the released code.
        bootstrap: (B,) value of the state after the row's last turn; 0 where it is terminal (the default).

    Returns:
        (B, T) advantages and (B, T) returns ``A_t + V_t``; both 0 outside responses.
    """
    rewards, values = as_float(rewards, values)
    turns = turns_of(turn_ids)
    ends = turns.totals(values.masked_fill(~turns.last, 0))
    lam_turn = lam if lam_turn is None else lam_turn
    per_turn, _ = gae(turns.totals(rewards), ends, turns.exists, gamma_turn, lam_turn, bootstrap)
    delta = _errors(rewards, values, turns.mask, gamma, None)
    delta = torch.where(turns.last, turns.broadcast(per_turn), delta)
    decay = torch.full_like(delta, gamma * lam).masked_fill(turns.last, 0)
    advantages = _accumulate(delta, decay, turns.mask)
    return advantages, (advantages + values).masked_fill(~turns.mask, 0)


@torch.no_grad()
def turn_gae(
    rewards: Tensor,
    values: Tensor,
    turn_ids: Tensor,
    gamma: float,
    lam: float,
    bootstrap: Tensor | None = None,
    value_from: Literal["last", "first"] = "last",
) -> tuple[Tensor, Tensor]:
    """GAE with one step per turn, the same for every token of the turn.

    The chain between turns of :func:`bi_level_gae` alone: ``r_k`` is the sum of the turn's rewards, ``V_k`` the value
    at one of its tokens. Turn-wise GAE of RAGEN (Wang et al. 2025) reads it at the ``last`` token; VAGEN's later code
    at the ``first``, the state in which the turn was begun.

    Args:
        rewards, values, turn_ids, bootstrap: as for :func:`bi_level_gae`.
        gamma, lam: from turn to turn.
        value_from: the token whose value stands for the turn. It is the one the critic should be trained at.

    Returns:
        (B, T) advantages and returns ``A_k + V_k``, on every token of turn k; 0 outside responses.
    """
    rewards, values = as_float(rewards, values)
    turns = turns_of(turn_ids)
    read = turns.last if value_from == "last" else turns.first
    chain = gae(turns.totals(rewards), turns.totals(values.masked_fill(~read, 0)), turns.exists, gamma, lam, bootstrap)
    return turns.broadcast(chain[0]), turns.broadcast(chain[1])


@torch.no_grad()
def no_concat_gae(
    rewards: Tensor,
    values: Tensor,
    episode_ids: Ids,
    turn_index: Ids,
    gamma: float,
    lam: float,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """GAE over the turns of episodes whose turns are rows of their own (VAGEN's ``no_concat`` context).

    Args:
        rewards: (N,) the sum of each turn's rewards.
        values: (N,) the value at each turn's first response token.
        episode_ids: (N,) which episode a row belongs to; rows may come in any order.
        turn_index: (N,) where in its episode a turn stands; only the order counts. Of rows that repeat a turn (as
            padding) the first counts, and the others get its result.
        gamma, lam: from turn to turn.
        bootstrap: (N,) value of the state after a row; read at each episode's last turn only, 0 by default.

    Returns:
        (N,) advantages and (N,) returns.
    """
    rewards, values = as_float(rewards, values)
    index = as_tensor(turn_index, rewards.device)
    episodes = groups_of(episode_ids, index, rewards.device)
    rows = episodes.votes.nonzero()[:, 0]
    rows = rows[index[rows].argsort(stable=True)]
    rows = rows[episodes.number[rows].argsort(stable=True)]  # by episode, then by turn
    if not len(rows):
        return rewards.clone(), values.clone()
    episode = episodes.number[rows]
    lengths = torch.bincount(episode, minlength=episodes.count)
    exists = torch.arange(int(lengths.max()), device=rows.device) < lengths[:, None]  # (E, K)
    after = None if bootstrap is None else bootstrap[rows[lengths.cumsum(0) - 1]]
    by_turn = values.new_zeros((2, *exists.shape))
    by_turn[0][exists], by_turn[1][exists] = rewards[rows], values[rows]
    chain = gae(by_turn[0], by_turn[1], exists, gamma, lam, after)
    by_row = values.new_zeros((2, len(values)))
    by_row[0][rows], by_row[1][rows] = chain[0][exists], chain[1][exists]
    advantages, returns = by_row[:, episodes.leader]
    return advantages, returns


@torch.no_grad()
def grpo(scores: Tensor, groups: Ids, episodes: Ids | None = None, normalize_std: bool = True) -> Tensor:
    """Group-relative advantages (GRPO, Shao et al. 2024): ``(R - mean) / (std + 1e-6)``, std with ddof 1.

    A group of one has mean 0 and standard deviation 1, as in verl. Equal scores give exactly 0.

    Args:
        scores: (B,) total reward of the episode a row belongs to.
        groups: (B,) which rows share the world and its seed.
        episodes: (B,) which rows belong to one episode, which then has one vote in its group: its first row's.
        normalize_std: off for Dr. GRPO (Liu et al. 2025), which only subtracts the mean; whitened over the batch, that
            is REINFORCE++-baseline (Hu 2025).

    Returns:
        (B,) advantages.
    """
    (scores,) = as_float(scores)
    found = groups_of(groups, episodes, scores.device)
    alone = (found.sizes(scores) == 1)[found.number]
    advantages = torch.where(alone, scores, found.deviations(scores))
    if not normalize_std:
        return advantages
    deviation = found.variances(scores, ddof=1).sqrt()[found.number]
    return advantages / (torch.where(alone, 1.0, deviation) + GROUP_EPS)


def dr_grpo(scores: Tensor, groups: Ids, episodes: Ids | None = None) -> Tensor:
    """Dr. GRPO (Liu et al. 2025): :func:`grpo` without the standard deviation, which favours easy and hard groups."""
    return grpo(scores, groups, episodes, normalize_std=False)


@torch.no_grad()
def batch_baseline(scores: Tensor, episodes: Ids | None = None) -> Tensor:
    """``R - mean`` over the whole batch: the baseline of REINFORCE++ (Hu 2025) for one score per episode.

    Args:
        scores: (B,) total reward of the episode a row belongs to.
        episodes: (B,) which rows belong to one episode, which then has one vote.
    """
    (scores,) = as_float(scores)
    everything = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return groups_of(everything, episodes).deviations(scores)


@torch.no_grad()
def reinforce_plus_plus(
    rewards: Tensor, mask: Tensor, gamma: float, bootstrap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """REINFORCE++ (Hu 2025): discounted rewards to go, minus their mean over the batch's response tokens.

    The paper divides by the standard deviation too: :func:`whiten` the result.

    Args:
        rewards, mask, gamma, bootstrap: as for :func:`gae`.

    Returns:
        (B, T) advantages and (B, T) rewards to go, 0 outside responses.
    """
    (rewards,) = as_float(rewards)
    mask = mask.bool()
    steps = _errors(rewards, torch.zeros_like(rewards), mask, gamma, bootstrap)
    returns = _accumulate(steps, torch.full_like(steps, gamma), mask)
    return _centred(returns, mask), returns


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance over the masked entries: ``(x - mean) / sqrt(variance + 1e-8)``, ddof 1, as in verl.

    Args:
        x: any shape; ``mask``: the same shape, 1 on the entries that count (trained tokens).

    Returns:
        The whitened entries, 0 elsewhere. Equal entries, and a single one, become exactly 0.
    """
    (x,) = as_float(x)
    mask = mask.bool()
    centred = _centred(x, mask)
    variance = centred.square().sum() / (mask.sum() - 1).clamp(min=1)
    return centred * (variance + WHITEN_EPS).rsqrt()


@torch.no_grad()
def at_turn_ends(rewards: Tensor, turn_ids: Tensor) -> Tensor:
    """(B, T) rewards with each turn's sum on its last token and nothing elsewhere."""
    (rewards,) = as_float(rewards)
    turns = turns_of(turn_ids)
    return turns.broadcast(turns.totals(rewards)).masked_fill(~turns.last, 0)


@torch.no_grad()
def bootstrap_values(values: Tensor, mask: Tensor, truncated: Tensor, next_values: Tensor | None = None) -> Tensor:
    """What the state after the last response token is worth, for the ``bootstrap`` argument of the estimators.

    Args:
        values: (B, T).
        mask: (B, T) 1 on response tokens.
        truncated: (B,) whether the row was cut: time ran out, or it grew too long.
        next_values: (B,) value at the first position of the turn that would have followed; NaN where it is not known.

    Returns:
        (B,) values, 0 where the row terminated, else ``next_values`` where known, else the value at the last response
        token. 0 for a row without any.
    """
    (values,) = as_float(values)
    mask = mask.bool()
    is_last = mask & (following(mask) == mask.shape[1])
    after = values.masked_fill(~is_last, 0).sum(1)
    if next_values is not None:
        after = torch.where(next_values.isnan(), after, next_values.to(after.dtype))
    return after.masked_fill(~(truncated.bool() & mask.any(1)), 0)


def _errors(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, bootstrap: Tensor | None) -> Tensor:
    """(B, T) temporal-difference errors of response tokens; meaningless elsewhere."""
    after = values.new_zeros(len(values)) if bootstrap is None else bootstrap.detach().to(values.dtype)
    return rewards + gamma * value_at(values, following(mask), after) - values


def _accumulate(delta: Tensor, decay: Tensor, mask: Tensor) -> Tensor:
    """(B, T): ``A_t = δ_t + decay_t A_next`` over the masked tokens of each row, 0 elsewhere."""
    result = torch.zeros_like(delta)
    carried = delta.new_zeros(len(delta))
    for t in reversed(range(delta.shape[1])):
        carried = torch.where(mask[:, t], delta[:, t] + decay[:, t] * carried, carried)
        result[:, t] = carried
    return result.masked_fill(~mask, 0)


def _centred(x: Tensor, mask: Tensor) -> Tensor:
    """Masked entries minus their mean, exactly 0 if all are equal; 0 elsewhere."""
    if not mask.any():
        return torch.zeros_like(x)
    above = (x - x[mask].min()).masked_fill(~mask, 0)
    return (above - above.sum() / mask.sum()).masked_fill(~mask, 0)


# ------------------------------------------------------------------------------------------------------------ registry


@dataclass(frozen=True)
class Rollouts:
    """What estimators may need to know about B rows of T tokens.

    Attributes:
        rewards: (B, T) rewards, on response tokens.
        turn_ids: (B, T) id of the turn a response token belongs to, -1 outside responses.
        groups: (B,) which rows share the world and its seed.
        episodes: (B,) which rows belong to one episode of their group.
        turn_index: (B,) where in its episode a row stands, if a row is a turn; else 0.
        values: (B, T) the critic's values; None without a critic.
        bootstrap: (B,) value of the state after a row, 0 where it is terminal; None if all are.
    """

    rewards: Tensor
    turn_ids: Tensor
    groups: Tensor
    episodes: Tensor
    turn_index: Tensor
    values: Tensor | None = None
    bootstrap: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, the response tokens."""
        return self.turn_ids >= 0


@dataclass(frozen=True)
class Discounts:
    """Discount (γ) and trace (λ) from token to token, and from turn to turn; the defaults are VAGEN's.

    Estimators with one step per turn use the turns' only.
    """

    gamma: float = 1.0
    lam: float = 1.0
    gamma_turn: float = 0.95
    lam_turn: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """What an estimator found.

    Attributes:
        advantages: (B, T), 0 outside responses.
        returns: (B, T) what the critic should predict; None without a critic.
        value_mask: (B, T) bool, the tokens at which it should; None without a critic.
    """

    advantages: Tensor
    returns: Tensor | None = None
    value_mask: Tensor | None = None


@dataclass(frozen=True)
class Estimator:
    """An advantage estimator by its name in a configuration. ``critic``: whether it needs values."""

    compute: Callable[[Rollouts, Discounts], Estimate]
    critic: bool


def estimate(name: str, rollouts: Rollouts, discounts: Discounts) -> Estimate:
    """Advantages of a batch by the estimator of this name.

    Raises:
        ValueError: there is no such estimator, or it needs values and there are none.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"unknown advantage estimator {name!r}: known are {', '.join(ESTIMATORS)}")
    if ESTIMATORS[name].critic and rollouts.values is None:
        raise ValueError(f"advantage estimator {name!r} needs a critic's values, and there are none")
    return ESTIMATORS[name].compute(rollouts, discounts)


def episode_scores(rollouts: Rollouts) -> Tensor:
    """(B,) the total reward of the episode each row belongs to, over all its rows.

    Rows that only fill up a batch must have no response tokens, or they count again.
    """
    (rewards,) = as_float(rollouts.rewards)
    leader = groups_of(rollouts.groups, rollouts.episodes).leader
    by_row = rewards.masked_fill(~rollouts.mask, 0).sum(1)
    return torch.zeros_like(by_row).index_add(0, leader, by_row)[leader]


def _values(rollouts: Rollouts) -> Tensor:
    assert rollouts.values is not None, "checked in estimate"
    return rollouts.values


def _gae(r: Rollouts, d: Discounts) -> Estimate:
    return Estimate(*gae(r.rewards, _values(r), r.mask, d.gamma, d.lam, r.bootstrap), r.mask)


def _bi_level_gae(r: Rollouts, d: Discounts) -> Estimate:
    found = bi_level_gae(r.rewards, _values(r), r.turn_ids, d.gamma, d.lam, d.gamma_turn, d.lam_turn, r.bootstrap)
    return Estimate(*found, r.mask)


def _turn_gae(r: Rollouts, d: Discounts) -> Estimate:
    found = turn_gae(r.rewards, _values(r), r.turn_ids, d.gamma_turn, d.lam_turn, r.bootstrap)
    return Estimate(*found, turns_of(r.turn_ids).last)


def _no_concat_gae(r: Rollouts, d: Discounts) -> Estimate:
    rewards, values = as_float(r.rewards, _values(r))
    first = turns_of(torch.where(r.mask, 0, -1)).first  # a row is a turn, whatever its ids
    written = r.mask.any(1)  # rows without a response (padding) are no turns
    chain = no_concat_gae(
        rewards.masked_fill(~r.mask, 0).sum(1)[written],
        values.masked_fill(~first, 0).sum(1)[written],
        groups_of(r.groups, r.episodes).leader[written],
        r.turn_index[written],
        d.gamma_turn,
        d.lam_turn,
        None if r.bootstrap is None else r.bootstrap[written],
    )
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    advantages[written], returns[written] = chain[0][:, None], chain[1][:, None]
    return Estimate(advantages.masked_fill(~r.mask, 0), returns.masked_fill(~r.mask, 0), first)


def _per_episode(scores: Tensor, r: Rollouts) -> Estimate:
    return Estimate(scores[:, None].expand(r.mask.shape).masked_fill(~r.mask, 0))


def _grpo(r: Rollouts, d: Discounts) -> Estimate:
    return _per_episode(grpo(episode_scores(r), r.groups, r.episodes), r)


def _dr_grpo(r: Rollouts, d: Discounts) -> Estimate:
    return _per_episode(dr_grpo(episode_scores(r), r.groups, r.episodes), r)


def _batch_baseline(r: Rollouts, d: Discounts) -> Estimate:
    episodes = groups_of(r.groups, r.episodes).leader
    return _per_episode(batch_baseline(episode_scores(r), episodes), r)


def _reinforce_plus_plus(r: Rollouts, d: Discounts) -> Estimate:
    return Estimate(reinforce_plus_plus(r.rewards, r.mask, d.gamma)[0])


#: The estimators a configuration can name. Adding one is one function and one entry.
ESTIMATORS: dict[str, Estimator] = {
    "gae": Estimator(_gae, critic=True),
    "bi_level_gae": Estimator(_bi_level_gae, critic=True),
    "turn_gae": Estimator(_turn_gae, critic=True),
    "no_concat_gae": Estimator(_no_concat_gae, critic=True),
    "grpo": Estimator(_grpo, critic=False),
    "dr_grpo": Estimator(_dr_grpo, critic=False),
    "reinforce++": Estimator(_reinforce_plus_plus, critic=False),
    "batch_baseline": Estimator(_batch_baseline, critic=False),
}

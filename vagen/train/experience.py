"""Rollouts as numbers to learn from: what was earned, how likely it was, who deserves what, and how much it counts.

Between playing and updating: plain functions of rollouts and arrays. Knows nothing about engines or processes, beyond
that an episode has a number that is the same whoever plays it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.cloze.sample import simulator
from vagen.config import ConfigError, Rl
from vagen.policy.chat import Chat, Encoded, told_apart
from vagen.policy.packing import Batch, even_batch, pack
from vagen.rl import advantages, filters, losses
from vagen.rl.rewards import RewardWeights, TurnReward, check_budget, turn_reward
from vagen.rollout.turns import Rollout
from worlds.text import Representation

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """A rollout and what it earned.

    Attributes:
        number: in its step, over all processes; episodes of a group follow each other.
        group: of its step.
        rollout: whose turns are trained.
        rewards: of each turn.
    """

    number: int
    group: int
    rollout: Rollout
    rewards: tuple[TurnReward, ...]

    @property
    def total(self) -> float:
        return sum(reward.total for reward in self.rewards)

    @property
    def outcome(self) -> float:
        """The reward without that for the form of responses."""
        return self.total - sum(reward.format for reward in self.rewards)


@dataclass(frozen=True)
class Micro:
    """What goes through the model at once.

    Attributes:
        batch: packed rows; its targets are the responses' tokens.
        turns: (number of an episode, of its turn), in the order of the targets.
    """

    batch: Batch
    turns: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Measured:
    """The numbers of one episode of T response tokens; all processes know those of all episodes.

    Attributes:
        number, group: as in :class:`Episode`.
        lengths: (turns,) tokens of each response.
        rewards: (turns,) what each turn earned.
        truncated: the episode was cut before its world ended it.
        sampled: (T,) log-probabilities when the tokens were sampled.
        old: (T,) log-probabilities before the update, by the trainer in the update's own plan.
        values: (T,) the critic's before the update; zeros without one.
        reference: (T,) log-probabilities under the reference; those of ``old`` without one.
    """

    number: int
    group: int
    lengths: NDArray[np.int64]
    rewards: Floats
    truncated: bool
    sampled: Floats
    old: Floats
    values: Floats
    reference: Floats


@dataclass(frozen=True)
class Target:
    """What an episode's T response tokens are to become.

    Attributes:
        advantages: (T,).
        returns: (T,) what the critic should say; zeros without one.
        weights: (T,) of the policy's losses: summed up so over an update they are its aggregated loss.
        value_weights: (T,) of the critic's losses.
    """

    advantages: Floats
    returns: Floats
    weights: Floats
    value_weights: Floats


# -------------------------------------------------------------------------------------------------------------- checks


def check(rl: Rl) -> None:
    """Refuse settings that name nothing, or would teach the wrong thing.

    Raises:
        ConfigError: names the key.
        RewardError: descriptions could pay more than success.
    """
    for key, name, known in (
        ("rl.advantage.estimator", rl.advantage.estimator, advantages.ESTIMATORS),
        ("rl.filter.strategy", rl.filter.strategy, filters.STRATEGIES),
    ):
        if name not in known:
            raise ConfigError(f"{key}={name!r} is unknown: choose one of {', '.join(known)}")
    if rl.advantage.estimator == "no_concat_gae" and rl.rollouts.context == "concat":
        raise ConfigError("rl.advantage.estimator=no_concat_gae takes turns apart: set rl.rollouts.context=no_concat")
    if rl.policy.old == "own":
        if rl.policy.epochs * rl.policy.minibatches > 1:
            raise ConfigError("rl.policy.old=own takes one update a step: set rl.policy.epochs and minibatches to 1")
        if needs_critic(rl) or rl.divergence.weight:
            raise ConfigError("a critic or a reference is asked before an update: set rl.policy.old=measured")
    turns = rl.rollouts.turns if rl.source == "worlds" else 1
    success = rl.rewards.success if rl.source == "worlds" else 1.0  # of an answer that is exactly right
    check_budget(reward_weights(rl), turns, success, rl.rewards.most)


def reward_weights(rl: Rl) -> RewardWeights:
    """The weights of the parts of the reward."""
    rewards = rl.rewards
    return RewardWeights(rewards.task, rewards.format, rewards.state_estimation, rewards.transition)


def needs_critic(rl: Rl) -> bool:
    """Whether the estimator needs values."""
    return advantages.ESTIMATORS[rl.advantage.estimator].critic


# ------------------------------------------------------------------------------------------------------------- rewards


def rewarded(rollout: Rollout, weights: RewardWeights, representation: Representation) -> tuple[TurnReward, ...]:
    """What each turn of an episode earned: of the world, for its form, and for what it says about the states."""
    world, snapshots = simulator(rollout.trajectory.world), rollout.trajectory.snapshots
    return tuple(
        turn_reward(
            world,
            turn.parsed,
            snapshots[turn.steps],
            snapshots[turn.steps + len(turn.actions)],
            turn.reward,
            weights,
            representation,
        )
        for turn in rollout.turns
    )


# ------------------------------------------------------------------------------------------------------------- packing


def plan(chat: Chat, episodes: Sequence[Episode], micro_rows: int, row_tokens: int) -> list[Micro]:
    """Episodes as packed batches, each turn once; turns of a group share rows, and what their prompts begin with.

    Args:
        episodes: those of a group follow each other.
        micro_rows: rows of a batch.
        row_tokens: a row takes more turns of its group while it stays below so many tokens.
    """
    rows = list(_shared(episodes, row_tokens))
    return [_micro(chat, rows[start : start + micro_rows]) for start in range(0, len(rows), micro_rows)]


@dataclass(frozen=True)
class _Said:
    """A turn: (number of its episode, its own), what it is as a sample, and its prompt as bytes, eight for a token."""

    turn: tuple[int, int]
    encoded: Encoded
    prompt: bytes


def _shared(episodes: Sequence[Episode], row_tokens: int) -> Iterator[list[_Said]]:
    """The turns that go into a row together."""
    for _, members in groupby(episodes, key=lambda episode: episode.group):
        row: list[_Said] = []
        tokens = 0
        for chain in _chains(members):
            own = len(chain[-1].encoded.prompt.ids) + sum(len(said.encoded.answer) for said in chain)
            if row and tokens + own > row_tokens:
                yield row
                row, tokens = [], 0
            row += chain
            tokens += own
        if row:
            yield row


def _chains(members: Iterable[Episode]) -> Iterator[list[_Said]]:
    """Turns in which each prompt begins with the one before: of a conversation that grows, or of equal sights."""
    turns = [_said(member, number) for member in members for number in range(len(member.rollout.turns))]
    chain: list[_Said] = []
    for said in sorted(turns, key=lambda said: said.prompt):
        if chain and not said.prompt.startswith(chain[-1].prompt):
            yield chain
            chain = []
        chain.append(said)
    if chain:
        yield chain


def _said(episode: Episode, number: int) -> _Said:
    turn = episode.rollout.turns[number]
    prompt = told_apart(turn.prompt, turn.pictures).astype(">i8").tobytes()
    return _Said((episode.number, number), turn.encoded, prompt)


def _micro(chat: Chat, rows: Sequence[Sequence[_Said]]) -> Micro:
    batch = even_batch(chat, [pack([said.encoded for said in row]) for row in rows])
    return Micro(batch, tuple(said.turn for row in rows for said in row))


# ------------------------------------------------------------------------------------------------------------- numbers


def measured(
    episodes: Sequence[Episode], micros: Sequence[Micro], found: Sequence[NDArray[np.float32]]
) -> list[Measured]:
    """The numbers of episodes.

    Args:
        micros: in which each turn of the episodes is once.
        found: of each of them, (3, N) log-probabilities, values and log-probabilities under the reference.
    """
    lengths = {
        (episode.number, turn): len(played.response)
        for episode in episodes
        for turn, played in enumerate(episode.rollout.turns)
    }
    of_turn: dict[tuple[int, int], NDArray[np.float32]] = {}
    for micro, numbers in zip(micros, found, strict=True):
        ends = np.cumsum([lengths[turn] for turn in micro.turns])
        of_turn |= zip(micro.turns, np.split(numbers, ends[:-1], axis=1), strict=True)
    return [_measured(episode, of_turn) for episode in episodes]


def unmeasured(episodes: Sequence[Episode]) -> list[Measured]:
    """The numbers of episodes that nothing but the sampler has read: what it said stands for what is not known."""
    found = [np.concatenate([turn.log_probs for turn in episode.rollout.turns]) for episode in episodes]
    return [_numbers(e, said, np.zeros_like(said), said) for e, said in zip(episodes, found, strict=True)]


def _measured(episode: Episode, of_turn: dict[tuple[int, int], NDArray[np.float32]]) -> Measured:
    turns = range(len(episode.rollout.turns))
    return _numbers(episode, *np.concatenate([of_turn[episode.number, turn] for turn in turns], axis=1))


def _numbers(episode: Episode, old: NDArray[Any], values: NDArray[Any], reference: NDArray[Any]) -> Measured:
    turns = episode.rollout.turns
    return Measured(
        number=episode.number,
        group=episode.group,
        lengths=np.array([len(turn.response) for turn in turns]),
        rewards=np.array([reward.total for reward in episode.rewards], dtype=np.float32),
        truncated=not episode.rollout.trajectory.terminated,
        sampled=np.concatenate([turn.log_probs for turn in turns]).astype(np.float32),
        old=old.astype(np.float32),
        values=values.astype(np.float32),
        reference=reference.astype(np.float32),
    )


def in_order(of_episode: dict[int, Floats], lengths: dict[int, NDArray[np.int64]], micro: Micro) -> torch.Tensor:
    """(N,) what belongs to the tokens of episodes, in the order of a batch's targets.

    Args:
        of_episode: (T,) by the number of the episode.
        lengths: (turns,) by the same.
    """
    ends = {number: np.cumsum(lengths[number]) for number, _ in micro.turns}
    turns = (
        of_episode[number][ends[number][turn] - lengths[number][turn] : ends[number][turn]]
        for number, turn in micro.turns
    )
    return torch.from_numpy(np.concatenate(list(turns)))


# ------------------------------------------------------------------------------------------------------------- targets


def targets(episodes: Sequence[Measured], rl: Rl, chunks: Sequence[Sequence[int]]) -> dict[int, Target]:
    """What the tokens of a step's episodes, those of all processes, are to become; by the episodes' numbers.

    Args:
        chunks: numbers of the groups that make up each optimizer step.
    """
    layout = _Layout(episodes, apart=rl.advantage.estimator == "no_concat_gae")
    critic = needs_critic(rl)
    values = layout.tokens([episode.values for episode in episodes]) if critic else None
    truncated = layout.truncated()
    rewards = layout.rewards()
    if rl.divergence.weight and rl.divergence.where == "reward":
        old = layout.tokens([episode.old for episode in episodes])
        reference = layout.tokens([episode.reference for episode in episodes])
        divergence = losses.kl(old, reference, rl.divergence.kind)
        rewards = losses.penalize(rewards, divergence, layout.mask, rl.divergence.weight)
    found = advantages.estimate(
        rl.advantage.estimator,
        advantages.Rollouts(
            rewards=rewards,
            turn_ids=layout.turn_ids,
            groups=layout.groups,
            episodes=layout.numbers,
            turn_index=layout.turn_index,
            values=values,
            bootstrap=None if values is None else advantages.bootstrap_values(values, layout.mask, truncated),
        ),
        advantages.Discounts(rl.advantage.gamma, rl.advantage.lam, rl.advantage.gamma_turn, rl.advantage.lam_turn),
    )
    wanted = advantages.whiten(found.advantages, layout.mask) if rl.advantage.whiten else found.advantages
    weights = torch.zeros_like(wanted)
    value_weights = torch.zeros_like(wanted)
    for chunk in chunks:
        rows = torch.isin(layout.groups, torch.tensor(chunk))
        weights[rows] = aggregation_weights(layout.mask[rows], rl.policy.aggregation)
        if found.value_mask is not None:
            value_weights[rows] = aggregation_weights(found.value_mask[rows], "token-mean")
    returns = torch.zeros_like(wanted) if found.returns is None else found.returns
    columns = [layout.back(x) for x in (wanted, returns, weights, value_weights)]
    return {episode.number: Target(*(column[place] for column in columns)) for place, episode in enumerate(episodes)}


def aggregation_weights(mask: torch.Tensor, how: losses.Aggregation) -> torch.Tensor:
    """(B, T) how much each token's loss adds to :func:`vagen.rl.losses.aggregate`, which is a sum of them so weighted.

    So a batch may be taken apart, over rows and processes, and put together in any order.
    """
    loss = torch.zeros(mask.shape, requires_grad=True)
    with torch.enable_grad():
        [weights] = torch.autograd.grad(losses.aggregate(loss, mask, how), loss)
    return weights


class _Layout:
    """Episodes as padded rows of their response tokens.

    Args:
        apart: a row is a turn; otherwise it is an episode.
    """

    def __init__(self, episodes: Sequence[Measured], apart: bool):
        self._episodes = episodes
        self._apart = apart
        rows = [
            (episode, turns)
            for episode in episodes
            for turns in ([[turn] for turn in range(len(episode.lengths))] if apart else [range(len(episode.lengths))])
        ]
        self._rows = rows
        self._lengths = [int(sum(episode.lengths[turn] for turn in turns)) for episode, turns in rows]
        longest = max(self._lengths)
        self.turn_ids = torch.full((len(rows), longest), -1)
        for row, (episode, turns) in enumerate(rows):
            ids = np.repeat(np.array(list(turns)), [episode.lengths[turn] for turn in turns])
            self.turn_ids[row, : len(ids)] = torch.from_numpy(ids)
        self.mask = self.turn_ids >= 0
        self.groups = torch.tensor([episode.group for episode, _ in rows])
        self.numbers = torch.tensor([episode.number for episode, _ in rows])
        self.turn_index = torch.tensor([turns[0] for _, turns in rows])

    def tokens(self, of_episode: Sequence[Floats]) -> torch.Tensor:
        """(T,) of each episode -> (B, T) of the rows."""
        result = torch.zeros(self.turn_ids.shape)
        result[self.mask] = torch.from_numpy(np.concatenate(of_episode))  # rows are in the episodes' order
        return result

    def rewards(self) -> torch.Tensor:
        """(B, T) the reward of each turn, at its last token."""
        parts = []
        for episode in self._episodes:
            own = np.zeros(int(episode.lengths.sum()), dtype=np.float32)
            own[np.cumsum(episode.lengths) - 1] = episode.rewards
            parts.append(own)
        return self.tokens(parts)

    def truncated(self) -> torch.Tensor:
        """(B,) bool."""
        return torch.tensor([episode.truncated for episode, _ in self._rows])

    def back(self, x: torch.Tensor) -> list[Floats]:
        """(B, T) of the rows -> (T,) of each episode."""
        flat = x[self.mask].numpy().astype(np.float32)
        return np.split(flat, np.cumsum([int(episode.lengths.sum()) for episode in self._episodes])[:-1])

"""The pieces a batch falls into: the turns of a row, the groups of rows.

Knows nothing about rewards, values or policies. Turns come from explicit ids, never from special tokens or from where
a reward is not zero; groups come from the ids of the world and seed that their rows share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Tensor | Sequence[int]


@dataclass(frozen=True)
class Turns:
    """The turns of B rows of T tokens, numbered 0, 1, … in each row whatever their ids are.

    Attributes:
        mask: (B, T) bool, the response tokens.
        number: (B, T) which turn of its row a response token belongs to; 0 elsewhere.
        first: (B, T) bool, the first token of each turn.
        last: (B, T) bool, the last token of each turn.
        exists: (B, K) bool, which of the turns 0 … K - 1 a row has; K is at least 1.
    """

    mask: Tensor
    number: Tensor
    first: Tensor
    last: Tensor
    exists: Tensor

    def totals(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, K): the sum of ``x`` over each turn's tokens."""
        zeros = x.new_zeros(self.exists.shape)
        return zeros.scatter_add(1, self.number, x.masked_fill(~self.mask, 0))

    def broadcast(self, y: Tensor) -> Tensor:
        """(B, K) -> (B, T): what belongs to a turn on each of its tokens, 0 elsewhere."""
        return y.gather(1, self.number).masked_fill(~self.mask, 0)


def turns_of(turn_ids: Tensor) -> Turns:
    """Find the turns of each row.

    A turn is a run of response tokens with one id; observations (id -1) may lie between its tokens as well as between
    turns. Ids need neither start at 0 nor be consecutive.

    Args:
        turn_ids: (B, T) integers, negative outside responses.
    """
    mask = turn_ids >= 0
    first = mask & (_at(turn_ids, preceding(mask)) != turn_ids)
    last = mask & (_at(turn_ids, following(mask)) != turn_ids)
    counts = first.sum(1)
    most = max(1, int(counts.max())) if len(counts) else 1
    exists = torch.arange(most, device=turn_ids.device) < counts[:, None]
    return Turns(mask, (first.cumsum(1) - 1).clamp(min=0), first, last, exists)


def following(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T): position of the nearest true token after each token, T where there is none."""
    B, T = mask.shape
    if T == 0:
        return mask.long()
    own = torch.arange(T, device=mask.device).expand(B, T).masked_fill(~mask, T)
    nearest = own.flip(1).cummin(1).values.flip(1)  # at or after each token
    return torch.cat([nearest[:, 1:], nearest.new_full((B, 1), T)], 1)


def preceding(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T): position of the nearest true token before each token, T where there is none."""
    T = mask.shape[1]
    mirrored = following(mask.flip(1)).flip(1)
    return torch.where(mirrored == T, T, T - 1 - mirrored)


def value_at(x: Tensor, position: Tensor, default: Tensor) -> Tensor:
    """(B, T) and (B, T) -> (B, T): ``x`` at each position, ``default`` (B,) at position T."""
    return torch.cat([x, default[:, None]], 1).gather(1, position)


def _at(turn_ids: Tensor, position: Tensor) -> Tensor:
    return value_at(turn_ids, position, turn_ids.new_full((len(turn_ids),), -1))


@dataclass(frozen=True)
class Groups:
    """The groups of B rows, numbered 0 … G - 1 in ascending order of their ids.

    Attributes:
        number: (B,) which group a row belongs to.
        count: G.
        leader: (B,) the first row of the batch with the same group and episode; the row itself without episodes.
    """

    number: Tensor
    count: int
    leader: Tensor

    @property
    def votes(self) -> Tensor:
        """(B,) bool: the rows that count, one for each (group, episode)."""
        return self.leader == torch.arange(len(self.leader), device=self.leader.device)

    def sizes(self, like: Tensor) -> Tensor:
        """(G,) how many votes each group has, in the type of ``like``."""
        return self.sums(torch.ones_like(like))

    def sums(self, x: Tensor) -> Tensor:
        """(B,) -> (G,): the sum of ``x`` over each group's votes."""
        return x.new_zeros(self.count).index_add(0, self.number, x.masked_fill(~self.votes, 0))

    def deviations(self, x: Tensor) -> Tensor:
        """(B,) -> (B,): ``x`` minus the mean of its group's votes; exactly 0 where all of them are equal."""
        # Seen from the group's smallest value, equal values are exactly 0, and so is what is left of them below.
        votes = x.masked_fill(~self.votes, torch.inf)
        lowest = x.new_full((self.count,), torch.inf).scatter_reduce(0, self.number, votes, "amin")
        above = x - lowest[self.number]
        return above - (self.sums(above) / self.sizes(x))[self.number]

    def variances(self, x: Tensor, ddof: int) -> Tensor:
        """(B,) -> (G,): variance over each group's votes; 0 for a group of one."""
        return self.sums(self.deviations(x).square()) / (self.sizes(x) - ddof).clamp(min=1)


def groups_of(groups: Ids, episodes: Ids | None = None, device: torch.device | None = None) -> Groups:
    """Find the groups of a batch, and one row to speak for each episode in them.

    Args:
        groups: (B,) group ids.
        episodes: (B,) episode ids, where several rows (turns without concatenation) belong to one episode. The same id
            in two groups is two episodes.
        device: where the result lives; that of ``groups`` by default.
    """
    ids, number = torch.unique(as_tensor(groups, device), return_inverse=True)
    rows = torch.arange(len(number), device=number.device)
    if episodes is None:
        return Groups(number, len(ids), rows)
    names, name = torch.unique(as_tensor(episodes, number.device), return_inverse=True)
    _, pair = torch.unique(number * len(names) + name, return_inverse=True)
    leaders = rows.new_full((len(rows),), len(rows)).scatter_reduce(0, pair, rows, "amin")
    return Groups(number, len(ids), leaders[pair])


def as_tensor(x: Tensor | Sequence[float], device: torch.device | None = None) -> Tensor:
    """A tensor as it is, or on another device; a sequence of numbers on the CPU unless a device is given."""
    if isinstance(x, Tensor):
        return x if device is None else x.to(device)
    return torch.tensor(x, device=device or "cpu")


def as_float(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one floating type: float64 if any of them is, else float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)

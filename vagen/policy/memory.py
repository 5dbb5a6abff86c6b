"""The keys and values of what a model has read, kept in place: further tokens are written beside what is there.

The caches of ``transformers`` copy all they hold for each further token, and their rows are of one length. Here each
forward pass is told in which rows and columns its tokens go, and what they see is up to the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

SPARE = 64  # columns kept free for what will follow, where there have to be more


class Memory(Cache):
    """Keys and values of all rows, per layer (N, H, C, D); columns that nothing was written to hold finite numbers.

    Args:
        rows: N.
    """

    def __init__(self, rows: int):
        super().__init__(layers=[])
        self.rows = rows
        self._kept: list[torch.Tensor] = []  # the keys and the values of a layer follow each other
        self._rows: torch.Tensor = torch.zeros(0)
        self._first: int | None = None  # how many, if the rows are the first ones
        self._places: torch.Tensor = torch.zeros(0)
        self._columns = 0

    def aim(self, rows: Sequence[int], places: torch.Tensor, columns: int) -> None:
        """Let the next forward pass write to columns ``places`` (B, L) of some rows, and see the first ``columns``."""
        self._rows = torch.tensor(rows, device=places.device)
        self._first = len(rows) if list(rows) == list(range(len(rows))) else None
        self._places, self._columns = places, columns

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep (B, H, L, D) new keys and values; returns those of the rows, (B, H, columns, D)."""
        return self._put(2 * layer_idx, key_states), self._put(2 * layer_idx + 1, value_states)

    def copy(self, source: int, targets: Sequence[int], begin: int, end: int) -> None:
        """Give rows the columns from ``begin`` to ``end`` of another."""
        for kept in self._kept:
            kept[list(targets), :, begin:end] = kept[source, :, begin:end]

    def reorder(self, order: Sequence[int]) -> None:
        """Let row i be what row ``order[i]`` was."""
        moved = [row for row, source in enumerate(order) if row != source]
        for kept in self._kept:
            kept[moved] = kept[[order[row] for row in moved]]

    def select(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Let row i be columns ``columns[i]`` of what row ``rows[i]`` was: (M,) and (M, K)."""
        self.rows, self._columns = columns.shape
        columns = torch.nn.functional.pad(columns, (0, SPARE))  # whatever is there: nothing sees it
        for number, kept in enumerate(self._kept):
            _, heads, capacity, size = kept.shape
            places = rows[:, None] * heads + torch.arange(heads, device=rows.device)
            places = places[:, :, None] * capacity + columns[:, None]  # (M, H, K + SPARE) of all that is kept
            self._kept[number] = kept.view(-1, size).index_select(0, places.flatten()).view(*places.shape, size)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._columns

    def _put(self, number: int, states: torch.Tensor) -> torch.Tensor:
        if number == len(self._kept):
            _, heads, _, size = states.shape
            self._kept.append(states.new_zeros(self.rows, heads, self._columns + SPARE, size))
        kept = self._kept[number]
        if self._columns > (capacity := kept.shape[2]):
            kept = self._kept[number] = _widened(kept, max(self._columns + SPARE, capacity + capacity // 2))
        kept[self._rows[:, None], :, self._places] = states.transpose(1, 2)
        rows = slice(self._first) if self._first is not None else self._rows  # a slice copies nothing
        return kept[rows, :, : self._columns]


def _widened(kept: torch.Tensor, capacity: int) -> torch.Tensor:
    """(N, H, capacity, D) of (N, H, C, D), filled up with zeros."""
    return torch.nn.functional.pad(kept, (0, 0, 0, capacity - kept.shape[2]))

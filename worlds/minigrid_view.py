"""What a MiniGrid agent sees: the square in front of it, turned so that it looks up, without what walls hide.

Pure functions of boards given as codes (see ``minigrid_cells``) and of poses, for many agents at once. Columns ``i``
and rows ``j`` of a view count from its top left corner; the agent stands in the middle of the bottom row.

This module knows nothing about text, images and episodes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from worlds.minigrid_cells import CODES, STEPS, TRANSPARENT, WALL, codes_of

MAX_SIZE = 9  # cells along a side; the tables of ``_sweeps`` grow with 4 to the power of it


@lru_cache(maxsize=8)
def offsets(size: int) -> NDArray[np.intp]:
    """Where the cells of a view lie seen from the agent: (direction, size*size, [dx, dy]), row by row."""
    j, i = np.divmod(np.arange(size * size), size)
    ahead, right = size - 1 - j, i - size // 2
    places = np.empty((4, size * size, 2), np.intp)
    for direction, (fx, fy) in enumerate(STEPS):
        places[direction, :, 0] = fx * ahead - fy * right
        places[direction, :, 1] = fy * ahead + fx * right
    return places


@lru_cache(maxsize=64)
def _steps_to(size: int, width: int) -> NDArray[np.intp]:
    """How far the cells of a view lie from the agent's in a flat board of so many columns: (direction, size*size)."""
    places = offsets(size)
    return places[..., 1] * width + places[..., 0]


@lru_cache(maxsize=1024)
def _padded(cells: str, width: int, margin: int) -> NDArray[np.uint8]:
    """The codes of a board with walls around it, flat. Not to be written to."""
    board = codes_of(cells).reshape(-1, width)
    return np.pad(board, margin, constant_values=CODES[WALL]).ravel()


def look(
    boards: list[str], width: int, poses: NDArray[np.intp], size: int, through_walls: bool
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """What ``B`` agents have before them, and which of it they see.

    Args:
        boards: ``B`` boards of one size as words; the cells beyond their edges look like walls.
        width: columns of the boards.
        poses: (B, 3) x, y and direction number of each agent.
        size: cells along a side of the view.
        through_walls: whether nothing hides what is behind it.

    Returns:
        The codes (B, size*size) of the cells, what the agent stands on included, and whether each is seen, both row by
        row.
    """
    margin = size - 1
    padded = width + 2 * margin
    grids = np.concatenate([_padded(cells, width, margin) for cells in boards])  # flat, behind each other
    x, y, direction = poses.T
    agents = np.arange(len(boards)) * (len(grids) // len(boards)) + (y + margin) * padded + x + margin
    codes = grids[agents[:, None] + _steps_to(size, padded)[direction]]
    if through_walls:
        return codes, np.ones(codes.shape, bool)
    return codes, _visible(TRANSPARENT[codes].reshape(-1, size, size)).reshape(codes.shape)


def _visible(transparent: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which cells are seen, (B, size, size), by MiniGrid's rule: row by row from the agent's, see ``_sweeps``."""
    batch, size, _ = transparent.shape
    reached, passed_on = _sweeps(size)
    bits = 1 << np.arange(size)
    entries = np.ascontiguousarray((transparent @ bits).T)  # (size, B): what is clear
    seen = np.full(batch, 1 << (size // 2) << size)
    for entry in entries[::-1]:
        entry |= seen
        seen = passed_on[entry]
    return reached.take(entries.T, axis=0)


@lru_cache(maxsize=8)
def _sweeps(size: int) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """MiniGrid's spread of sight within a row of a view, and on to the row above it.

    Sight goes along the row to the right and then to the left: each cell that is seen and transparent shows its next
    cell, the cell above it and the one above the next. For every pair of rows as bit sets, ``seen << size | clear``,
    the tables hold which cells of the row are seen in the end, (pairs, size), and ``seen << size`` of the row above.
    """
    seen, clear = np.divmod(np.arange(1 << 2 * size), 1 << size)
    above = np.zeros_like(seen)
    for i, to in [(i, i + 1) for i in range(size - 1)] + [(i, i - 1) for i in reversed(range(1, size))]:
        spreads = seen & clear & (1 << i) != 0
        seen = np.where(spreads, seen | 1 << to, seen)
        above = np.where(spreads, above | 1 << i | 1 << to, above)
    return seen[:, None] & 1 << np.arange(size) != 0, above << size

"""2D rendering: an atlas of square tiles, gathered row by row, and a small canvas to draw such tiles.

This module knows nothing about worlds: it turns arrays of tile numbers into pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]  # RGB, 0 to 255

MIN_TILE_SIZE = 8  # px; below this the drawings can no longer be told apart
_OVERSAMPLING = 4  # each pixel is the mean of 4 x 4 samples


class TileAtlas:
    """Images of boards out of ``K`` tiles of ``t`` x ``t`` px."""

    def __init__(self, tiles: NDArray[np.uint8]) -> None:
        count, size, width, _ = tiles.shape  # (K, t, t, 3)
        assert size == width, "tiles are square"
        self.count = count
        self.tile_size = size
        # (K*t, t*3), one row of px each; bytes, because gathering floats into bytes takes forty times as long.
        self._rows = np.ascontiguousarray(tiles, np.uint8).reshape(count * size, size * 3)

    def put(self, number: int, tile: NDArray[np.uint8]) -> None:
        """Replace a tile, (t, t, 3)."""
        size = self.tile_size
        self._rows[number * size : (number + 1) * size] = tile.reshape(size, size * 3)

    def render(self, index: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The images (B, H*t, W*t, 3) of boards given as tile numbers (B, H, W)."""
        if index.size and not 0 <= index.min() <= index.max() < self.count:
            raise IndexError(f"tile numbers must lie between 0 and {self.count - 1}")
        batch, height, width = index.shape
        size = self.tile_size
        # Each row of the board t times, and then what is added to tile numbers within it: long rows, quickly added.
        rows = np.repeat(index.reshape(-1, width) * size, size, axis=0).reshape(-1, size * width)  # (B*H, t*W)
        rows += np.repeat(np.arange(size), width)
        images = np.empty((*rows.shape, size * 3), np.uint8)
        # "clip" lets numpy write straight into `out`; the default mode goes through a buffer.
        np.take(self._rows, rows, axis=0, out=images, mode="clip")
        return images.reshape(batch, height * size, width * size, 3)


class Canvas:
    """One tile to draw on. Coordinates are fractions of the tile: (0, 0) top left, (1, 1) bottom right."""

    def __init__(self, size: int) -> None:
        self.size = size
        side = size * _OVERSAMPLING
        self._samples = np.zeros((side, side, 3), np.float32)
        centres = (np.arange(side, dtype=np.float32) + 0.5) / side
        self._x, self._y = centres[None, :], centres[:, None]

    def fill(self, colour: Colour) -> None:
        self._samples[:] = colour

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        inside = (self._x >= left) & (self._x < right) & (self._y >= top) & (self._y < bottom)
        self._samples[inside] = colour

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self._samples[(self._x - x) ** 2 + (self._y - y) ** 2 < radius**2] = colour

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """A straight stroke with round ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = ((self._x - start[0]) * dx + (self._y - start[1]) * dy) / (dx * dx + dy * dy)
        along = np.clip(along, 0.0, 1.0)
        distance = np.hypot(self._x - start[0] - along * dx, self._y - start[1] - along * dy)
        self._samples[distance < width / 2] = colour

    def pixels(self) -> NDArray[np.uint8]:
        """The drawing, anti-aliased, (t, t, 3)."""
        blocks = self._samples.reshape(self.size, _OVERSAMPLING, self.size, _OVERSAMPLING, 3)
        return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def draw_tiles(size: int, drawings: Sequence[Callable[[Canvas], None]]) -> NDArray[np.uint8]:
    """One tile per drawing, (K, size, size, 3)."""
    tiles = np.empty((len(drawings), size, size, 3), np.uint8)
    for tile, draw in zip(tiles, drawings, strict=True):
        canvas = Canvas(size)
        draw(canvas)
        tile[:] = canvas.pixels()
    return tiles

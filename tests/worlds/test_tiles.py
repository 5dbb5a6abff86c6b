"""The tile renderer, and whether the tiles of each world can be told apart."""

import numpy as np
import pytest

from worlds.board import BoardWorld
from worlds.frozen_lake import FrozenLake
from worlds.sokoban import Sokoban
from worlds.tiles import Canvas, TileAtlas, draw_tiles


def paste_tiles(tiles, index):
    """The obvious renderer: (B, H, W) tile numbers to (B, H*t, W*t, 3)."""
    batch, height, width = index.shape
    size = tiles.shape[1]
    images = np.zeros((batch, height * size, width * size, 3), np.uint8)
    for b, y, x in np.ndindex(batch, height, width):
        images[b, y * size : (y + 1) * size, x * size : (x + 1) * size] = tiles[index[b, y, x]]
    return images


@pytest.mark.parametrize("size", [8, 13, 32])
def test_gathering_rows_equals_pasting_tiles(size):
    rng = np.random.default_rng(size)
    tiles = rng.integers(0, 256, (7, size, size, 3), dtype=np.uint8)
    index = rng.integers(0, 7, (4, 5, 3))
    np.testing.assert_array_equal(TileAtlas(tiles).render(index), paste_tiles(tiles, index))


def test_an_unknown_tile_is_refused():
    atlas = TileAtlas(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(IndexError, match="between 0 and 1"):
        atlas.render(np.array([[[2]]]))


def test_canvas_shapes():
    canvas = Canvas(8)
    canvas.fill((10, 20, 30))
    canvas.rectangle(0, 0, 0.5, 0.5, (255, 0, 0))
    canvas.disc(0.75, 0.75, 0.2, (0, 255, 0))
    canvas.line((0.6, 0.1), (0.9, 0.1), 0.125, (0, 0, 255))
    pixels = canvas.pixels()
    assert tuple(pixels[1, 1]) == (255, 0, 0)
    assert tuple(pixels[5, 5]) == (0, 255, 0) or tuple(pixels[6, 6]) == (0, 255, 0)
    assert pixels[0, 6, 2] > 100
    assert tuple(pixels[7, 0]) == (10, 20, 30)


@pytest.mark.parametrize("size", [8, 11, 28, 32])
@pytest.mark.parametrize("world", [Sokoban, FrozenLake])
def test_tiles_of_a_world_are_clearly_distinct(world: type[BoardWorld], size):
    tiles = draw_tiles(size, [look.draw for look in world.looks]).astype(float)
    differences = [np.abs(a - b).mean() for i, a in enumerate(tiles) for b in tiles[:i]]
    assert min(differences) > 30  # of 255, averaged over pixels and channels


def test_worlds_of_a_kind_share_their_tiles():
    small, again, large = (FrozenLake("lake", 4, tile_size=size) for size in (8, 8, 16))
    assert small.atlas is again.atlas
    assert large.atlas.tile_size == 16
    assert Sokoban("boxes", 6, 1).atlas is not small.atlas

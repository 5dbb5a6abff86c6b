"""Frames per second of our renderer against MiniGrid's, both views, and against a renderer that pastes tile by tile.

    python scripts/bench/render.py [--batch 64] [--seconds 1]

Frames are 64 px wide (the egocentric ones 56 px: 7 x 7 tiles of 8 px) and pixel for pixel the same, which is checked
first. Prints one JSON line per comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from measure import compare

import worlds
from worlds.core import Snapshot, World
from worlds.minigrid import MiniGrid
from worlds.sokoban import Sokoban

TILE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    for id in ("minigrid/DoorKey-8x8-v0", "minigrid/DoorKey-8x8-v0/partial", "babyai/GoToLocal-v0/partial"):
        report(id, "minigrid's renderer", minigrid, args)
    report("sokoban-8x8-2box", "pasting tile by tile", pasting, args)


def report(id: str, peer: str, renderer: Callable, args: argparse.Namespace) -> None:
    what = f"{id}: frames/s in batches of {args.batch}"
    world = worlds.make(id)
    snapshots = states(world, args.batch)
    theirs = renderer(world, snapshots)
    np.testing.assert_array_equal(world.render_states(snapshots), np.stack(theirs()))

    def ours() -> int:
        return len(world.render_states(snapshots))

    print(compare(what, peer, ours, lambda: len(theirs()), ["minigrid", "numpy"], seconds=args.seconds), flush=True)


def states(world: World, count: int) -> list[Snapshot]:
    """States of random episodes, with a new layout every few steps."""
    rng = np.random.default_rng(0)
    found: list[Snapshot] = []
    while len(found) < count:
        world.reset(seed=len(found))
        for _ in range(8):
            world.step(rng.integers(len(world.actions)))
            found.append(world.state().snapshot)
    return found[:count]


def minigrid(world: World, snapshots: list[Snapshot]) -> Callable[[], list[np.ndarray]]:
    """MiniGrid's own ``get_frame`` of environments that are in these states."""
    assert isinstance(world, MiniGrid)
    envs = []
    for snapshot in snapshots:
        twin = worlds.make(world.id)
        assert isinstance(twin, MiniGrid)
        twin.restore(snapshot)
        envs.append(twin.env)
    partial = world.view == "partial"
    return lambda: [env.get_frame(highlight=partial, tile_size=TILE, agent_pov=partial) for env in envs]


def pasting(world: World, snapshots: list[Snapshot]) -> Callable[[], list[np.ndarray]]:
    """One picture per kind of cell, copied into each frame cell by cell, as Sokoban environments commonly do."""
    assert isinstance(world, Sokoban)
    pictures = {}  # by what is seen on a cell
    for facts, frame in zip(map(world.facts, snapshots), world.render_states(snapshots), strict=True):
        for y in range(world.height):
            for x in range(world.width):
                seen = tuple((thing.kind, thing.detail) for thing in facts.at(x, y))
                pictures[seen] = frame[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE].copy()
    order = {seen: number for number, seen in enumerate(pictures)}
    tiles = list(pictures.values())
    rooms = [
        np.array(
            [
                [order[tuple((t.kind, t.detail) for t in facts.at(x, y))] for x in range(world.width)]
                for y in range(world.height)
            ]
        )
        for facts in map(world.facts, snapshots)
    ]

    def draw(room: np.ndarray) -> np.ndarray:
        frame = np.zeros((room.shape[0] * TILE, room.shape[1] * TILE, 3), np.uint8)
        for y in range(room.shape[0]):
            for x in range(room.shape[1]):
                frame[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = tiles[room[y, x]]
        return frame

    return lambda: [draw(room) for room in rooms]


if __name__ == "__main__":
    main()

"""Frames per second of our renderer against MiniGrid's, gym-sokoban's, pasting tile by tile, and copying memory.

    python scripts/bench/render.py [--batch 64] [--seconds 1] [--rounds 5] [--peers minigrid gym_sokoban ...]

Frames are 64 px wide (the egocentric ones 56 px: 7 x 7 tiles of 8 px). Those of ``minigrid`` and ``pasting`` are pixel
for pixel the same, which is checked first. ``gym_sokoban`` draws the same rooms with its own tiles of 16 px, the only
size it has, so ours are measured at 64 px and at its 128 px. ``memory_copy`` copies finished frames of 224 px: which
share of its speed we reach is the ``bound``. Prints one JSON line per comparison. ``peers.sh`` installs gym-sokoban.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measure import ROUNDS, comparison, rates
from worker import Worker, peers_python

import worlds
from worlds.core import Snapshot, World
from worlds.minigrid import MiniGrid
from worlds.sokoban import Sokoban

TILE = 8
PACKAGES = ("minigrid", "numpy")
PEERS = ("minigrid", "pasting", "gym_sokoban", "memory_copy")
GRIDS = ("minigrid/DoorKey-8x8-v0", "minigrid/DoorKey-8x8-v0/partial", "babyai/GoToLocal-v0/partial")
SOKOBAN = "sokoban-8x8-2box"
TARGETS = {"minigrid": 100.0, "gym_sokoban": 500.0}  # frames of 64 px or less, in batches of 64

# What gym-sokoban calls what is on a cell.
CODES = {("wall",): 0, (): 1, ("target",): 2, ("box", "target"): 3, ("box",): 4, ("agent",): 5, ("agent", "target"): 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    args = parser.parse_args()
    worlds.register("sokoban-8x8-128px", "worlds.sokoban:Sokoban", size=8, boxes=2, tile_size=16)
    worlds.register("sokoban-8x8-224px", "worlds.sokoban:Sokoban", size=8, boxes=2, tile_size=28)
    worlds.register("minigrid-rooms-8x8-224px", "worlds.minigrid:MiniGrid", env_id="VAGEN-Rooms-8x8-v0", tile_size=28)
    measures = {"minigrid": minigrid, "pasting": pasting, "gym_sokoban": gym_sokoban, "memory_copy": memory_copy}
    for peer in args.peers:
        for line in measures[peer](args):
            print(json.dumps(line), flush=True)


def minigrid(args: argparse.Namespace) -> Iterator[dict]:
    """Against MiniGrid, both views."""
    for id in GRIDS:
        yield exact(id, "minigrid", minigrid_frames, args)


def pasting(args: argparse.Namespace) -> Iterator[dict]:
    """Against one picture per kind of cell, copied into each frame cell by cell, as Sokoban environments do."""
    yield exact(SOKOBAN, "pasting", pasted_frames, args)


def exact(id: str, peer: str, renderer: Callable, args: argparse.Namespace) -> dict:
    """The line about a peer whose frames are the same."""
    world = worlds.make(id)
    snapshots = states(world, args.batch)
    theirs = renderer(world, snapshots)
    np.testing.assert_array_equal(world.render_states(snapshots), np.stack(theirs()))
    ways = {"ours": lambda: len(world.render_states(snapshots)), peer: lambda: len(theirs())}
    found = rates(ways, args.rounds, args.seconds)
    what = f"{id}: frames/s in batches of {args.batch}"
    return comparison(what, peer, found["ours"], found[peer], PACKAGES, target=TARGETS.get(peer))


def gym_sokoban(args: argparse.Namespace) -> Iterator[dict]:
    """Against gym-sokoban, the same rooms."""
    for id in (SOKOBAN, "sokoban-8x8-128px"):
        world = worlds.make(id)
        snapshots = states(world, args.batch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rooms.json"
            path.write_text(json.dumps([room(world, snapshot) for snapshot in snapshots]), encoding="utf-8")
            with Worker(peers_python(), "render_sokoban.py", [str(path)], cores=1) as peer:
                ways = {"ours": lambda w=world, s=snapshots: len(w.render_states(s)), "theirs": peer}
                found = rates(ways, args.rounds, args.seconds)
                size = " x ".join(map(str, peer.about["shape"][:2]))
                versions = peer.about["versions"]
        what = f"{id}: frames/s in batches of {args.batch}; theirs of {size} px"
        target = TARGETS["gym_sokoban"] if id == SOKOBAN else None
        ours, theirs = found["ours"], found["theirs"]
        yield comparison(what, "gym_sokoban", ours, theirs, PACKAGES, versions=versions, target=target)


def memory_copy(args: argparse.Namespace) -> Iterator[dict]:
    """Against copying as many finished frames of 224 px."""
    for id in ("sokoban-8x8-224px", "minigrid-rooms-8x8-224px"):
        world = worlds.make(id)
        snapshots = states(world, args.batch)
        done = world.render_states(snapshots)
        ways = {"ours": lambda w=world, s=snapshots: len(w.render_states(s)), "theirs": lambda d=done: len(d.copy())}
        found = rates(ways, args.rounds, args.seconds)
        what = f"{id}: frames/s in batches of {args.batch}"
        yield comparison(what, "memory_copy", found["ours"], found["theirs"], PACKAGES, bound=1.0)


def room(world: World, snapshot: Snapshot) -> list[list[int]]:
    """A state as gym-sokoban writes it."""
    assert isinstance(world, Sokoban)
    facts = world.facts(snapshot)
    return [
        [CODES[tuple(sorted(thing.kind for thing in facts.at(x, y)))] for x in range(world.width)]
        for y in range(world.height)
    ]


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


def minigrid_frames(world: World, snapshots: list[Snapshot]) -> Callable[[], list[np.ndarray]]:
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


def pasted_frames(world: World, snapshots: list[Snapshot]) -> Callable[[], list[np.ndarray]]:
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

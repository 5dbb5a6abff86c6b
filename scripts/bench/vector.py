"""Steps per second of vectorised worlds against a Python loop over single ones; both draw every frame.

    python scripts/bench/vector.py [--boards 64 1024] [--seconds 1]

Prints one JSON line per world and number of boards.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from measure import compare

import worlds
from worlds.vector import make_vector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--worlds", nargs="+", default=["sokoban-6x6", "frozenlake-8x8", "frozenlake-8x8-slippery"])
    parser.add_argument("--boards", nargs="+", type=int, default=[64, 1024])
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    for id in args.worlds:
        for boards in args.boards:
            what = f"{id}: steps/s of {boards} boards with frames"
            peer = "a Python loop over single worlds"
            ours, theirs = vectorised(id, boards), loop(id, boards)
            print(compare(what, peer, ours, theirs, ["gymnasium", "numpy"], seconds=args.seconds), flush=True)


def vectorised(id: str, boards: int) -> Callable[[], int]:
    vector = make_vector(id, boards)
    vector.reset(seed=0)
    rng = np.random.default_rng(0)

    def work() -> int:
        vector.step(rng.integers(4, size=boards))
        return boards

    return work


def loop(id: str, boards: int) -> Callable[[], int]:
    singles = [worlds.make(id) for _ in range(boards)]
    for seed, world in enumerate(singles):
        world.reset(seed=seed)
    rng = np.random.default_rng(0)

    def work() -> int:
        for world, action in zip(singles, rng.integers(4, size=boards), strict=True):
            _, _, terminated, truncated, _ = world.step(action)
            if terminated or truncated:
                world.reset()
        return boards

    return work


if __name__ == "__main__":
    main()

"""Reading trajectories with their images: frames drawn from stored states against stored images.

    python scripts/bench/data.py [--worlds sokoban-6x6 ...] [--episodes 400] [--rounds 5]

Collects episodes of a world, stores the same frames for each peer, and reads all of them by turns, in one process:
ours (checksum, validation and first-frame hash included), WebDataset with PNG and with lossless WebP, and, where it is
installed (as in the environment of ``peers.sh``: ``build/peers/bin/python scripts/bench/data.py``), 🤗 datasets with
PNG in Arrow. All must give the same pixels, so JPEG is none of them. Worlds that end in ``-224px`` are drawn at that
size. Prints a JSON line per world and peer, in trajectories per second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measure import ROUNDS, comparison, rates
from numpy.typing import NDArray
from PIL import Image
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter

import worlds
from vagen.config import Collect
from vagen.data.frames import encode_frame, frames_of, frames_of_each
from vagen.data.shards import read_trajectories
from vagen.rollout.collect import collect

Frames = NDArray[np.uint8]  # (T + 1, H, W, 3)
Reader = Callable[[], Iterator[Frames]]

TARGET = 10.0

worlds.register("sokoban-8x8-224px", "worlds.sokoban:Sokoban", size=8, boxes=2, tile_size=28)
worlds.register("minigrid-rooms-8x8-224px", "worlds.minigrid:MiniGrid", env_id="VAGEN-Rooms-8x8-v0", tile_size=28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--worlds", nargs="+", default=["minigrid-rooms-6x6", "sokoban-6x6", "frozenlake-6x6", "sokoban-8x8-224px"]
    )
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    for world in args.worlds:
        for line in measure(world, args.episodes, args.rounds):
            print(json.dumps(line), flush=True)


def measure(world: str, episodes: int, rounds: int) -> Iterator[dict]:
    """One result per peer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        [shards] = collect(Collect(worlds=(world,), episodes=episodes, max_steps=10, shard_size=100), folder, 0)
        readers: dict[str, Reader] = {"ours": lambda: frames_of_each(read_trajectories(shards))}
        readers["PNG in WebDataset"] = write_webdataset(shards, folder / "webdataset-png", "png", encode_png)
        readers["WebP in WebDataset"] = write_webdataset(shards, folder / "webdataset-webp", "webp", encode_frame)
        if find_spec("datasets"):
            readers["PNG in datasets"] = write_datasets(shards, folder / "datasets-png")
        pixels = {peer: digest(read()) for peer, read in readers.items()}
        if len(set(pixels.values())) > 1:
            sys.exit(f"{world}: the readers give different pixels: {pixels}")
        ways = {peer: lambda read=read: sum(1 for _ in read()) for peer, read in readers.items()}
        speeds = rates(ways, rounds, 0.0, warm=False)
        ours = speeds.pop("ours")
        for stored, theirs in speeds.items():
            what = f"trajectories/s with all frames, {world}, stored as {stored}"
            line = comparison(what, "stored_images", ours, theirs, packages(stored), target=TARGET)
            yield {**line, "stored": stored}


def packages(stored: str) -> list[str]:
    return ["numpy", "pillow", "webdataset", *(["datasets", "pyarrow"] if stored.endswith("datasets") else [])]


def digest(trajectories: Iterator[Frames]) -> str:
    found = hashlib.sha256()
    for frames in trajectories:
        found.update(str(frames.shape).encode() + np.ascontiguousarray(frames).tobytes())
    return found.hexdigest()


def write_webdataset(shards: Path, folder: Path, kind: str, encode: Callable[[NDArray[np.uint8]], bytes]) -> Reader:
    """The same trajectories as WebDataset users store them: JSON and frames, in files of some kind."""
    folder.mkdir()
    with ShardWriter(str(folder / "shard-%05d.tar"), maxcount=100, verbose=0) as writer:
        for number, trajectory in enumerate(read_trajectories(shards)):
            frames = {f"{t}.{kind}": encode(frame) for t, frame in enumerate(frames_of(trajectory))}
            about = {"actions": trajectory.actions, "rewards": trajectory.rewards}
            writer.write({"__key__": f"{number:08d}", "json": about, **frames})
    files = sorted(map(str, folder.glob("*.tar")))

    def read() -> Iterator[Frames]:
        samples = WebDataset(files, shardshuffle=False).decode("rgb8")
        for sample in samples:  # pyright: ignore[reportGeneralTypeIssues] - its fluent calls return the pipeline
            numbers = sorted(int(key.split(".")[0]) for key in sample if key.endswith(f".{kind}"))
            yield np.stack([sample[f"{number}.{kind}"] for number in numbers])

    return read


def write_datasets(shards: Path, folder: Path) -> Reader:
    """The same trajectories as 🤗 datasets stores them: a list of PNG images per row, in Arrow files."""
    import datasets  # type: ignore[import-not-found]

    def rows() -> Iterator[dict]:
        for trajectory in read_trajectories(shards):
            images = [{"bytes": encode_png(frame), "path": None} for frame in frames_of(trajectory)]
            yield {"images": images, "actions": list(trajectory.actions)}

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"images": datasets.List(datasets.Image()), "actions": datasets.List(datasets.Value("int64"))}
    )
    table = list(rows())
    columns = {name: [row[name] for row in table] for name in features}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder)
    dataset = datasets.load_from_disk(folder)

    def read() -> Iterator[Frames]:
        for row in dataset:
            yield np.stack([np.asarray(image) for image in row["images"]])

    return read


def encode_png(frame: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()

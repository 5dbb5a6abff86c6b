"""Trajectories as WebDataset shards with a manifest of counts and checksums.

A folder holds ``shard-00000.tar`` … and ``manifest.json``. A shard has one ``<key>.json`` per trajectory: states, not
pixels, because every world here draws its frames from the state; a frame hash per trajectory notices a renderer that
draws otherwise. The tar files are byte-identical for equal input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

import vagen
from vagen.cloze.sample import simulator
from vagen.files import atomic_folder, write_json
from vagen.mdp import Trajectory
from worlds import WorldError

MANIFEST = "manifest.json"
FORMAT = 1


class DataError(ValueError):
    """Shards that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Shard:
    """One line of a manifest: a file, its counts, and the SHA-256 of its bytes."""

    file: str
    trajectories: int
    transitions: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds."""

    format: int
    world: str
    split: str
    seed: int
    behaviour: str
    layouts: int
    shards: tuple[Shard, ...]
    provenance: dict[str, Any]

    @property
    def trajectories(self) -> int:
        return sum(shard.trajectories for shard in self.shards)

    @property
    def transitions(self) -> int:
        return sum(shard.transitions for shard in self.shards)


def frame_hash(frame: NDArray[np.uint8]) -> str:
    """A digest of a frame's shape and pixels."""
    return hashlib.blake2b(frame.tobytes(), digest_size=8, key=str(frame.shape).encode()).hexdigest()


def provenance(world: str) -> dict[str, Any]:
    """The versions that decide what a trajectory of ``world`` looks like."""
    return {
        "vagen": vagen.__version__,
        "renderer": type(simulator(world)).renderer_version,
        **{package: version(package) for package in ("gymnasium", "minigrid", "numpy")},
    }


def write_shards(
    folder: Path, trajectories: Iterable[Trajectory], *, world: str, split: str, seed: int, behaviour: str, size: int
) -> Manifest:
    """Write trajectories, ``size`` to a shard, and their manifest; the folder appears whole or not at all."""
    layouts: set[str] = set()
    shards: list[Shard] = []
    with atomic_folder(folder) as temporary:
        for number, batch in enumerate(_batches(trajectories, size)):
            path = temporary / f"shard-{number:05d}.tar"
            _write_tar(path, batch, first=number * size)
            layouts.update(simulator(world).key(t.snapshots[0]) for t in batch)
            shards.append(
                Shard(path.name, len(batch), sum(map(len, batch)), path.stat().st_size, _sha256(path.read_bytes()))
            )
        manifest = Manifest(FORMAT, world, split, seed, behaviour, len(layouts), tuple(shards), provenance(world))
        write_json(temporary / MANIFEST, asdict(manifest))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder made by :func:`write_shards`.

    Raises:
        DataError: there is none, it is damaged, it names no trajectories, or a shard is missing.
    """
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Manifest)}
        shards = tuple(Shard(**shard) for shard in value["shards"])
        manifest = Manifest(**{**{k: v for k, v in value.items() if k in known}, "shards": shards})
    except OSError as error:
        raise DataError(
            f"no shards in {folder}: cannot read {MANIFEST} ({error.strerror}); run `vagen collect`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); collect the data again") from None
    if manifest.format != FORMAT:
        raise DataError(f"{path} has format {manifest.format}, this version reads {FORMAT}; collect the data again")
    if manifest.trajectories == 0:
        raise DataError(f"{path} lists no trajectories; collect the data again")
    for shard in manifest.shards:
        if not (folder / shard.file).is_file():
            raise DataError(f"shard {folder / shard.file} is missing; collect the data again or remove its manifest")
    return manifest


def read_shard(folder: Path, shard: Shard) -> list[Trajectory]:
    """All trajectories of a shard, checked against the manifest and the renderer of today.

    Raises:
        DataError: the bytes are not those of the manifest, or the world no longer draws what it drew.
    """
    path = folder / shard.file
    data = path.read_bytes() if path.is_file() else b""
    if len(data) != shard.bytes or _sha256(data) != shard.sha256:
        raise DataError(f"shard {path} is corrupt (its checksum is not the manifest's); collect the data again")
    # Which rank and worker takes what is decided by trajectory number (see stream), not by WebDataset's splitters.
    samples = WebDataset(
        str(path), shardshuffle=False, empty_check=False, nodesplitter=iter, workersplitter=None
    ).decode()
    trajectories = [_from_json(sample["json"]) for sample in cast(Iterable[dict[str, Any]], samples)]
    if trajectories:
        _check_frame(path, trajectories[0])
    return trajectories


def _check_frame(path: Path, trajectory: Trajectory) -> None:
    try:
        world = simulator(trajectory.world)
    except WorldError as error:
        raise DataError(f"shard {path}: {error}") from None
    if frame_hash(world.render_states([trajectory.snapshots[0]])[0]) != trajectory.frame_hash:
        raise DataError(
            f"shard {path}: {trajectory.world} draws other frames than when it was collected; collect again"
        )


def _batches(trajectories: Iterable[Trajectory], size: int) -> Iterator[list[Trajectory]]:
    batch: list[Trajectory] = []
    for trajectory in trajectories:
        batch.append(trajectory)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_tar(path: Path, trajectories: list[Trajectory], first: int) -> None:
    with TarWriter(str(path), mtime=0, user="", group="") as writer:
        for number, trajectory in enumerate(trajectories, start=first):
            writer.write({"__key__": f"{number:08d}", "json": asdict(trajectory)})


def _from_json(value: dict[str, Any]) -> Trajectory:
    lists = {key: tuple(value[key]) for key in ("snapshots", "actions", "rewards")}
    return Trajectory(**{**value, **lists})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

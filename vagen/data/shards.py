"""Trajectories as WebDataset shards with a manifest of counts and checksums.

A folder holds ``shard-00000.tar`` … and ``manifest.json``. A shard has one ``<key>.json`` per trajectory: states, not
pixels, because every world here draws its frames from the state; a frame hash per trajectory notices a renderer that
draws otherwise. The tar files are byte-identical for equal input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tarfile import TarError
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from webdataset.tariterators import tar_file_iterator
from webdataset.writer import TarWriter

import vagen
from vagen.cloze.sample import simulator
from vagen.files import atomic_folder, write_json
from vagen.mdp import Trajectory
from worlds import Split, WorldError

MANIFEST = "manifest.json"
FORMAT = 1


class DataError(ValueError):
    """Shards that cannot be used; the message names the file, what is wrong and what to do."""


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # no path, no address, no command
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Shard:
    """One line of a manifest: a file, its counts, and the SHA-256 of its bytes."""

    file: FileName
    trajectories: Count
    transitions: Annotated[int, Field(ge=0)]
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds."""

    format: int
    world: str
    split: Split
    seed: int
    behaviour: str
    layouts: Annotated[int, Field(ge=0)]
    shards: tuple[Shard, ...]
    provenance: dict[str, Any]

    @property
    def trajectories(self) -> int:
        return sum(shard.trajectories for shard in self.shards)

    @property
    def transitions(self) -> int:
        return sum(shard.transitions for shard in self.shards)


_MANIFEST = TypeAdapter(Manifest)
_TRAJECTORY = TypeAdapter(Trajectory)


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
    folder: Path, trajectories: Iterable[Trajectory], *, world: str, split: Split, seed: int, behaviour: str, size: int
) -> Manifest:
    """Write trajectories, ``size`` to a shard, and their manifest; the folder appears whole or not at all."""
    layouts: set[str] = set()
    shards: list[Shard] = []
    with atomic_folder(folder, MANIFEST) as temporary:
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
        manifest = _MANIFEST.validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise DataError(
            f"no shards in {folder}: cannot read {MANIFEST} ({error.strerror}); run `vagen collect`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        problem = f"{where}: {first['msg']}, got {first['input']!r:.80}"
        raise DataError(f"{path} is damaged ({problem}); collect the data again") from None
    try:
        simulator(manifest.world)
    except WorldError as error:
        raise DataError(f"{path}: {error}") from None
    if manifest.format != FORMAT:
        raise DataError(f"{path} has format {manifest.format}, this version reads {FORMAT}; collect the data again")
    if manifest.trajectories == 0:
        raise DataError(f"{path} lists no trajectories; collect the data again")
    for shard in manifest.shards:
        if not (folder / shard.file).is_file():
            raise DataError(f"shard {folder / shard.file} is missing; collect the data again or remove its manifest")
    return manifest


def read_shard(folder: Path, manifest: Manifest, index: int) -> list[Trajectory]:
    """All trajectories of one shard, checked against the manifest and the renderer of today.

    Raises:
        DataError: the bytes are not those of the manifest, they hold something else than trajectories of its world, or
            the world no longer draws what it drew.
    """
    shard = manifest.shards[index]
    path = folder / shard.file
    data = path.read_bytes() if path.is_file() else b""
    if len(data) != shard.bytes or _sha256(data) != shard.sha256:
        raise DataError(f"shard {path} is corrupt (its checksum is not the manifest's); collect the data again")
    try:
        members = list(tar_file_iterator(BytesIO(data)))  # pyright: ignore[reportArgumentType] - any byte stream will do
    except TarError as error:
        raise DataError(f"shard {path} is no tar file ({error}); collect the data again") from None
    trajectories = [_parse(path, member["fname"], member["data"]) for member in members]
    if len(trajectories) != shard.trajectories:
        raise DataError(f"shard {path} holds {len(trajectories)} trajectories, its manifest says {shard.trajectories}")
    if strangers := {trajectory.world for trajectory in trajectories} - {manifest.world}:
        raise DataError(f"shard {path} holds a trajectory of {min(strangers)!r}, its manifest says {manifest.world!r}")
    _check_frame(path, trajectories[0])
    return trajectories


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """All trajectories of a folder, in order."""
    manifest = read_manifest(folder)
    for index in range(len(manifest.shards)):
        yield from read_shard(folder, manifest, index)


def _parse(path: Path, name: str, data: bytes) -> Trajectory:
    """One member of a shard. Members are parsed as JSON and as nothing else: shards may come from strangers."""
    if not name.endswith(".json"):
        raise DataError(f"shard {path}: member {name!r} is no .json file; only trajectories are read")
    try:
        return _TRAJECTORY.validate_json(data)
    except ValidationError as error:
        raise DataError(f"shard {path}: member {name!r} is no trajectory ({error.errors()[0]['msg']})") from None


def _check_frame(path: Path, trajectory: Trajectory) -> None:
    world = simulator(trajectory.world)
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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

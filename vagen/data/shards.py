"""Trajectories as WebDataset shards with a manifest of counts and checksums.

A folder holds ``shard-00000.tar`` … and ``manifest.json``. A shard has one ``<key>.json`` per trajectory: states, not
pixels, because most worlds draw their frames from the state; a frame hash per trajectory notices a renderer that draws
otherwise. Worlds that cannot store their frames beside it, ``<key>.0.webp``, ``<key>.1.webp``, … The tar files are
byte-identical for equal input. The manifest carries a checksum of itself, so that no change of a byte goes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tarfile import TarError
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from webdataset.tariterators import tar_file_iterator
from webdataset.writer import TarWriter

import vagen
from vagen.cloze.sample import simulator
from vagen.data.frames import decode_frame, frame_hash
from vagen.data.places import MANIFEST, DataError, Folder, Place, UnreadableError
from vagen.files import atomic_folder, atomic_path
from vagen.mdp import Trajectory
from worlds import Split, WorldError

FORMAT = 2
_BLOCK = 512  # bytes; what tar archives are made of
DRAWN_AT_ONCE = 64  # frames, when their hashes are checked


class CorruptShardError(DataError):
    """A shard that is damaged or gone; others of the same folder may be whole."""


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

    @property
    def digest(self) -> str:
        """SHA-256 of the shards' checksums, in order: equal where the same trajectories come in the same order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


_MANIFEST = TypeAdapter(Manifest)
_TRAJECTORY = TypeAdapter(Trajectory)


def provenance(world: str) -> dict[str, Any]:
    """The versions that decide what a trajectory of ``world`` looks like."""
    return {
        "vagen": vagen.__version__,
        "renderer": type(simulator(world)).renderer_version,
        **{package: version(package) for package in simulator(world).packages()},
    }


def write_shards(
    folder: Path,
    trajectories: Iterable[Trajectory],
    *,
    world: str,
    split: Split,
    seed: int,
    behaviour: str,
    size: int,
    overwrite: bool = False,
    describe: Callable[[Manifest], Mapping[str, str]] = lambda _: {},
) -> Manifest:
    """Write trajectories, ``size`` to a shard, and their manifest; the folder appears whole or not at all.

    Args:
        overwrite: replace a folder of shards.
        describe: makes further text files of the manifest, by name, such as a dataset card.
    """
    layouts: set[str] = set()
    shards: list[Shard] = []
    with atomic_folder(folder, MANIFEST, overwrite) as temporary:
        for number, batch in enumerate(_batches(trajectories, size)):
            path = temporary / f"shard-{number:05d}.tar"
            _write_tar(path, batch, first=number * size)
            layouts.update(simulator(world).key(t.snapshots[0]) for t in batch)
            shards.append(
                Shard(path.name, len(batch), sum(map(len, batch)), path.stat().st_size, _sha256(path.read_bytes()))
            )
        manifest = Manifest(FORMAT, world, split, seed, behaviour, len(layouts), tuple(shards), provenance(world))
        (temporary / MANIFEST).write_bytes(seal(asdict(manifest)))
        for name, text in describe(manifest).items():
            (temporary / name).write_text(text, encoding="utf-8")
    return manifest


def seal(values: dict[str, Any]) -> bytes:
    """A manifest's values as the bytes of its file: readable JSON that ends with a checksum of all before it.

    There is one way to write given values, so whoever writes what a file says again gets the same bytes, or it was
    changed.
    """
    checksum = _sha256(json.dumps(values, indent=2, allow_nan=False).encode())
    return (json.dumps({**values, "checksum": checksum}, indent=2) + "\n").encode()


def _is_sealed(values: dict[str, Any], data: bytes) -> bool:
    """Whether ``data`` is what :func:`seal` makes of the values that were read from it."""
    try:
        return seal({key: value for key, value in values.items() if key != "checksum"}) == data
    except ValueError:  # NaN, which nobody writes
        return False


def read_manifest(folder: Path | Place) -> Manifest:
    """The manifest of a folder made by :func:`write_shards`.

    Raises:
        DataError: there is none, it is damaged or was changed, or it names no trajectories.
    """
    place = _place(folder)
    path = place.file(MANIFEST)
    try:
        data = place.read(MANIFEST)
    except UnreadableError as error:
        raise DataError(f"no shards in {place}: {error}; run `vagen collect`") from None
    try:
        values = json.loads(data)
        manifest = _MANIFEST.validate_json(data, strict=True)
    except ValidationError as error:
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise DataError(_other_format(path, values["format"])) from None
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        problem = f"{where}: {first['msg']}, got {first['input']!r:.80}"
        raise DataError(f"{path} is damaged ({problem}); collect the data again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); collect the data again") from None
    if manifest.format != FORMAT:
        raise DataError(_other_format(path, manifest.format))
    try:
        simulator(manifest.world)
    except WorldError as error:
        raise DataError(f"{path}: {error}") from None
    if manifest.trajectories == 0:
        raise DataError(f"{path} lists no trajectories; collect the data again")
    if not _is_sealed(values, data):
        raise DataError(f"{path} is damaged (its checksum is not that of its text); collect the data again")
    return manifest


def missing_shards(folder: Path | Place, manifest: Manifest) -> list[str]:
    """The shards that are not there, where looking is cheap: in a folder of this machine."""
    place = _place(folder)
    if not place.local:
        return []
    return [shard.file for shard in manifest.shards if not (Path(place.address) / shard.file).is_file()]


def read_shard(folder: Path | Place, manifest: Manifest, index: int, cache: Path | None = None) -> list[Trajectory]:
    """All trajectories of one shard, checked against the manifest and the renderer of today.

    Args:
        cache: where the bytes of shards that are elsewhere are kept, by checksum; ``None`` fetches them every time.

    Raises:
        CorruptShardError: the bytes are not those of the manifest, or cannot be had.
        DataError: they hold something else than trajectories of its world, or the world no longer draws what it drew.
    """
    shard, place = manifest.shards[index], _place(folder)
    path = place.file(shard.file)
    data = _fetch(place, shard, cache)
    try:
        trajectories = _parse_all(path, list(_plain_members(data) or _members(data)))
    except TarError as error:
        raise DataError(f"shard {path} is no tar file ({error}); collect the data again") from None
    if len(trajectories) != shard.trajectories:
        raise DataError(f"shard {path} holds {len(trajectories)} trajectories, its manifest says {shard.trajectories}")
    if strangers := {trajectory.world for trajectory in trajectories} - {manifest.world}:
        raise DataError(f"shard {path} holds a trajectory of {min(strangers)!r}, its manifest says {manifest.world!r}")
    _check_frames(path, trajectories)
    return trajectories


def read_trajectories(folder: Path | Place, cache: Path | None = None) -> Iterator[Trajectory]:
    """All trajectories of a folder, in order."""
    manifest = read_manifest(folder)
    for index in range(len(manifest.shards)):
        yield from read_shard(folder, manifest, index, cache)


def _place(folder: Path | Place) -> Place:
    return folder if isinstance(folder, Place) else Folder(str(folder), str(folder))


def _other_format(path: str, found: Any) -> str:
    return f"{path} has format {found}, this version reads {FORMAT}; collect the data again"


def _fetch(place: Place, shard: Shard, cache: Path | None) -> bytes:
    """The bytes of a shard, those of the manifest; a copy in the cache is used if it is whole, and made if not."""
    copy = cache / shard.sha256[:2] / f"{shard.sha256}.tar" if cache is not None and not place.local else None
    if copy is not None and copy.is_file():
        data = copy.read_bytes()
        if _sha256(data) == shard.sha256:
            return data
    try:
        data = place.read(shard.file)
    except UnreadableError as error:
        raise CorruptShardError(
            f"shard {place.file(shard.file)} is missing: {error}; collect the data again"
        ) from None
    if len(data) != shard.bytes or _sha256(data) != shard.sha256:
        raise CorruptShardError(
            f"shard {place.file(shard.file)} is corrupt (its checksum is not the manifest's); collect the data again"
        )
    if copy is not None:
        with atomic_path(copy) as temporary:
            temporary.write_bytes(data)
    return data


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file in a tar archive."""
    stream = BytesIO(data)
    for member in tar_file_iterator(stream):  # pyright: ignore[reportArgumentType] - any byte stream will do
        yield member["fname"], member["data"]


def _plain_members(data: bytes) -> list[tuple[str, bytes]] | None:
    """The same for archives of nothing but plain files with short names, as ours are; ``None`` for all others.

    Reading a shard takes 44 instead of 71 us per trajectory this way: general archives are slow to walk.
    """
    found, place = [], 0
    while place + _BLOCK <= len(data) and data[place]:
        header = data[place : place + _BLOCK]
        kind, prefix, octal = header[156:157], header[345], header[124:135]
        if kind != b"0" or prefix or not re.fullmatch(rb"[0-7]+", octal):
            return None
        start, size = place + _BLOCK, int(octal, 8)
        place = start + -(-size // _BLOCK) * _BLOCK
        if place > len(data):
            return None
        found.append((header[:100].rstrip(b"\0").decode("utf-8", "replace"), data[start : start + size]))
    return found


def _parse_all(path: str, members: list[tuple[str, bytes]]) -> list[Trajectory]:
    """The trajectories of a shard's members, in order, with their frames if it stores any.

    Members are parsed as JSON and as images, and as nothing else: shards may come from strangers.
    """
    documents = {name: data for name, data in members if name.endswith(".json")}
    frames: dict[str, dict[int, bytes]] = {}
    for name, data in members:
        if name in documents:
            continue
        key, _, rest = name.partition(".")
        number = rest.removesuffix(".webp")
        if not (rest.endswith(".webp") and number.isdecimal()):
            raise DataError(f"shard {path}: member {name!r} is neither a .json file nor a .<number>.webp file")
        frames.setdefault(f"{key}.json", {})[int(number)] = data
    if strays := frames.keys() - documents.keys():
        raise DataError(f"shard {path}: there are frames, and no {min(strays)!r} that they belong to")
    return [_parse(path, name, data, frames.get(name, {})) for name, data in documents.items()]


def _parse(path: str, name: str, data: bytes, frames: dict[int, bytes]) -> Trajectory:
    try:
        trajectory = _TRAJECTORY.validate_json(data)
    except ValidationError as error:
        raise DataError(f"shard {path}: member {name!r} is no trajectory ({error.errors()[0]['msg']})") from None
    if len(trajectory.snapshots) != len(trajectory) + 1 or len(trajectory.rewards) != len(trajectory):
        raise DataError(
            f"shard {path}: member {name!r} has {len(trajectory)} actions, and not as many rewards and states"
        )
    ordered = tuple(frames[number] for number in sorted(frames))
    if frames and sorted(frames) != list(range(len(trajectory.snapshots))):
        raise DataError(f"shard {path}: member {name!r} has {len(trajectory.snapshots)} states and not as many frames")
    if trajectory.frames:
        raise DataError(f"shard {path}: member {name!r} has frames among its JSON; they go into .webp files")
    return replace(trajectory, frames=ordered) if ordered else trajectory


def _check_frames(path: str, trajectories: list[Trajectory]) -> None:
    """Compare the first frame of each trajectory with its hash."""
    world = simulator(trajectories[0].world)
    for start in range(0, len(trajectories), DRAWN_AT_ONCE):
        batch = trajectories[start : start + DRAWN_AT_ONCE]
        if not world.renders_from_state and not all(trajectory.frames for trajectory in batch):
            raise DataError(f"shard {path}: {world.id} cannot draw its states again, and frames are missing")
        try:
            drawn = (
                world.render_states([trajectory.snapshots[0] for trajectory in batch])
                if world.renders_from_state
                else [decode_frame(trajectory.frames[0]) for trajectory in batch]
            )
        except (LookupError, TypeError, ValueError) as error:  # what strangers call a state, or an image
            raise DataError(f"shard {path}: a first frame cannot be drawn ({error}); collect the data again") from None
        changed = [t.seed for frame, t in zip(drawn, batch, strict=True) if frame_hash(frame) != t.frame_hash]
        if changed:
            raise DataError(
                f"shard {path}: {world.id} draws other frames than when it was collected "
                f"(the episode of seed {changed[0]}); collect the data again"
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
            frames = {f"{t}.webp": frame for t, frame in enumerate(trajectory.frames)}
            values = asdict(replace(trajectory, frames=()))
            del values["frames"]
            writer.write({"__key__": f"{number:08d}", "json": values, **frames})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

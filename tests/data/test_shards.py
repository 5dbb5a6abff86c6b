"""Trajectories on disk: what is written is read again, equal input gives equal bytes, and no damage goes unnoticed."""

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import vagen
import worlds.core
from vagen.cloze.sample import simulator
from vagen.data.frames import frame_hash
from vagen.data.shards import (
    FORMAT,
    DataError,
    _members,
    _plain_members,
    missing_shards,
    read_manifest,
    read_shard,
    read_trajectories,
    seal,
    write_shards,
)
from vagen.files import OutputError
from worlds.core import WorldSpec

WORLD = "frozenlake-4x4"


def write(folder: Path, episodes, size: int = 5, **changes):
    settings = {"world": WORLD, "split": "train", "seed": 0, "behaviour": "mixture(0.5)", "size": size, **changes}
    return write_shards(folder, episodes, **settings)


def read(folder: Path) -> list:
    return list(read_trajectories(folder))


@pytest.fixture
def folder(shards, tmp_path) -> Path:
    """A copy of a folder of shards, to be damaged."""
    return Path(shutil.copytree(shards[WORLD], tmp_path / "data" / WORLD))


def change_manifest(folder: Path, **changes) -> None:
    """Change a manifest as one who knows how would, its checksum too."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["checksum"]
    path.write_bytes(seal({**values, **changes}))


def change_shard_line(folder: Path, **changes) -> None:
    """Change what the manifest says about the first shard."""
    lines = json.loads((folder / "manifest.json").read_text())["shards"]
    change_manifest(folder, shards=[{**lines[0], **changes}, *lines[1:]])


# --------------------------------------------------------------------------------------------------- write and read


def test_what_is_written_is_read_again(trajectories, shards):
    for world, episodes in trajectories.items():
        found = read(shards[world])
        assert found == episodes
        for trajectory in found:
            assert all(isinstance(value, tuple) for value in (trajectory.snapshots, trajectory.actions))
            assert all(type(action) is int for action in trajectory.actions)
            assert all(type(reward) is float for reward in trajectory.rewards)


def test_a_manifest_tells_what_is_there(trajectories, shards):
    for world, episodes in trajectories.items():
        folder = shards[world]
        manifest = read_manifest(folder)
        assert (manifest.world, manifest.split, manifest.behaviour) == (world, "train", "mixture(0.5)")
        assert (manifest.trajectories, manifest.transitions) == (len(episodes), sum(map(len, episodes)))
        assert manifest.layouts == len({str(simulator(world).layout(e.snapshots[0])) for e in episodes})
        assert manifest.provenance["vagen"] == vagen.__version__
        assert [shard.trajectories for shard in manifest.shards] == [5, 5, 3]
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["manifest.json", *(shard.file for shard in manifest.shards)]
        )
        for shard in manifest.shards:
            data = (folder / shard.file).read_bytes()
            assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_shard_is_a_tar_of_numbered_json(trajectories, shards):
    names = []
    for path in sorted(shards[WORLD].glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                names.append(member.name)
                value = json.load(tar.extractfile(member))
                written = json.loads(json.dumps(asdict(replace(trajectories[WORLD][len(names) - 1], frames=()))))
                assert written.pop("frames") == [], "frames are no JSON"
                assert value == written
                assert (member.mtime, member.uname, member.gname) == (0, "", ""), "bytes depend on who writes, or when"
    assert names == [f"{number:08d}.json" for number in range(13)]


def test_equal_input_gives_equal_bytes(trajectories, tmp_path):
    one, two = tmp_path / "one", tmp_path / "elsewhere" / "two"
    write(one, trajectories[WORLD])
    mask = os.umask(0o077)
    try:
        write(two, iter(trajectories[WORLD]))
    finally:
        os.umask(mask)
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), f"{path.name} differs"


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (5, [5]), (6, [5, 1]), (10, [5, 5])])
def test_no_trajectory_is_lost_where_shards_are_full(count, sizes, trajectories, tmp_path):
    write(tmp_path / "data", trajectories[WORLD][:count])
    assert [shard.trajectories for shard in read_manifest(tmp_path / "data").shards] == sizes
    assert read(tmp_path / "data") == trajectories[WORLD][:count]


def test_a_folder_is_replaced_whole(folder, trajectories):
    with pytest.raises(OutputError, match="add --overwrite"):
        write(folder, trajectories[WORLD][:2])
    write(folder, trajectories[WORLD][:2], overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "shard-00000.tar"]
    assert read(folder) == trajectories[WORLD][:2]


def test_what_fails_while_writing_leaves_the_old(folder, trajectories):
    def interrupted():
        yield from trajectories[WORLD][:7]
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write(folder, interrupted(), overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(folder.parent) == [folder.name], "something half-written is left"
    with pytest.raises(KeyboardInterrupt):
        write(folder.parent / "new", interrupted())
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ü",
        "a%20b",
        "a:b",
        *(name for name in ("a{1..2}", "a{x,y}", "a::b", "a?b", "a#b")),
    ],
)
def test_folders_may_have_any_name(name, trajectories, tmp_path):
    write(tmp_path / name, trajectories[WORLD][:2])
    assert read(tmp_path / name) == trajectories[WORLD][:2]


def test_relative_folders_may_have_any_name(trajectories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("run:1"), trajectories[WORLD][:2])
    assert read(Path("run:1")) == trajectories[WORLD][:2]


# ------------------------------------------------------------------------------------------------------------ damage


def test_every_flipped_byte_is_noticed(folder):
    """50 random places of every shard."""
    rng = np.random.default_rng(0)
    manifest = read_manifest(folder)
    for index, shard in enumerate(manifest.shards):
        path = folder / shard.file
        data = path.read_bytes()
        for place in rng.integers(len(data), size=50):
            damaged = bytearray(data)
            damaged[place] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=rf"{shard.file} is corrupt"):
                read_shard(folder, manifest, index)
        path.write_bytes(data)
    assert len(read(folder)) == 13


@pytest.mark.parametrize("kept", [0, 1, 511, 512, 1024, -1, -512, -10240])
def test_truncated_shards_are_noticed(folder, kept):
    path = folder / "shard-00001.tar"
    path.write_bytes(path.read_bytes()[:kept])
    manifest = read_manifest(folder)
    with pytest.raises(DataError, match=rf"{folder}/shard-00001\.tar is corrupt.*collect the data again"):
        read_shard(folder, manifest, 1)


def test_bytes_after_the_end_are_noticed(folder):
    with (folder / "shard-00000.tar").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"shard-00000\.tar is corrupt"):
        read_shard(folder, read_manifest(folder), 0)


def test_exchanged_shards_are_noticed(folder):
    one, two = folder / "shard-00000.tar", folder / "shard-00001.tar"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    manifest = read_manifest(folder)
    for index in range(2):
        with pytest.raises(DataError, match=rf"shard-0000{index}\.tar is corrupt"):
            read_shard(folder, manifest, index)


def test_missing_shards_are_noticed(folder):
    manifest = read_manifest(folder)
    (folder / "shard-00002.tar").unlink()
    assert missing_shards(folder, manifest) == ["shard-00002.tar"]
    with pytest.raises(DataError, match=rf"shard-00002\.tar is missing: cannot read {folder}/shard-00002\.tar"):
        read_shard(folder, manifest, 2)


def test_a_folder_without_shards_says_how_to_make_them(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"no shards in {folder}: cannot read .*manifest.json .*`vagen collect`"):
            read_manifest(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"shards"',
        b"{}",
        b'{"shards": []}',
        b'{"shards": null}',
        b'{"shards": [3]}',
        b'{"shards": [{}]}',
        b'{"shards": [{"file": "x", "colour": "red"}]}',
        b"\xff\xfe",
        b"\x00" * 100,
    ],
)
def test_manifests_that_are_none_are_refused(folder, text):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=rf"{folder}/manifest\.json is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("key", ["format", "world", "split", "seed", "behaviour", "layouts", "shards", "provenance"])
def test_manifests_that_lack_something_are_refused(folder, key):
    value = json.loads((folder / "manifest.json").read_text())
    del value[key]
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=rf"manifest\.json is damaged.*{key}"):
        read_manifest(folder)


def test_other_formats_are_refused(folder):
    change_manifest(folder, format=FORMAT + 1)
    with pytest.raises(DataError, match=rf"manifest\.json has format {FORMAT + 1}, this version reads {FORMAT}"):
        read_manifest(folder)


def test_manifests_of_nothing_are_refused(tmp_path):
    write(tmp_path / "empty", [])
    with pytest.raises(DataError, match=r"empty/manifest\.json lists no trajectories"):
        read_manifest(tmp_path / "empty")


TYPES = [
    {"file": 3},
    {"file": None},
    {"trajectories": "5"},
    {"trajectories": 5.5},
    {"trajectories": -5},
    {"trajectories": None},
    {"transitions": "many"},
]


@pytest.mark.parametrize("changes", TYPES, ids=str)
def test_manifests_with_values_of_other_types_are_refused(folder, changes):
    change_shard_line(folder, **changes)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(folder)


@pytest.mark.parametrize("changes", [{"bytes": "1"}, {"bytes": None}, {"sha256": None}, {"sha256": "0" * 64}], ids=str)
def test_shards_that_are_not_those_of_the_manifest_are_refused(folder, changes):
    change_shard_line(folder, **changes)
    with pytest.raises(DataError, match=r"shard-00000\.tar|manifest\.json"):
        read(folder)


@pytest.mark.parametrize("count", [4, 6])
def test_counts_that_are_not_those_of_the_manifest_are_refused(folder, count):
    change_shard_line(folder, trajectories=count)
    with pytest.raises(DataError, match=r"shard-00000\.tar|manifest\.json"):
        read(folder)


def test_shards_of_another_world_are_refused(folder):
    change_manifest(folder, world="sokoban-6x6")
    with pytest.raises(DataError, match=r"shard-00000\.tar|manifest\.json"):
        read(folder)


def test_manifests_of_unknown_worlds_are_refused(folder):
    change_manifest(folder, world="frozenlake-4x5")
    with pytest.raises(DataError, match=r"frozenlake-4x5"):
        read_manifest(folder)


def test_manifests_of_unknown_splits_are_refused(folder):
    change_manifest(folder, split="trian")
    with pytest.raises(DataError, match=r"trian"):
        read_manifest(folder)


def test_trajectories_of_unknown_worlds_are_refused(trajectories, tmp_path, monkeypatch):
    spec = worlds.core._REGISTRY[WORLD]
    monkeypatch.setitem(worlds.core._REGISTRY, "lake-of-mine", WorldSpec("lake-of-mine", spec.entry, spec.kwargs))
    mine = [replace(t, world="lake-of-mine") for t in trajectories[WORLD][:2]]
    write(tmp_path / "mine", mine, world="lake-of-mine")
    assert read(tmp_path / "mine") == mine
    monkeypatch.undo()
    simulator.cache_clear()
    with pytest.raises(DataError, match=r"manifest\.json: unknown world 'lake-of-mine'"):
        read(tmp_path / "mine")


def test_a_renderer_that_draws_otherwise_is_noticed(folder, monkeypatch):
    world = simulator(WORLD)
    draw = world.render_states

    def one_pixel_darker(snapshots):
        frames = draw(snapshots).copy()
        frames[:, 0, 0, 0] -= 1
        return frames

    monkeypatch.setattr(world, "render_states", one_pixel_darker, raising=False)
    with pytest.raises(DataError, match=rf"shard-00000\.tar: {WORLD} draws other frames"):
        read(folder)


def test_frames_have_equal_hashes_only_if_they_are_equal():
    frame = np.zeros((4, 6, 3), np.uint8)
    assert frame_hash(frame) == frame_hash(frame.copy())
    assert frame_hash(frame) == frame_hash(np.zeros((4, 12, 3), np.uint8)[:, ::2]), "the layout in memory counts"
    assert frame_hash(frame) != frame_hash(frame.reshape(6, 4, 3))
    other = frame.copy()
    other[3, 5, 2] = 1
    assert frame_hash(frame) != frame_hash(other)


# ---------------------------------------------------------------------------------------------------- foreign shards


class Payload:
    """What an attacker pickles: loading it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pkl", "pth"])
def test_reading_foreign_shards_runs_no_code_from_pickles(folder, tmp_path, extension):
    path = folder / "shard-00000.tar"
    data = pickle.dumps(Payload(tmp_path / "owned"))
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(f"00000004.{extension}")  # beside the last trajectory
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    raw = path.read_bytes()
    change_shard_line(folder, bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    try:
        found = read(folder)
    except DataError as error:
        assert "shard-00000.tar" in str(error)  # noqa: PT017 - refusing the shard would do as well
    else:
        assert len(found) == 13
    assert not (tmp_path / "owned").exists(), "a pickle of a foreign shard was executed"


def test_reading_foreign_shards_runs_no_code_from_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    name = "pipe:touch owned; cat shard-00000.tar #"
    shutil.copyfile("shard-00000.tar", name)
    change_shard_line(folder, file=name)
    try:
        read(Path("."))
    except DataError as error:
        assert "pipe:" in str(error)  # noqa: PT017 - refusing the name would do as well
    assert not Path("owned").exists(), "a file name of a foreign manifest was executed"


@pytest.mark.parametrize("outside", ["../shard-00000.tar", "{folder}/../shard-00000.tar"])
def test_manifests_name_files_of_their_folder_only(folder, outside):
    (folder / "shard-00000.tar").rename(folder.parent / "shard-00000.tar")
    change_shard_line(folder, file=outside.format(folder=folder))
    with pytest.raises(DataError):
        read_manifest(folder)


# ---------------------------------------------------------------------------------------------------------- archives


def archive(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_our_archives_are_walked_as_any_tar_reader_would(shards):
    for folder in shards.values():
        for path in folder.glob("*.tar"):
            data = path.read_bytes()
            assert _plain_members(data) == list(_members(data))


@hypothesis.given(sizes=st.lists(st.integers(0, 1600), max_size=6), seed=st.integers(0, 99))
def test_plain_archives_of_all_sizes_are_walked(sizes, seed):
    rng = np.random.default_rng(seed)
    members = [(f"{n:03d}.json", rng.bytes(size)) for n, size in enumerate(sizes)]
    assert _plain_members(archive(*members)) == members


@pytest.mark.parametrize(
    "data",
    [
        archive(("x" * 150, b"1"), form=tarfile.PAX_FORMAT),
        archive(("x" * 150, b"1"), form=tarfile.GNU_FORMAT),
        archive((f"{'x' * 90}/{'y' * 90}", b"1")),
        archive(("a", b""), kind=tarfile.DIRTYPE),
        archive(("a", b""), kind=tarfile.SYMTYPE),
        archive(("a", b"1" * 1024))[:1024],
        b"\xff" * 2048,
    ],
    ids=["pax", "gnu", "prefix", "folder", "link", "cut", "noise"],
)
def test_other_archives_are_left_to_the_library(data):
    assert _plain_members(data) is None

"""Shards from folders, servers, the Hub, object stores and commands: the same everywhere, and no damage unseen."""

import hashlib
import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import pytest

from vagen.config import Clozes, Data
from vagen.data import places as places_module
from vagen.data.places import DataError, UnreadableError, place_of, places
from vagen.data.shards import CorruptShardError, read_manifest, read_shard, read_trajectories
from vagen.data.stream import ClozeStream, TrajectoryStore

WORLD = "sokoban-6x6"
CLOZES = Clozes(weights={"state_estimation": 1.0})
HF_COMMIT = "a" * 40


class Files(BaseHTTPRequestHandler):
    """A web server for a folder, and as much of the Hub's interface as reading a dataset repository takes."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        server = self.server
        server.requests.append((self.command, path))
        if server.failures.get(path, 0) > 0:
            server.failures[path] -= 1
            return self.send(503, b"later")
        if path.startswith("/api/datasets/me/data/tree/"):
            files = [p for p in server.root.rglob("*") if p.is_file()]
            listed = [
                {"type": "file", "path": str(p.relative_to(server.root)), "size": p.stat().st_size, "oid": "0" * 40}
                for p in files
            ]
            return self.send(200, json.dumps(listed).encode())
        if path.startswith("/api/"):
            return self.send(200, json.dumps({"id": "me/data", "sha": HF_COMMIT, "siblings": []}).encode())
        on_hub = path.startswith("/datasets/me/data/resolve/")
        file = server.root / (path.split("/", 6)[6] if on_hub else path.lstrip("/"))
        if not file.is_file():
            return self.send(404, b"no such file", {"X-Error-Code": "EntryNotFound"} if on_hub else {})
        data = file.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        return self.send(200, data if body else b"", {"ETag": f'"{etag}"', "X-Repo-Commit": HF_COMMIT}, len(data))

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(shards, tmp_path):
    """A web server for a copy of the shards of all small worlds, ``/<world>/train/``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.root = tmp_path / "served"
    for world, folder in shards.items():
        shutil.copytree(folder, server.root / world / "train")
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    server.requests, server.failures = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(places_module, "SECONDS_BETWEEN_TRIES", 0.0)


@pytest.fixture
def hub(server, monkeypatch):
    """The Hub, as far as this process knows."""
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(hf_api, "ENDPOINT", server.endpoint, raising=False)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(places_module, "HfApi", lambda: huggingface_hub.HfApi(endpoint=server.endpoint))
    return server


@pytest.fixture
def memory(shards):
    """An object store in memory that holds the shards of all small worlds, ``/bucket/<world>/train/``."""
    system = fsspec.filesystem("memory")
    for world, folder in shards.items():
        for file in folder.iterdir():
            system.pipe_file(f"/bucket/{world}/train/{file.name}", file.read_bytes())
    yield system
    system.rm("/bucket", recursive=True)


def read(entry, cache: Path) -> list:
    return list(read_trajectories(place_of(entry, cache), cache))


# ----------------------------------------------------------------------------------------------------- where they are


def test_the_same_from_everywhere(shards, trajectories, hub, memory, tmp_path):
    expected = trajectories[WORLD]
    folder = shards[WORLD]
    shutil.copytree(folder, tmp_path / "with space" / WORLD)
    entries = [
        folder,
        str(folder),
        f"{folder.parent}/{WORLD[:4]}*",
        f"{folder.parent}/{{{WORLD},}}".replace(",", f",{WORLD}"),
        f"{hub.endpoint}/{WORLD}/train",
        f"{hub.endpoint}/{WORLD}/train/",
        f"hf://datasets/me/data/{WORLD}/train",
        f"hf://datasets/me/data@main/{WORLD}/train",
        f"hf://datasets/me/data/{WORLD[:4]}*/train",
        f"memory://bucket/{WORLD}/train",
        f"memory://bucket/{WORLD[:4]}*/train",
        f"file://{folder}",
        f"pipe:cat '{tmp_path}/with space/{WORLD}'/{{file}}",
    ]
    for number, entry in enumerate(entries):
        found = read(entry, tmp_path / f"cache-{number}")
        assert found == expected, f"{entry} gives other trajectories"


def test_streams_do_not_depend_on_where_shards_are(shards, server, memory, tmp_path):
    def groups(entries) -> list:
        data = Data(cache=str(tmp_path / "cache"))
        stream = ClozeStream(entries, CLOZES, 3, data=data)
        return [stream.group(number).samples[0].window for number in range(40)]

    expected = groups(list(shards.values()))
    assert groups([f"{server.endpoint}/{world}/train" for world in shards]) == expected
    assert groups([f"{server.endpoint}/{{{','.join(shards)}}}/train"]) == expected
    assert groups([f"memory://bucket/{{{','.join(shards)}}}/train"]) == expected


def test_globs_are_sorted_and_alternatives_in_order(shards, tmp_path):
    parent = shards[WORLD].parent
    assert [Path(p.address).name for p in places([f"{parent}/*"], tmp_path)] == sorted(shards)
    found = places([f"{parent}/{{sokoban-6x6,frozenlake-4x4}}", f"{parent}/m*"], tmp_path)
    assert [Path(p.address).name for p in found] == ["sokoban-6x6", "frozenlake-4x4", "minigrid-rooms-6x6"]
    assert {p.entry for p in found} == {f"{parent}/{{sokoban-6x6,frozenlake-4x4}}", f"{parent}/m*"}
    numbered = places(["s3://bucket/part-{00..11}/train"], tmp_path)
    assert [p.address for p in numbered][::11] == ["s3://bucket/part-00/train", "s3://bucket/part-11/train"]
    assert len({p.address for p in places([f"{parent}/{{*,sokoban-6x6}}"], tmp_path)}) == 3, "a folder comes twice"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere/*", "finds no folder with a manifest.json"),
        ("ftp://host/data", "cannot be read from ftp://"),
        ("https://host/*/train", "web servers do not list"),
        ("data/shard-00000.tar", "is a shard: name the folder"),
        ("hf://me/data", "write hf://datasets/OWNER/NAME"),
        ("hf://datasets/data", "write hf://datasets/OWNER/NAME"),
        ("pipe:cat shards", r"needs \{file\}"),
        ("x" * 5000 + "/*", "finds no folder"),
        ("pipe:" + "x" * 5000, r"needs \{file\}"),
        ("simplecache::s3://bucket/data", "cannot be read from"),
        ("s3://bucket::http://host/data", "cannot be read from"),
        ("memory://nothing/*/here", "finds no folder"),
    ],
)
def test_entries_that_are_none_are_refused(entry, message, tmp_path):
    with pytest.raises(DataError, match=message):
        places([entry], tmp_path)


def test_what_cannot_be_read_is_named(server, hub, tmp_path):
    for entry in (
        f"{server.endpoint}/nothing",
        "http://127.0.0.1:9/nothing",
        "hf://datasets/me/data/nothing",
        "memory://bucket/nothing",
        "pipe:false {file}",
        "pipe:cat /nowhere/{file}",
    ):
        with pytest.raises(DataError, match=r"no shards in .*cannot read .*manifest\.json"):
            read_manifest(place_of(entry, tmp_path))


def test_a_store_that_needs_a_package_says_which(tmp_path):
    if find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(DataError, match=r"cannot read s3://bucket/data/manifest\.json.*s3fs"):
        read_manifest(place_of("s3://bucket/data", tmp_path))


# ------------------------------------------------------------------------------------------------------------ commands


def test_commands_are_run_only_where_the_user_wrote_them(shards, tmp_path, monkeypatch):
    """Not from a manifest, whose names are of files; and a name is one word of the command, whatever it is."""
    monkeypatch.chdir(tmp_path)
    place = place_of("pipe:cat {file}", tmp_path)
    with pytest.raises(UnreadableError):
        place.read("x; touch owned")
    assert not (tmp_path / "owned").exists()
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    lines = json.loads((folder / "manifest.json").read_text())
    for name in ("pipe:touch owned", "http://host/x.tar", "../x.tar", "a b.tar", ""):
        changed = {**lines, "shards": [{**lines["shards"][0], "file": name}]}
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="damaged"):
            read_manifest(folder)
    assert not (tmp_path / "owned").exists()


# --------------------------------------------------------------------------------------------------------------- cache


def fetched(server) -> Counter:
    return Counter(path.rsplit("/", 1)[-1] for method, path in server.requests if method == "GET")


def test_shards_are_fetched_once(server, trajectories, tmp_path):
    entry, cache = f"{server.endpoint}/{WORLD}/train", tmp_path / "cache"
    for _ in range(3):
        assert read(entry, cache) == trajectories[WORLD]
    assert [count for name, count in fetched(server).items() if name.endswith(".tar")] == [1, 1, 1]
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert sorted(path.stem for path in kept) == sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in kept)
    assert len(kept) == 3, "something half-written is left"


def test_fetching_goes_on_where_it_stopped(server, trajectories, tmp_path):
    """A shard that cannot be had stops the first attempt; what was fetched before is not fetched again."""
    entry, cache = f"{server.endpoint}/{WORLD}/train", tmp_path / "cache"
    gone = server.root / WORLD / "train" / "shard-00002.tar"
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(CorruptShardError, match=r"shard-00002\.tar.*404"):
        read(entry, cache)
    gone.write_bytes(data)
    assert read(entry, cache) == trajectories[WORLD]
    assert fetched(server)["shard-00000.tar"] == fetched(server)["shard-00001.tar"] == 1


def test_a_damaged_copy_is_fetched_again(server, trajectories, tmp_path):
    entry, cache = f"{server.endpoint}/{WORLD}/train", tmp_path / "cache"
    read(entry, cache)
    for path in cache.rglob("*.tar"):
        path.write_bytes(path.read_bytes()[:-7])
    assert read(entry, cache) == trajectories[WORLD]
    assert fetched(server)["shard-00000.tar"] == 2


def test_what_arrives_damaged_is_not_kept(server, tmp_path):
    file = server.root / WORLD / "train" / "shard-00001.tar"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    entry, cache = f"{server.endpoint}/{WORLD}/train", tmp_path / "cache"
    with pytest.raises(CorruptShardError, match=r"shard-00001\.tar is corrupt"):
        read(entry, cache)
    assert len(list(cache.rglob("*.tar"))) == 1, "only the whole shard before it is kept"


def test_a_server_that_stumbles_is_asked_again(server, trajectories, tmp_path):
    server.failures = {f"/{WORLD}/train/manifest.json": 2, f"/{WORLD}/train/shard-00000.tar": 1}
    assert read(f"{server.endpoint}/{WORLD}/train", tmp_path) == trajectories[WORLD]
    server.failures = {f"/{WORLD}/train/manifest.json": 3}
    with pytest.raises(DataError, match="503"):
        read(f"{server.endpoint}/{WORLD}/train", tmp_path)


# -------------------------------------------------------------------------------------------------------------- damage


def test_no_flipped_byte_goes_unnoticed(shards, tmp_path):
    """500 random flips of one bit, over manifests and shards in proportion to nothing but their number."""
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    rng = np.random.default_rng(0)
    files = sorted(folder.iterdir())
    assert len(files) >= 4
    for number in range(500):
        path = files[number % len(files)]
        data = path.read_bytes()
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{path.name}|unknown world"):
            list(read_trajectories(folder))
        path.write_bytes(data)
    assert len(list(read_trajectories(folder))) == 13


def test_other_spacing_of_a_manifest_is_noticed(shards, tmp_path):
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    path = folder / "manifest.json"
    text = path.read_text()
    for changed in (json.dumps(json.loads(text)), text + "\n", text.replace("\n", "\r\n"), text.rstrip("\n")):
        path.write_bytes(changed.encode())
        with pytest.raises(DataError, match="its checksum is not that of its text"):
            read_manifest(folder)


def damage(folder: Path, how: str, shard: int) -> None:
    path = folder / f"shard-{shard:05d}.tar"
    if how == "vanished":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        data = bytearray(path.read_bytes())
        data[2000] ^= 4
        path.write_bytes(data)


HOW = ("vanished", "cut", "flipped")


def store(folder: Path, on_corrupt: str = "skip") -> TrajectoryStore:
    return TrajectoryStore(place_of(folder, folder), (7,), Data(on_corrupt=on_corrupt))


@pytest.mark.parametrize("how", HOW)
def test_damaged_shards_are_fatal_by_default(shards, tmp_path, how):
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    damage(folder, how, 1)
    with pytest.raises(DataError, match=r"shard-00001\.tar"):
        list(map(store(folder, "fail").trajectory, range(13)))


@pytest.mark.parametrize("how", HOW)
def test_skipped_shards_are_named_counted_and_stood_in_for(shards, trajectories, tmp_path, capfd, how):
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    whole = [t.seed for t in map(store(folder).trajectory, range(39))]
    assert capfd.readouterr().err == ""
    damage(folder, how, 1)
    lost = {t.seed for t in trajectories[WORLD][5:10]}
    found = store(folder)
    seeds = [found.trajectory(n).seed for n in range(39)]
    assert not lost & set(seeds)
    assert [new for new, old in zip(seeds, whole, strict=True) if old not in lost] == [
        old for old in whole if old not in lost
    ], "trajectories of whole shards have moved"
    assert set(found.skipped) == {1}
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1
    assert "shard-00001.tar" in errors
    assert "1 of 3 shards" in errors
    # The same whatever was asked before, and in whatever order.
    other = store(folder)
    assert {n: other.trajectory(n).seed for n in range(38, -1, -1)} == dict(enumerate(seeds))


def test_streams_over_damaged_shards_are_the_same_for_all(shards, tmp_path):
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    damage(folder, "flipped", 0)

    def stream() -> ClozeStream:
        return ClozeStream([folder], CLOZES, 1, data=Data(on_corrupt="skip"))

    alone = stream()
    expected = [alone.group(number).samples[0].window for number in range(24)]
    shares = [stream() for _ in range(2)]
    for step in range(6):
        for rank, theirs in enumerate(shares):
            windows = [group.samples[0].window for group in theirs.share(step, 4, rank, 2)]
            assert windows == expected[step * 4 + rank : step * 4 + 4 : 2]


def test_nothing_left_is_fatal(shards, tmp_path):
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    for shard in range(3):
        damage(folder, "cut", shard)
    with pytest.raises(DataError, match="all 3 shards are damaged or gone"):
        store(folder).trajectory(0)


def test_damage_elsewhere_is_skipped_too(server, tmp_path):
    (server.root / WORLD / "train" / "shard-00001.tar").unlink()
    place = place_of(f"{server.endpoint}/{WORLD}/train", tmp_path)
    found = TrajectoryStore(place, (7,), Data(on_corrupt="skip", cache=str(tmp_path / "cache")))
    assert len({found.trajectory(n).seed for n in range(13)}) == 8
    assert "404" in found.skipped[1]


def test_a_world_that_draws_otherwise_is_fatal_even_where_damage_is_skipped(shards, tmp_path, monkeypatch):
    from vagen.cloze.sample import simulator

    world = simulator(WORLD)
    draw = world.render_states
    monkeypatch.setattr(world, "render_states", lambda snapshots: 255 - draw(snapshots), raising=False)
    with pytest.raises(DataError, match="draws other frames"):
        store(shards[WORLD]).trajectory(0)


def test_every_first_frame_is_checked(shards, tmp_path, trajectories):
    from dataclasses import replace

    from vagen.data.shards import write_shards

    for place in range(4):
        changed = [replace(t, frame_hash="0" * 16) if n == place else t for n, t in enumerate(trajectories[WORLD][:4])]
        folder = tmp_path / str(place)
        write_shards(folder, changed, world=WORLD, split="train", seed=0, behaviour="x", size=4)
        with pytest.raises(DataError, match="draws other frames"):
            read_shard(folder, read_manifest(folder), 0)

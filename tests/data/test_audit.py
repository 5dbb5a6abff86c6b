"""A check finds what is wrong with collected data, whatever it is; statistics count what is there."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import vagen.cli
import worlds
import worlds.core
from vagen.cloze.sample import simulator
from vagen.config import Collect
from vagen.data.audit import check, stats
from vagen.data.frames import decode_frame, encode_frame, frames_of, frames_of_each
from vagen.data.places import place_of, places
from vagen.data.shards import DataError, read_manifest, read_trajectories, write_shards
from vagen.rollout.agents import RandomAgent
from vagen.rollout.collect import collect
from vagen.rollout.episodes import play
from worlds.core import WorldSpec

WORLD = "sokoban-6x6"
POLE = "pole-of-mine"
POLE_SETTINGS = {"env_id": "CartPole-v1", "actions": ("push left", "push right"), "rules": "Balance.", "size": 48}


def write(folder: Path, episodes, world: str = WORLD) -> Path:
    write_shards(folder, episodes, world=world, split="train", seed=0, behaviour="x", size=5)
    return folder


def checked(folder: Path):
    [row] = check([place_of(folder, folder)], folder)
    return row


# --------------------------------------------------------------------------------------------------------------- check


def test_what_was_collected_is_right(shards, trajectories, tmp_path):
    rows = check(places(list(shards.values()), tmp_path), tmp_path)
    assert all(row.passed and not row.problems for row in rows)
    for row, (world, episodes) in zip(rows, trajectories.items(), strict=True):
        assert (row.world, row.trajectories, row.shards) == (world, 13, 3)
        assert row.transitions == sum(map(len, episodes))


def lies(trajectory) -> dict:
    """A trajectory with one thing wrong each, and what is to be found."""
    after = dict(trajectory.snapshots[1])
    after["agent"] = 7 if after["agent"] != 7 else 8
    others = [action for action in range(4) if action != trajectory.actions[0]]
    return {
        "another state": replace(trajectory, snapshots=(trajectory.snapshots[0], after, *trajectory.snapshots[2:])),
        "pays": replace(trajectory, rewards=(7.5, *trajectory.rewards[1:])),
        "does not have": replace(trajectory, actions=(9, *trajectory.actions[1:])),
        "success is": replace(trajectory, success=not trajectory.success),
        "belongs to the train split": replace(trajectory, split="test"),
        "action": replace(trajectory, actions=(others[0], *trajectory.actions[1:])),
        "says otherwise": replace(trajectory, terminated=not trajectory.terminated),
    }


@pytest.mark.parametrize("problem", list(lies(next(iter(play(WORLD, RandomAgent(), [1], "train", 4))))))
def test_lies_are_found(trajectories, tmp_path, problem):
    """The files are whole and their checksums right: only the simulator can tell."""
    episodes = list(trajectories[WORLD][:7])
    moved = next(
        n for n, t in enumerate(episodes) if t.snapshots[0]["agent"] != t.snapshots[1]["agent"] and len(t) > 1
    )
    episodes[moved] = lies(episodes[moved])[problem]
    row = checked(write(tmp_path / "data", episodes))
    assert not row.passed
    assert problem in row.problems[0]
    assert f"(seed {episodes[moved].seed})" in row.problems[0]
    assert row.trajectories == 7


def test_a_check_goes_on_after_damage(shards, tmp_path):
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    (folder / "shard-00000.tar").unlink()
    (folder / "shard-00001.tar").write_bytes(b"x")
    row = checked(folder)
    assert (row.count, row.shards, row.trajectories) == (2, 1, 3)
    assert "shard-00000.tar" in row.problems[0]
    assert "shard-00001.tar" in row.problems[1]
    (folder / "manifest.json").write_text("{")
    row = checked(folder)
    assert (row.count, row.world) == (1, "")


def test_counts_of_a_manifest_are_checked(trajectories, tmp_path, monkeypatch):
    world = simulator(WORLD)
    folder = write(tmp_path / "data", trajectories[WORLD])
    monkeypatch.setattr(world, "key", lambda snapshot: "0" * 16, raising=False)
    row = checked(folder)
    assert any("1 layouts" in problem for problem in row.problems)


# ------------------------------------------------------------------------------------------------------- stored frames


@pytest.fixture
def pole(monkeypatch):
    monkeypatch.setitem(worlds.core._REGISTRY, POLE, WorldSpec(POLE, "worlds.adapters:GymWorld", POLE_SETTINGS))
    yield POLE
    simulator.cache_clear()


@pytest.fixture
def episodes(pole) -> list:
    return list(play(pole, RandomAgent(), range(6), "train", 9))


def test_frames_of_many_trajectories_are_those_of_each(episodes):
    drawn = [
        one for world in ("sokoban-6x6", "frozenlake-4x4") for one in play(world, RandomAgent(), range(9), "train", 5)
    ]
    mixed = [*drawn[:12], *episodes, *drawn[12:]]
    found = list(frames_of_each(iter(mixed)))
    assert len(found) == len(mixed)
    assert all(np.array_equal(mine, frames_of(one)) for mine, one in zip(found, mixed, strict=True))


def test_frames_are_stored_where_a_world_cannot_draw_again(pole, episodes, tmp_path):
    folder = write(tmp_path / "data", episodes, pole)
    found = list(read_trajectories(folder))
    assert found == episodes
    live = worlds.make(pole)
    for trajectory in found:
        assert len(trajectory.frames) == len(trajectory.snapshots)
        frames = frames_of(trajectory)
        live.restore(trajectory.snapshots[0])
        assert np.array_equal(frames[0], live.render())
        for t, action in enumerate(trajectory.actions):
            assert np.array_equal(frames[t + 1], live.step(action)[0])
    assert checked(folder).passed
    assert checked(folder).frames == sum(len(t.snapshots) for t in episodes)


def test_pictures_of_samples_are_the_stored_frames(pole, episodes, tmp_path, monkeypatch):
    """Nothing is drawn but what the actions not taken would have shown."""
    from vagen.config import Clozes
    from vagen.data.stream import ClozeStream
    from vagen.policy.batches import draw

    folder = write(tmp_path / "data", episodes, pole)
    clozes = Clozes(weights={"plan_inference": 1.0, "termination": 1.0}, imagined=0)
    stream = ClozeStream([folder], clozes, 0)
    monkeypatch.setattr(simulator(pole), "render_states", None)
    for number in range(20):
        samples = stream.group(number).samples
        for sample, pictures in zip(samples, draw(samples), strict=True):
            assert len(pictures) == len(sample.images)
            for snapshot, picture in zip(sample.images, pictures, strict=True):
                t = sample.window.snapshots.index(snapshot)
                assert np.array_equal(picture.pixels, decode_frame(sample.window.frames[t]))
    monkeypatch.undo()
    assert stream.group(0)


def test_imagined_outcomes_are_drawn(pole, episodes, tmp_path):
    from vagen.config import Clozes
    from vagen.data.stream import ClozeStream
    from vagen.policy.batches import draw

    folder = write(tmp_path / "data", episodes, pole)
    stream = ClozeStream([folder], Clozes(weights={"o0 a0 o2 -> a1": 1.0, "plan_inference": 1.0}, imagined=2), 0)
    live = worlds.make(pole)
    for number in range(6):
        samples = stream.group(number).samples
        for sample, pictures in zip(samples, draw(samples), strict=True):
            for snapshot, picture in zip(sample.images, pictures, strict=True):
                live.restore(snapshot)
                assert np.array_equal(picture.pixels, live.render())


def test_lossless_and_small():
    rng = np.random.default_rng(0)
    for shape in ((48, 48, 3), (5, 7, 3), (1, 1, 3)):
        frame = rng.integers(0, 256, shape, dtype=np.uint8)
        assert np.array_equal(decode_frame(encode_frame(frame)), frame)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (lambda frames: (), "frames are missing"),
        (lambda frames: frames[:-1], "not as many frames"),
        (lambda frames: (b"no image", *frames[1:]), "no WebP image"),
        (lambda frames: (frames[-1], *frames[1:]), "draws other frames"),
    ],
)
def test_frames_that_are_not_there_are_refused(pole, episodes, tmp_path, frames, message):
    wrong = replace(episodes[0], frames=frames(episodes[0].frames))
    folder = write(tmp_path / "data", [wrong, *episodes[1:]], pole)
    with pytest.raises(DataError, match=message):
        list(read_trajectories(folder))


def test_a_check_compares_every_stored_frame(pole, episodes, tmp_path):
    frames = list(episodes[2].frames)
    frames[3] = encode_frame(255 - decode_frame(frames[3]))
    folder = write(tmp_path / "data", [*episodes[:2], replace(episodes[2], frames=tuple(frames)), *episodes[3:]], pole)
    row = checked(folder)
    assert row.count == 1
    assert "frame 3 is another than is drawn today" in row.problems[0]


def test_noise_seeds_are_kept(trajectories, tmp_path):
    noisy = [replace(t, noise_seeds=(7, n)) for n, t in enumerate(trajectories[WORLD][:3])]
    found = list(read_trajectories(write(tmp_path / "data", noisy)))
    assert [t.noise_seeds for t in found] == [(7, 0), (7, 1), (7, 2)]


# --------------------------------------------------------------------------------------------------------------- stats


def test_statistics_count_what_is_there(shards, trajectories, tmp_path):
    rows, overlaps = stats(places(list(shards.values()), tmp_path), tmp_path)
    assert overlaps == []
    for row, (world, episodes) in zip(rows, trajectories.items(), strict=True):
        n = sum(map(len, episodes))
        facts = worlds.make(world).facts
        changing = sum(facts(t.snapshots[k]) != facts(t.snapshots[k + 1]) for t in episodes for k in range(len(t)))
        actions = Counter(action for t in episodes for action in t.actions)
        assert (row.world, row.trajectories, row.transitions, row.split) == (world, 13, n, "train")
        assert row.effective == pytest.approx(changing / n)
        assert row.success == pytest.approx(np.mean([t.success for t in episodes]))
        assert list(row.actions.values()) == pytest.approx([actions[a] / n for a in range(len(row.actions))])
        assert sum(row.events.values()) == pytest.approx(1)
        assert sum(row.rewards.values()) == pytest.approx(1)
        assert 0 < row.distinct <= 1


def test_overlap_of_splits(trajectories, tmp_path):
    one = write(tmp_path / "one", trajectories[WORLD][:8])
    two = write(tmp_path / "two", trajectories[WORLD][4:])
    _, overlaps = stats(places([one, two], tmp_path), tmp_path)
    shared = sum(map(len, trajectories[WORLD][4:8]))
    assert [Path(o.first).name for o in overlaps] == ["one", "two"]
    assert overlaps[0].transitions >= shared / sum(map(len, trajectories[WORLD][:8])) - 1e-9
    assert 0 < overlaps[0].layouts <= 1
    test = collect(Collect(worlds=(WORLD,), episodes=10, max_steps=4, split="test"), tmp_path / "test", 0)
    _, overlaps = stats(places([one, *test], tmp_path), tmp_path)
    assert all(o.layouts == 0 for o in overlaps), "a layout is in two splits"


# ------------------------------------------------------------------------------------------------------- command lines


def test_the_commands_say_what_they_found(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pattern = f"{shards[WORLD].parent}/*"
    assert vagen.cli.main(["data", "check", pattern]) == 0
    output = capsys.readouterr()
    assert output.out == "data-check.json\n"
    assert output.err.count(": ok (3 shards, 13 trajectories") == 3
    assert [row["passed"] for row in json.loads(Path("data-check.json").read_text())["rows"]] == [True] * 3
    assert vagen.cli.main(["data", "stats", pattern, "--out", "s.json"]) == 0
    assert {row["world"] for row in json.loads(Path("s.json").read_text())["rows"]} == set(shards)
    folder = Path(shutil.copytree(shards[WORLD], tmp_path / "data"))
    (folder / "shard-00000.tar").write_bytes(b"")
    assert vagen.cli.main(["data", "check", str(folder)]) == 1
    assert "1 PROBLEMS" in capsys.readouterr().err
    assert vagen.cli.main(["data", "stats", str(folder)]) == 2
    assert vagen.cli.main(["data", "check", "nowhere/*"]) == 2
    assert vagen.cli.main(["data", "check", str(folder), "--data.cach=x"]) == 2
    assert "data.cache" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_folder_has_a_card(tmp_path, split):
    [folder] = collect(
        Collect(worlds=(WORLD,), episodes=7, max_steps=4, shard_size=3, split=split, license="cc-by-4.0"), tmp_path, 5
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, head, text = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["configs"][0]["data_files"] == [{"split": split, "path": "shard-*.tar"}]
    manifest = read_manifest(folder)
    for fact in (
        f"{manifest.trajectories} episodes",
        f"{manifest.transitions} transitions",
        "mixture(0.5)",
        "seed | 5",
    ):
        assert fact in text
    assert simulator(WORLD).rules in text
    assert ("vagen train" in text) == (split == "train")


def test_the_card_of_a_folder_loads_it_as_it_says(tmp_path, monkeypatch, capsys):
    [folder] = collect(Collect(worlds=(WORLD,), episodes=4, max_steps=4, shard_size=2), tmp_path, 5)
    monkeypatch.chdir(folder)
    blocks = Path("README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        code = compile(block.split("```")[0], "README.md", "exec")
        exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    episodes = list(read_trajectories(folder))
    assert printed[:4] == [str(list(episode.actions)) for episode in episodes]
    assert printed[4:] == [str((len(episode) + 1, 48, 48, 3)) for episode in episodes]

"""``vagen collect`` writes what it says, where it says."""

import itertools
import json

import pytest

import worlds
from vagen.config import Collect
from vagen.data.shards import read_manifest, read_trajectories
from vagen.files import OutputError
from vagen.rollout.agents import make_agent
from vagen.rollout.collect import collect, episode_seeds
from vagen.rollout.episodes import play
from worlds import WorldError

WORLDS = ("frozenlake-4x4", "minigrid-rooms-6x6")


@pytest.mark.parametrize("behaviour", ["random", "expert", "mixture"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_collect_writes_what_it_says(tmp_path, behaviour, split):
    config = Collect(
        worlds=WORLDS, episodes=7, max_steps=5, behaviour=behaviour, epsilon=0.3, split=split, shard_size=3
    )
    manifests = collect(config, tmp_path, seed=9)
    name = {"mixture": "mixture(0.3)"}.get(behaviour, behaviour)
    assert list(manifests) == [tmp_path / world / split for world in WORLDS]
    for (folder, manifest), world in zip(manifests.items(), WORLDS, strict=True):
        assert read_manifest(folder) == manifest
        assert (manifest.world, manifest.split, manifest.seed, manifest.behaviour) == (world, split, 9, name)
        assert [shard.trajectories for shard in manifest.shards] == [3, 3, 1]
        found = list(read_trajectories(folder))
        assert len(found) == manifest.trajectories == 7
        assert sum(map(len, found)) == manifest.transitions
        live = worlds.make(world)
        for trajectory in found:
            assert (trajectory.world, trajectory.split, trajectory.behaviour) == (world, split, name)
            assert live.split(trajectory.snapshots[0]) == split
            assert 1 <= len(trajectory) <= 5
        seeds = [trajectory.seed for trajectory in found]
        assert found == list(play(world, make_agent(behaviour, 0.3), seeds, split, 5))


def test_seeds_decide_what_is_collected(tmp_path):
    config = Collect(worlds=("sokoban-6x6",), episodes=4, max_steps=5)

    def bytes_of(seed: int, name: str) -> bytes:
        [folder] = collect(config, tmp_path / name, seed, overwrite=True)
        return (folder / "shard-00000.tar").read_bytes()

    assert bytes_of(0, "a") == bytes_of(0, "b")
    assert bytes_of(0, "a") != bytes_of(1, "c")


def test_collecting_again_replaces_what_was_there_only_when_asked_to(tmp_path):
    config = Collect(worlds=("frozenlake-4x4",), episodes=5, max_steps=3, shard_size=2)
    [folder] = collect(config, tmp_path, 0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = config.model_copy(update={"episodes": 2, "worlds": ("frozenlake-6x6", "frozenlake-4x4")})
    with pytest.raises(OutputError, match=f"{folder}: it is taken; add --overwrite"):
        collect(again, tmp_path, 0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "frozenlake-6x6").exists(), "a world was collected before the other was refused"
    collect(again, tmp_path, 0, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "manifest.json", "shard-00000.tar"]
    assert json.loads((folder / "manifest.json").read_text())["shards"][0]["trajectories"] == 2


def test_unknown_worlds_leave_nothing_behind(tmp_path):
    with pytest.raises(WorldError, match="did you mean 'frozenlake-4x4'"):
        collect(Collect(worlds=("frozenlake-4x5",), episodes=2), tmp_path, 0)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_episodes_for_different_purposes_are_different():
    """Of one world, with as many episodes as the quickstart has."""
    purposes = [f"{what}-{split}" for what in ("collect", "evaluate", "agent") for split in ("train", "val", "test")]
    for world in worlds.registered():
        ranges = [episode_seeds(seed, world, purpose, 2000) for seed in range(3) for purpose in purposes]
        assert all(len(seeds) == 2000 for seeds in ranges)
        for one, two in itertools.combinations(sorted(ranges, key=lambda seeds: seeds.start), 2):
            assert one.stop <= two.start, f"{world}: {one} and {two} share episodes"
        assert min(seeds.start for seeds in ranges) >= 0
        assert max(seeds.stop for seeds in ranges) < 2**32

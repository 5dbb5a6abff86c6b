"""The stream of training groups: the same whoever asks, every trajectory once per epoch, every rank its share."""

import hashlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import worlds
from vagen.cloze.grammar import NAMED, ClozeError, named
from vagen.cloze.scoring import score
from vagen.config import Clozes, Collect, Config, Source
from vagen.data import stream as stream_module
from vagen.data.places import Folder
from vagen.data.shards import DataError, read_manifest, seal
from vagen.data.stream import ClozeStream, TrajectoryStore
from vagen.rollout.collect import collect

CLOZES = Clozes(weights={"state_estimation": 1.0, "forward_dynamics": 2.0, "inverse_dynamics": 4.0, "policy": 0.5})


def place(folder: Path) -> Folder:
    return Folder(str(folder), str(folder))


def contents(group) -> str:
    """All that training sees of a group."""
    return json.dumps(
        [
            [s.name, s.question, s.answer, s.representation, s.window.world, s.images, weight]
            for s, weight in zip(group.samples, group.weights, strict=True)
        ]
    )


@pytest.fixture
def stream(shards) -> ClozeStream:
    return ClozeStream(list(shards.values()), CLOZES, seed=5)


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_the_training_split_is_trained_on(shards, tmp_path, split):
    folder = Path(shutil.copytree(shards["sokoban-6x6"], tmp_path / "data"))
    values = json.loads((folder / "manifest.json").read_text())
    del values["checksum"]
    (folder / "manifest.json").write_bytes(seal({**values, "split": split}))
    with pytest.raises(DataError, match=rf"{folder} holds the {split} split; train on the train split only"):
        ClozeStream([shards["frozenlake-4x4"], folder], CLOZES, 0)


def test_a_stream_needs_shards(tmp_path):
    with pytest.raises(DataError, match=r"no shards given: set `shards`"):
        ClozeStream([], CLOZES, 0)
    with pytest.raises(DataError, match=rf"no shards in {tmp_path}"):
        ClozeStream([tmp_path], CLOZES, 0)


@pytest.mark.parametrize("cloze", ["forward_dynamic", "s0 -> s0", "o0 -> s1"])
def test_clozes_that_cannot_be_are_refused_before_anything_starts(shards, cloze):
    with pytest.raises(ClozeError):
        ClozeStream(list(shards.values()), Clozes(weights={"policy": 1.0, cloze: 1.0}), 0)


def test_a_stream_needs_clozes(shards):
    with pytest.raises(DataError, match=r"clozes\.weights"):
        ClozeStream(list(shards.values()), Clozes.model_construct(weights={}), 0)


# ------------------------------------------------------------------------------------------------------ trajectories


def test_every_epoch_sees_every_trajectory_once(shards, trajectories):
    for world, episodes in trajectories.items():
        store = TrajectoryStore(place(shards[world]), (0,))
        n = len(episodes)
        orders = [[store.trajectory(epoch * n + place).seed for place in range(n)] for epoch in range(4)]
        for order in orders:
            assert sorted(order) == sorted(episode.seed for episode in episodes)
        assert len(set(map(tuple, orders))) == 4, "the order is not reshuffled"
        other = TrajectoryStore(place(shards[world]), (1,))
        assert [other.trajectory(place).seed for place in range(n)] != orders[0], "the seed does not matter"


def test_every_shard_is_read_once_per_epoch(shards, monkeypatch):
    """Walking in order must not read a file for each trajectory."""
    reads = Counter()
    read_shard = stream_module.read_shard

    def counting(place, manifest, index, cache):
        reads[index] += 1
        return read_shard(place, manifest, index, cache)

    monkeypatch.setattr(stream_module, "read_shard", counting)
    store = TrajectoryStore(place(shards["sokoban-6x6"]), (0,))
    for number in range(13):
        store.trajectory(number)
    assert set(reads.values()) == {1}
    assert len(reads) == 3


def test_damage_is_noticed_where_it_is_read(shards, tmp_path):
    folder = Path(shutil.copytree(shards["sokoban-6x6"], tmp_path / "data"))
    store = TrajectoryStore(place(folder), (0,))
    (folder / "shard-00001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"shard-00001\.tar is corrupt"):
        list(map(store.trajectory, range(13)))


# ------------------------------------------------------------------------------------------------------------ groups


def test_folders_take_turns(stream, shards):
    names = list(shards)
    assert stream.worlds == tuple(names)
    for number in range(30):
        assert {s.window.world for s in stream.group(number).samples} == {names[number % 3]}


def test_epochs_of_the_stream_see_every_trajectory_once(stream, trajectories):
    seen = Counter(stream.group(number).samples[0].window.seed for number in range(3 * 13))
    assert seen == Counter(episode.seed for episodes in trajectories.values() for episode in episodes)


@pytest.mark.parametrize("imagined", [0, 1, 9])
def test_groups_hold_every_cloze_about_one_window(shards, imagined):
    clozes = CLOZES.model_copy(update={"imagined": imagined, "representation": "natural"})
    stream = ClozeStream(list(shards.values()), clozes, 0)
    for number in range(60):
        group = stream.group(number)
        assert len(group.samples) == len(group.weights) > 0
        count = Counter(sample.name for sample in group.samples)
        actions = group.samples[0].world.actions
        assert count["state_estimation"] == 1
        assert count["forward_dynamics"] == min(len(actions), 1 + imagined)
        assert 1 <= count["inverse_dynamics"] <= (len(actions) if imagined else 1)
        assert count["policy"] <= 1
        assert len({json.dumps(sample.window.snapshots[0]) for sample in group.samples}) == 1
        for sample, weight in zip(group.samples, group.weights, strict=True):
            assert weight == CLOZES.weights[sample.name]
            assert sample.representation == "natural"
            assert score(sample, sample.answer).correct
        asked = {s.window.actions[0] for s in group.samples if s.name == "forward_dynamics"}
        assert len(asked) == count["forward_dynamics"], "an action is asked twice"


def test_what_groups_tell_is_what_a_fresh_world_does(stream):
    for number in range(24):
        for sample in stream.group(number).samples:
            fresh = worlds.make(sample.window.world)
            for t in range(len(sample.window)):
                transition = sample.window.transition(t)
                fresh.restore(transition.before)
                _, reward, terminated, _, _ = fresh.step(transition.action)
                assert fresh.state().snapshot == transition.after
                assert (reward, terminated) == (transition.reward, transition.terminated)


def test_windows_mostly_change_something(shards, trajectories):
    """Where a trajectory has steps that change something, idle ones come up one time in ten at most."""
    stream = ClozeStream([shards["frozenlake-4x4"]], Clozes(weights={"inverse_dynamics": 1}, imagined=False), 0)
    facts = worlds.make("frozenlake-4x4").facts
    lively = {e.seed for e in trajectories["frozenlake-4x4"] if len({facts(snapshot) for snapshot in e.snapshots}) > 1}
    windows = [stream.group(number).samples[0].window for number in range(600)]
    idle = [facts(w.snapshots[0]) == facts(w.snapshots[1]) for w in windows if w.seed in lively]
    assert 0 < np.mean(idle) < 0.13


def test_rare_events_are_not_rare_in_training(shards, trajectories):
    """A box is pushed in few steps of an episode, and in a good part of the windows."""
    facts = worlds.make("sokoban-6x6").facts

    def pushes(episode) -> list[bool]:
        boxes = [facts(snapshot).of_kind("box") for snapshot in episode.snapshots]
        return [one != two for one, two in itertools.pairwise(boxes)]

    pushing = {e.seed: pushes(e) for e in trajectories["sokoban-6x6"] if any(pushes(e))}
    stream = ClozeStream([shards["sokoban-6x6"]], Clozes(weights={"inverse_dynamics": 1}, imagined=False), 0)
    windows = [stream.group(number).samples[0].window for number in range(400)]
    drawn = [pushes(window)[0] for window in windows if window.seed in pushing]
    assert np.mean(drawn) > np.mean(list(itertools.chain(*pushing.values()))) + 0.1
    assert 0.3 < np.mean(drawn) < 0.7


@pytest.mark.parametrize("cloze", [name for name in NAMED if "reward" not in name])
def test_no_group_is_empty(shards, cloze):
    """An empty group cannot be packed: training would stop with an error of NumPy."""
    stream = ClozeStream(list(shards.values()), Clozes(weights={cloze: 1.0}), 0)
    assert all(stream.group(number).samples for number in range(100))


def test_what_a_world_cannot_answer_is_refused_before_anything_starts(shards):
    with pytest.raises(ClozeError, match=r"minigrid-rooms-6x6"):
        ClozeStream(list(shards.values()), Clozes(weights={"policy": 1.0, "reward": 1.0}), 0)


def test_worlds_get_rows_by_their_weights(shards, trajectories):
    stream = ClozeStream(list(shards.values()), CLOZES, 0, {"sokoban-6x6": Source(weight=3.0)})
    windows = [stream.group(number).samples[0].window for number in range(5 * 13)]
    assert Counter(w.world for w in windows) == {"frozenlake-4x4": 13, "sokoban-6x6": 39, "minigrid-rooms-6x6": 13}
    for world, episodes in trajectories.items():
        times = Counter(w.seed for w in windows if w.world == world)
        assert times == {episode.seed: 3 if world == "sokoban-6x6" else 1 for episode in episodes}


def test_mixtures_of_what_is_not_there_are_refused(shards):
    with pytest.raises(DataError, match=r"mixture names 'sokoban-8x8'"):
        ClozeStream(list(shards.values()), CLOZES, 0, {"sokoban-6x6": Source(), "sokoban-8x8": Source()})
    with pytest.raises(DataError, match=r"'rollout' is to be asked about .*sokoban-6x6, and has no clozes.weights"):
        ClozeStream(list(shards.values()), CLOZES, 0, {"sokoban-6x6": Source(clozes=("rollout",))})


def test_entries_go_before_worlds(shards):
    folder = str(shards["sokoban-6x6"])
    mixture = {"sokoban-6x6": Source(weight=5.0), folder: Source(weight=2.0)}
    stream = ClozeStream([*shards.values(), folder], CLOZES, 0, mixture)
    assert [source.weight for source in stream.sources] == [1.0, 2.0, 1.0, 2.0]


def test_every_world_is_asked_its_own_clozes(shards):
    mixture = {
        "sokoban-6x6": Source(clozes=("policy",)),
        "frozenlake-4x4": Source(clozes=("state_estimation", "policy")),
    }
    stream = ClozeStream(list(shards.values()), CLOZES, 0, mixture)
    asked: dict[str, set[str]] = {}
    for number in range(60):
        for sample in stream.group(number).samples:
            asked.setdefault(sample.window.world, set()).add(sample.name)
    assert asked == {
        "sokoban-6x6": {"policy"},
        "frozenlake-4x4": {"state_estimation", "policy"},
        "minigrid-rooms-6x6": set(CLOZES.weights),
    }


def test_a_world_may_lack_what_another_is_asked(shards):
    """Rewards of MiniGrid depend on what cannot be seen; where only others are asked for them, that is no matter."""
    clozes = Clozes(weights={"policy": 1.0, "reward": 1.0})
    mixture = {"minigrid-rooms-6x6": Source(clozes=("policy",))}
    stream = ClozeStream(list(shards.values()), clozes, 0, mixture)
    assert {s.name for n in range(12) for s in stream.group(n).samples} == {"policy", "reward"}


def test_clozes_come_and_go_with_the_training(shards):
    weights = {"state_estimation": [[0.5, 2], [0.5, 0]], "forward_dynamics": 1, "policy": [[0.25, 0], [0.75, 1]]}
    stream = ClozeStream([shards["frozenlake-4x4"]], Clozes(weights=weights), 0, length=80)
    for number in range(100):
        group = stream.group(number)
        found = {s.name: weight for s, weight in zip(group.samples, group.weights, strict=True)}
        assert found.get("state_estimation") == (2.0 if number < 40 else None)
        assert found["forward_dynamics"] == 1.0
        due = min(max((number / 80 - 0.25) / 0.5, 0), 1)
        assert found.get("policy", due) == pytest.approx(due)
        assert due or "policy" not in found
    assert any("policy" in {s.name for s in stream.group(number).samples} for number in range(40, 80))


def test_a_few_clozes_are_drawn_for_each_window(shards):
    weights = {name: number + 1.0 for number, name in enumerate(("state_estimation", "forward_dynamics", "reward"))}
    weights["policy"] = [[0.5, 0], [0.5, 1]]
    clozes = Clozes(weights=weights, drawn=2, imagined=0)
    stream = ClozeStream([shards["frozenlake-4x4"]], clozes, 0, length=400)
    seen = Counter()
    for number in range(400):
        group = stream.group(number)
        names = {sample.name for sample in group.samples}
        assert len(names) <= 2
        assert number >= 200 or "policy" not in names, "a cloze of weight 0 takes the place of another"
        for sample, weight in zip(group.samples, group.weights, strict=True):
            assert weight == (1 if sample.name == "policy" else weights[sample.name])
        seen.update(names)
    always = ("state_estimation", "forward_dynamics", "reward")  # 2 of 3 for 200 windows, then 2 of 4
    assert all(180 < seen[name] < 290 for name in always), seen
    assert 50 < seen["policy"] < 140, seen


@pytest.mark.parametrize(
    ("weights", "moment"),
    [
        ({"policy": [[0.5, 0], [1, 1]]}, "0 "),
        ({"policy": [[0, 1], [0.5, 0]], "reward": [[0.5, 0], [1, 1]]}, "0.5 "),
        ({"policy": [[0, 1], [0.25, 0]], "reward": [[0.75, 0], [1, 1]]}, "0.25 "),
    ],
)
def test_trainings_with_nothing_to_ask_at_some_time_are_refused(shards, weights, moment):
    with pytest.raises(DataError, match=rf"leave nothing to ask about .* after {moment}of the training"):
        ClozeStream([shards["frozenlake-4x4"]], Clozes(weights=weights), 0, length=100)


# ---------------------------------------------------------------------------------------------------- pure functions


def test_a_group_is_the_same_in_any_order_of_asking(stream, shards):
    expected = [contents(stream.group(number)) for number in range(60)]
    for order in (range(59, -1, -1), np.random.default_rng(0).permutation(60).tolist()):
        other = ClozeStream(list(shards.values()), CLOZES, seed=5)
        found = {}
        for number in order:
            found[number] = contents(other.group(number))
            worlds.make("sokoban-6x6").reset(seed=number)
        assert [found[number] for number in range(60)] == expected
    assert expected != [contents(ClozeStream(list(shards.values()), CLOZES, 6).group(n)) for n in range(60)]


def test_the_representation_changes_nothing_but_the_text(stream, shards):
    clozes = CLOZES.model_copy(update={"representation": "json"})
    other = ClozeStream(list(shards.values()), clozes, seed=5)
    for number in range(30):
        assert [s.window for s in other.group(number).samples] == [s.window for s in stream.group(number).samples]


def collected_and_streamed(folder: Path) -> dict[str, str]:
    """Checksums of freshly collected shards, and of the groups made from them."""
    config = Collect(worlds=("sokoban-6x6", "minigrid-rooms-6x6"), episodes=9, max_steps=6, shard_size=4)
    folders = list(collect(config, folder, seed=3))
    stream = ClozeStream(folders, CLOZES, seed=1)
    groups = "".join(contents(stream.group(number)) for number in range(40))
    shards = [shard.sha256 for folder in folders for shard in read_manifest(folder).shards]
    return {"shards": " ".join(shards), "groups": hashlib.sha256(groups.encode()).hexdigest()}


def test_other_processes_collect_and_stream_the_same(tmp_path):
    here = collected_and_streamed(tmp_path / "here")
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "there")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == here


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_ranks_share_a_step_whatever_their_number(stream, rows):
    for step in (0, 3):
        together = [contents(group) for group in stream.share(step, rows, 0, 1)]
        assert together == [contents(stream.group(step * rows + row)) for row in range(rows)]
        for ranks in (2, 3, 4):
            shares = [stream.share(step, rows, rank, ranks) for rank in range(ranks)]
            assert sorted(contents(group) for share in shares for group in share) == sorted(together)
            if rows % ranks == 0:
                assert {len(share) for share in shares} == {rows // ranks}


# ----------------------------------------------------------------------------------------------------------- workers


class NotPacked:
    """In place of the batcher: micro-batches stay groups, as text."""

    def batch(self, groups) -> list[str]:
        return [contents(group) for group in groups]


def loaded(stream: ClozeStream, workers: int, rank: int = 0, ranks: int = 1, start: int = 0) -> list:
    """The micro-batches of seven steps of six rows, as the training loop gets them."""
    from torch.utils.data import DataLoader

    from vagen.train.cloze import _Steps

    config = Config.model_validate({"train": {"steps": 7, "rows": 6, "micro_rows": 2}})
    steps = _Steps(stream, NotPacked(), config, rank, ranks, start)
    context = "fork" if workers else None
    return list(DataLoader(steps, batch_size=None, num_workers=workers, multiprocessing_context=context))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_order(stream, workers):
    alone = loaded(stream, 0)
    assert len(alone) == 7
    assert [len(batch) for step in alone for batch in step] == [2] * 21
    assert [text for step in alone for batch in step for text in batch] == [
        contents(stream.group(number)) for number in range(42)
    ]
    assert loaded(stream, workers) == alone


def test_a_resumed_run_goes_on_where_it_stopped(stream):
    whole = loaded(stream, 0)
    assert loaded(stream, 0, start=4) == whole[4:]
    assert loaded(stream, 2, start=4) == whole[4:]
    assert loaded(stream, 0, start=7) == []


def test_ranks_together_train_on_what_one_would(stream):
    def texts(steps) -> list[list[str]]:
        return [sorted(text for batch in step for text in batch) for step in steps]

    alone = texts(loaded(stream, 0))
    shares = [texts(loaded(stream, 0, rank, 3)) for rank in range(3)]
    assert [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == alone


def test_a_stream_can_be_sent_to_a_process_that_is_spawned(stream):
    copy = pickle.loads(pickle.dumps(stream))
    assert contents(copy.group(3)) == contents(stream.group(3))


if __name__ == "__main__":
    print(json.dumps(collected_and_streamed(Path(sys.argv[1]))))


# ----------------------------------------------------------------------------------------------------------- histories


def test_a_history_asks_clozes_after_each_of_its_images(shards):
    """Every image of a group begins where those before it end, so that they are one growing prompt."""
    weights = {"state_estimation": 1.0, "inverse_dynamics": 1.0, "retrodiction": 1.0, "text_forward_dynamics": 1.0}
    stream = ClozeStream(list(shards.values()), Clozes(weights=weights, history=2, imagined=0), seed=5)
    lengths = Counter()
    for number in range(60):
        group = stream.group(number)
        assert contents(group) == contents(stream.group(number))
        shown = [sample for sample in group.samples if sample.pattern.takes_history]
        longest = max((sample.images for sample in shown), key=len)
        assert all(sample.images == longest[: len(sample.images)] for sample in shown), "images are not one history"
        asked = Counter((sample.name, len(sample.images)) for sample in group.samples)
        assert set(asked.values()) == {1}, "a cloze is asked twice after the same image"
        for sample in group.samples:
            assert score(sample, sample.answer).correct
            assert sample.pattern.history == len(sample.images) - len(named(sample.name).images)
        assert max(size for _, size in asked) <= 3, "more images than the history and the last"
        assert {size for name, size in asked if name == "state_estimation"} == set(range(1, len(longest) + 1))
        assert [size for name, size in asked if name == "retrodiction"] == [1]
        lengths[len(longest)] += 1
    assert lengths[3] > 50, f"histories are shorter than the trajectories allow: {lengths}"


def test_without_a_history_groups_are_what_they_were(shards):
    """Nothing is drawn for it: a configuration without a history trains on the same data as before there were any."""
    plain = ClozeStream(list(shards.values()), CLOZES, seed=5)
    none = ClozeStream(list(shards.values()), CLOZES.model_copy(update={"history": 0}), seed=5)
    assert [contents(plain.group(n)) for n in range(20)] == [contents(none.group(n)) for n in range(20)]
    assert all(sample.pattern.history == 0 for n in range(20) for sample in plain.group(n).samples)

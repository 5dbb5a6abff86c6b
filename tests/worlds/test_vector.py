"""Many boards at once: each moves as the single world does, and autoreset is gymnasium's."""

from collections import Counter

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import worlds
from worlds.core import WorldError
from worlds.vector import make_vector

DETERMINISTIC = ("sokoban-6x6", "sokoban-8x8-2box", "frozenlake-4x4", "frozenlake-8x8")
BOARDS = 48


@pytest.mark.parametrize("id", DETERMINISTIC)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_every_board_moves_as_the_single_world(id, mode):
    """300 steps of 48 boards that walk at random or well, ends and new episodes included."""
    vector = make_vector(id, BOARDS, levels=64, autoreset=mode)
    singles = [worlds.make(id) for _ in range(BOARDS)]
    frames, info = vector.reset(seed=1)
    assert not info["success"].any()
    for world, snapshot, frame in zip(singles, vector.snapshots(), frames, strict=True):
        world.restore(snapshot)
        np.testing.assert_array_equal(frame, world.render())
    rng = np.random.default_rng(0)
    over = np.zeros(BOARDS, bool)
    ends = Counter()
    for _ in range(300):
        actions = np.array([wise_or_random(world, rng) for world in singles])
        frames, rewards, terminated, truncated, info = vector.step(actions)
        for i, (world, snapshot) in enumerate(zip(singles, vector.snapshots(), strict=True)):
            if over[i]:  # the step after an end: the action is ignored and a new episode shows
                assert (rewards[i], terminated[i], truncated[i], snapshot["steps"]) == (0, False, False, 0)
                world.restore(snapshot)
                frame = world.render()
            else:
                frame, *rest, single = world.step(actions[i])
                assert [rewards[i], terminated[i], truncated[i]] == rest
                told = info if mode == AutoresetMode.NEXT_STEP else info.get("final_info", info)
                assert told["success"][i] == single["success"]
            ended = terminated[i] or truncated[i]
            ends[bool(terminated[i]), bool(truncated[i])] += 1
            if ended and mode == AutoresetMode.SAME_STEP:
                np.testing.assert_array_equal(info["final_obs"][i], frame)
                assert not info["success"][i]
                world.restore(snapshot)
                frame = world.render()
                assert snapshot["steps"] == 0
            np.testing.assert_array_equal(frames[i], frame)
            assert world.snapshot() == snapshot
        if mode == AutoresetMode.NEXT_STEP:
            over = terminated | truncated
        else:
            assert (info.get("_final_obs", np.zeros(BOARDS, bool)) == (terminated | truncated)).all()
    assert ends[True, False] > 20
    assert ends[False, True] > 0 or id.startswith("frozen")


def wise_or_random(world, rng) -> int:
    best = world.optimal_actions(world.snapshot()) if rng.random() < 0.4 else ()
    return int(rng.choice(best or range(len(world.actions))))


def test_slippery_boards_slip_as_often_as_the_single_world_says():
    vector = make_vector("frozenlake-4x4-slippery", 600, levels=1)
    world = worlds.make("frozenlake-4x4-slippery")
    vector.reset(seed=4)
    before = vector.snapshots()[0]
    counts: Counter[int] = Counter()
    for _ in range(20):
        vector.reset()
        vector.step(np.full(600, 1))
        counts.update(int(agent) for agent in vector.agent)
    expected = {snapshot["agent"]: chance for chance, snapshot in world.outcomes(before, 1)}
    assert set(counts) == set(expected)
    for cell, chance in expected.items():
        assert counts[cell] / 12_000 == pytest.approx(chance, abs=5 * (chance / 12_000) ** 0.5)


def test_a_seed_decides_everything():
    one, two = (make_vector("frozenlake-6x6-slippery", 20, levels=30) for _ in range(2))
    two.reset(seed=5)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(one.reset(seed=7)[0], two.reset(seed=7)[0])
    for _ in range(60):
        actions = rng.integers(4, size=20)
        for mine, theirs in zip(one.step(actions)[:4], two.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(one.reset()[0], one.reset()[0])


def test_levels_belong_to_the_split_asked_for():
    vector = make_vector("sokoban-6x6", 30, levels=20, split="test")
    vector.reset(seed=0)
    world = worlds.make("sokoban-6x6")
    assert {world.split(snapshot) for snapshot in vector.snapshots()} == {"test"}
    assert 1 < len({snapshot["map"] for snapshot in vector.snapshots()}) <= 20


def test_spaces_are_batches_of_the_single_worlds():
    vector = make_vector("sokoban-8x8-2box", 5, levels=3)
    frames, _ = vector.reset(seed=0)
    assert vector.observation_space.contains(frames)
    assert vector.action_space.contains(vector.action_space.sample())
    assert frames.shape == (5, *worlds.make("sokoban-8x8-2box").observation_space.shape)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP


def test_bad_input_is_refused():
    with pytest.raises(WorldError, match="only Sokoban and FrozenLake"):
        make_vector("minigrid-rooms-6x6", 4)
    with pytest.raises(WorldError, match="at least 1"):
        make_vector("sokoban-6x6", 0)
    with pytest.raises(WorldError, match="choose NEXT_STEP or SAME_STEP"):
        make_vector("sokoban-6x6", 4, autoreset=AutoresetMode.DISABLED)
    vector = make_vector("sokoban-6x6", 4, levels=2)
    with pytest.raises(WorldError, match="one seed for all"):
        vector.reset(seed=[1, 2, 3, 4])
    vector.reset(seed=0)
    for actions, message in (([0, 1, 2], "4 actions"), ([0, 1, 2, 4], "between 0 and 3"), ([0.0] * 4, "one integer")):
        with pytest.raises(WorldError, match=message):
            vector.step(np.array(actions))

"""FrozenLake's rules on small lakes, slipping included."""

import json
from collections import Counter

import gymnasium
import pytest

from worlds.frozen_lake import FrozenLake, distances

LEFT, DOWN, RIGHT, UP = range(4)
LAKE = "____" + "_O_O" + "___O" + "O__G"  # gymnasium's 4 x 4 map


def place(ground, agent, **settings):
    """A world with the agent in a cell of a given lake."""
    world = FrozenLake("lake", size=int(len(ground) ** 0.5), **settings)
    world.reset(seed=0)
    world.restore({**world.state().snapshot, "map": ground, "agent": agent, "steps": 0})
    return world


def test_goal():
    world = place(LAKE, 14)
    _, reward, terminated, _, info = world.step(RIGHT)
    assert (reward, terminated, info) == (1.0, True, {"success": True})


def test_hole_and_what_follows():
    world = place(LAKE, 1)
    _, reward, terminated, _, info = world.step(DOWN)
    assert (reward, terminated, info) == (0.0, True, {"success": False})
    before = world.state()
    assert {thing.kind for thing in before.facts.at(1, 1)} == {"agent", "hole"}
    _, reward, terminated, _, _ = world.step(UP)
    assert (world.state(), reward, terminated) == (before, 0.0, True)
    assert world.optimal_actions(before.snapshot) == ()


def test_moves_equal_gymnasiums():
    peer = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped
    for cell, glyph in enumerate(LAKE):
        if glyph != "_":
            continue
        for action in range(4):
            world = place(LAKE, cell)
            _, reward, terminated, _, _ = world.step(action)
            [(_, to, peer_reward, peer_terminated)] = peer.P[cell][action]
            assert (world.state().snapshot["agent"], reward, terminated) == (to, peer_reward, peer_terminated)


def test_slips_are_distributed_as_gymnasiums():
    world = place(LAKE, 10, slippery=True)
    start = world.state().snapshot
    peer = gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped
    expected = {to: chance for chance, to, _, _ in peer.P[10][DOWN]}
    counts = Counter()
    for _ in range(3000):
        rng = world.np_random.bit_generator.state
        world.restore({**start, "rng": rng})
        world.step(DOWN)
        counts[world.state().snapshot["agent"]] += 1
    assert set(counts) == set(expected)
    for to, chance in expected.items():
        assert counts[to] / 3000 == pytest.approx(chance, abs=0.035)  # four standard deviations


def test_slippery_outcomes_are_the_distribution_of_steps():
    world = FrozenLake("slippery", size=4, slippery=True)
    world.reset(seed=3)
    snapshot = world.state().snapshot
    for action in range(4):
        counts: dict = {}
        for _ in range(3000):
            state = {**snapshot, "rng": world.np_random.bit_generator.state}
            world.restore(state)
            world.step(action)
            facts = world.state().facts
            counts[facts] = counts.get(facts, 0) + 1
        expected = {world.facts(after): chance for chance, after in world.outcomes(snapshot, action)}
        assert counts.keys() == expected.keys()
        for facts, chance in expected.items():
            assert counts[facts] / 3000 == pytest.approx(chance, abs=0.04)


def test_slippery_snapshots_replay_exactly_in_another_instance():
    world = FrozenLake("lake", size=6, slippery=True)
    assert not world.deterministic
    world.reset(seed=3)
    world.step(RIGHT)
    snapshot = json.loads(json.dumps(world.state().snapshot))
    twin = FrozenLake("lake", size=6, slippery=True)
    twin.restore(snapshot)
    for action in [RIGHT, DOWN, LEFT, UP] * 5:
        assert world.step(action)[1:] == twin.step(action)[1:]
        assert world.state() == twin.state()


def test_slippery_optimal_actions_avoid_the_hole():
    # The agent stands between the goal, two cells to the right, and a hole below it.
    world = place("___" + "__G" + "O_O", 3, slippery=True)
    # Left slips up, down (hole) or stays; up slips left (stays), right or up: only up can never fall.
    assert world.optimal_actions(world.state().snapshot) == (UP,)


def test_slippery_with_one_step_left_gambles():
    world = place("___" + "__G" + "O_O", 4, slippery=True, max_steps=1)
    assert set(world.optimal_actions(world.state().snapshot)) == {DOWN, RIGHT, UP}


def test_dry_optimal_actions_and_unreachable_goal():
    assert place(LAKE, 0).optimal_actions(place(LAKE, 0).state().snapshot) == (DOWN, RIGHT)
    walled = place("_O_" + "OO_" + "__G", 0)
    assert walled.optimal_actions(walled.state().snapshot) == ()


@pytest.mark.parametrize("size", [4, 6, 8])
def test_levels_are_solvable_and_varied(size):
    world = FrozenLake("lakes", size=size)
    keys = set()
    for seed in range(100):
        world.reset(seed=seed)
        snapshot = world.state().snapshot
        assert snapshot["agent"] in distances(snapshot["map"], size)
        assert snapshot["map"][snapshot["agent"]] == "_"
        keys.add(world.key(snapshot))
    assert len(keys) > 90

"""MiniGrid worlds: pixels equal to MiniGrid's own, and snapshots that lose nothing."""

import json

import gymnasium
import numpy as np
import pytest
from minigrid.core.world_object import Box, Key
from minigrid.minigrid_env import MiniGridEnv

import worlds
from worlds.core import WorldError
from worlds.minigrid import ALL_ACTIONS, MiniGrid

IDS = [id for id in worlds.registered() if id.startswith("minigrid-")]
PICKUP, DROP, TOGGLE = (ALL_ACTIONS.index(name) for name in ("pickup", "drop", "toggle"))
FORWARD = ALL_ACTIONS.index("forward")


def random_snapshots(world, seeds, steps):
    """States of random episodes and the frames MiniGrid draws of them."""
    snapshots, frames = [], []
    for seed in seeds:
        world.reset(seed=seed)
        world.action_space.seed(seed)
        for _ in range(steps):
            world.step(world.action_space.sample())
            snapshots.append(world.state().snapshot)
            frames.append(world.env.get_frame(highlight=False, tile_size=world.tile_size))
    return snapshots, np.stack(frames)


@pytest.mark.parametrize("id", IDS)
def test_frames_equal_minigrids_own(id):
    world = worlds.make(id)
    assert isinstance(world, MiniGrid)
    snapshots, frames = random_snapshots(world, seeds=range(10), steps=10)
    np.testing.assert_array_equal(world.render_states(snapshots), frames)
    large = MiniGrid(id, world.env.spec.id, tile_size=32)
    snapshots, frames = random_snapshots(large, seeds=range(3), steps=4)
    np.testing.assert_array_equal(large.render_states(snapshots), frames)


@pytest.mark.parametrize("env_id", ["MiniGrid-DoorKey-6x6-v0", "MiniGrid-MultiRoom-N2-S4-v0"])
def test_frames_with_objects_equal_minigrids_own(env_id):
    world = MiniGrid("objects", env_id, actions=ALL_ACTIONS)
    snapshots, frames = random_snapshots(world, seeds=range(6), steps=25)
    np.testing.assert_array_equal(world.render_states(snapshots), frames)


def peer_step(id, seed, actions):
    """Rewards, ends and poses of plain MiniGrid, not wrapped by us."""
    env = gymnasium.make(id).unwrapped
    assert isinstance(env, MiniGridEnv)
    env.reset(seed=seed)
    for action in actions:
        _, reward, terminated, truncated, _ = env.step(action)
        yield reward, terminated, truncated, tuple(map(int, env.agent_pos)), int(env.agent_dir)
        if terminated:
            return


@pytest.mark.parametrize("id", IDS)
def test_dynamics_equal_minigrids_own(id):
    world = worlds.make(id)
    assert isinstance(world, MiniGrid)
    rng = np.random.default_rng(0)
    for seed in range(5):
        actions = [int(action) for action in rng.choice(3, 60, p=[0.2, 0.2, 0.6])]
        world.start(seed)
        for action, expected in zip(actions, peer_step(world.env.spec.id, seed, actions), strict=False):
            _, reward, terminated, truncated, _ = world.step(action)
            snapshot = world.state().snapshot
            pose = (snapshot["x"], snapshot["y"]), snapshot["direction"]
            assert (reward, terminated, truncated, *pose) == expected


def hand_built():
    """An agent that faces a box with a key in it, and a locked door."""
    world = MiniGrid("hand", "MiniGrid-Empty-5x5-v0", actions=ALL_ACTIONS)
    world.reset(seed=0)
    cells = "# # # # # # . xr(xb(kg)) dly # # ky . ob # # . . G # # # # # #"
    world.restore({**world.state().snapshot, "cells": cells, "first_cells": cells, "x": 1, "y": 1, "direction": 0})
    return world


def test_box_contents_survive_and_are_not_facts():
    world = hand_built()
    snapshot = json.loads(json.dumps(world.state().snapshot))
    assert "kg" not in str(world.schema.glyphs.get((("box", "red"),)))
    assert [(t.kind, t.detail) for t in world.facts(snapshot).at(2, 1)] == [("box", "red")]
    world.step(TOGGLE)
    world.step(TOGGLE)
    assert [(t.kind, t.detail) for t in world.state().facts.at(2, 1)] == [("key", "green")]
    world.restore(snapshot)
    box = world.env.grid.get(2, 1)
    assert isinstance(box, Box)
    assert isinstance(box.contains, Box)
    assert isinstance(box.contains.contains, Key)
    assert world.state().snapshot == snapshot


def test_a_carried_box_survives_with_its_contents():
    world = hand_built()
    world.step(PICKUP)
    snapshot = json.loads(json.dumps(world.state().snapshot))
    assert snapshot["carrying"] == "xr(xb(kg))"
    assert not world.state().facts.at(2, 1)
    twin = hand_built()
    twin.restore(snapshot)
    for action in (DROP, TOGGLE, PICKUP, FORWARD):
        assert world.step(action)[1:] == twin.step(action)[1:]
        assert world.state() == twin.state()
    assert world.state().snapshot["carrying"] == "xb(kg)"


def test_the_layout_stays_when_objects_move():
    world = hand_built()
    before = world.key(world.state().snapshot)
    world.step(PICKUP)
    assert world.key(world.state().snapshot) == before


def test_doors_unlock_with_the_key_of_their_colour():
    world = hand_built()
    start = world.state().snapshot
    at_door = {**start, "cells": start["cells"].replace("xr(xb(kg))", "."), "x": 2}
    for key, state in (("kg", "yellow locked"), ("ky", "yellow open")):
        world.restore({**at_door, "carrying": key})
        world.step(TOGGLE)
        assert [t.detail for t in world.state().facts.at(3, 1)] == [state]


def test_glyphs_are_single_words_for_every_content():
    glyphs = worlds.make("minigrid-rooms-6x6").schema.glyphs
    assert len(set(glyphs.values())) == len(glyphs)
    assert all(len(glyph.split()) == 1 for glyph in glyphs.values())
    assert glyphs[(("agent", "east"), ("goal", ""))] == ">G"
    assert glyphs[(("key", "red"),)] == "kr"


def test_environments_that_a_snapshot_cannot_hold_are_refused():
    with pytest.raises(WorldError, match="rules of its own"):
        MiniGrid("fetch", "MiniGrid-Fetch-5x5-N2-v0")
    with pytest.raises(WorldError, match="not a MiniGrid"):
        MiniGrid("lake", "FrozenLake-v1")
    with pytest.raises(WorldError, match="fly"):
        MiniGrid("rooms", "VAGEN-Rooms-6x6-v0", actions=("fly",))


def test_lava_ends_without_success():
    world = worlds.make("minigrid-lava-crossing-9x9")
    world.reset(seed=0)
    snapshot = world.state().snapshot
    cells = snapshot["cells"].split()
    cells[1 * 9 + 2] = "L"
    world.restore({**snapshot, "cells": " ".join(cells), "x": 1, "y": 1, "direction": 0})
    _, reward, terminated, _, info = world.step(2)
    assert (reward, terminated, info) == (0.0, True, {"success": False})
    assert world.optimal_actions(world.state().snapshot) == ()

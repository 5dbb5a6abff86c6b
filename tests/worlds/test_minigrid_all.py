"""Every environment of the minigrid package: found, and equal to the package's own in dynamics and pixels."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import gymnasium
import minigrid  # noqa: F401 - registers its environments
import numpy as np
import pytest
from minigrid.core.world_object import Ball

import worlds
from tests.worlds import minigrid_peer as peer
from worlds.core import Facts, Thing, WorldError
from worlds.minigrid import ALL_ACTIONS, MiniGrid, Replayed, _copy_of
from worlds.minigrid_cells import WORDS, object_of, visible_words, word_of
from worlds.minigrid_rules import NUMBERS
from worlds.minigrid_solver import place_of, step

PREFIXES = ("minigrid/", "babyai/")
FULL = [id for id in worlds.available() if id.startswith(PREFIXES) and not id.endswith("/partial")]
SEED = 3

# One of each kind of environment, and the hard ones of some kinds.
SAMPLE = (
    "minigrid/BlockedUnlockPickup-v0",
    "minigrid/DistShift1-v0",
    "minigrid/DoorKey-8x8-v0",
    "minigrid/Dynamic-Obstacles-6x6-v0",
    "minigrid/Empty-Random-5x5-v0",
    "minigrid/Fetch-8x8-N3-v0",
    "minigrid/FourRooms-v0",
    "minigrid/GoToDoor-6x6-v0",
    "minigrid/GoToObject-6x6-N2-v0",
    "minigrid/KeyCorridorS3R2-v0",
    "minigrid/LavaCrossingS9N3-v0",
    "minigrid/LavaGapS6-v0",
    "minigrid/LockedRoom-v0",
    "minigrid/MemoryS9-v0",
    "minigrid/MultiRoom-N4-S5-v1",
    "minigrid/ObstructedMaze-1Dlhb-v0",
    "minigrid/ObstructedMaze-Full-v1",
    "minigrid/Playground-v0",
    "minigrid/PutNear-6x6-N2-v0",
    "minigrid/RedBlueDoors-6x6-v0",
    "minigrid/SimpleCrossingS11N5-v0",
    "minigrid/Unlock-v0",
    "minigrid/UnlockPickup-v0",
    "babyai/ActionObjDoor-v0",
    "babyai/BossLevel-v0",
    "babyai/FindObjS5-v0",
    "babyai/GoToLocal-v0",
    "babyai/GoToSeqS5R2-v0",
    "babyai/KeyInBox-v0",
    "babyai/MoveTwoAcrossS5N2-v0",
    "babyai/OneRoomS8-v0",
    "babyai/OpenDoorsOrderN2Debug-v0",
    "babyai/PickupDistDebug-v0",
    "babyai/PutNextS5N2Carrying-v0",
    "babyai/SynthSeq-v0",
)

each_of_the_sample = pytest.mark.parametrize("id", SAMPLE)
each_of_all = pytest.mark.parametrize("id", FULL)


@cache
def env_id(id: str) -> str:
    """The package's name of a world."""
    prefix, name = id.removesuffix("/partial").split("/")
    return {"minigrid": "MiniGrid-", "babyai": "BabyAI-"}[prefix] + name


def matches(snapshot, expected: peer.Seen, env) -> None:
    """The snapshot says of the state what MiniGrid says."""
    assert (snapshot["x"], snapshot["y"], snapshot["direction"]) == expected.pose
    assert snapshot["cells"].split() == [word_of(thing) for thing in env.grid.grid]
    carried = object_of(snapshot["carrying"])
    assert (carried.encode() if carried else None) == expected.carrying
    assert snapshot["mission"] == expected.mission


# --------------------------------------------------------------------------------------------------------- the list


def test_every_environment_is_a_world_or_has_a_reason():
    theirs = {env for env in gymnasium.registry if env.startswith(("MiniGrid-", "BabyAI-"))}
    assert len(theirs) > 150
    reasons = {id: why for id, why in worlds.unsupported().items() if id.startswith(PREFIXES)}
    listed = [*FULL, *(id for id in reasons if not id.endswith("/partial"))]
    assert {env_id(id) for id in listed} == theirs
    assert len(listed) == len(theirs)
    assert set(worlds.available()) >= {f"{id}/partial" for id in FULL}
    for id, reason in reasons.items():
        assert reason
        with pytest.raises(WorldError, match="does not work: it needs"):
            worlds.make(id)


def test_listing_is_lazy_and_registered_worlds_stay_few():
    code = (
        "import sys, worlds; worlds.registered(); worlds.make('sokoban-6x6'); assert 'minigrid' not in sys.modules;"
        "assert worlds.is_available('minigrid/DoorKey-5x5-v0/partial') and 'minigrid' in sys.modules;"
        "assert not worlds.is_available('minigrid/DoorKey'); assert 'worlds.minigrid' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert not [id for id in worlds.registered() if id.startswith(PREFIXES)]
    assert set(worlds.registered()) <= set(worlds.available())


def test_unknown_members_name_the_nearest():
    with pytest.raises(WorldError, match="did you mean 'minigrid/DoorKey-6x6-v0'"):
        worlds.make("minigrid/DoorKey-6x6")


# ------------------------------------------------------------------------------------------------ dynamics and pixels


def play_beside_minigrid(id: str, seeds, steps: int, tile_size: int = 8) -> int:
    """Play an episode in our world and in MiniGrid's, compare everything, and return the number of states compared.

    A second world is put into each state by its snapshot alone and must go on as well.
    """
    world, twin, partial = worlds.make(id), worlds.make(id), worlds.make(f"{id}/partial")
    for each in (world, twin, partial):
        each.tile_size = tile_size
    env = peer.new_env(env_id(id))
    count = 0
    for seed in seeds:
        peer.reset(env, seed)
        world.start(seed)
        snapshots = [world.snapshot()]
        pictures = [peer.frames(env, tile_size)]
        matches(snapshots[0], peer.seen(env), env)
        assert snapshots[0]["steps" if "steps" in snapshots[0] else "past"] in (0, "")
        for action in peer.likely_actions(world, np.random.default_rng(seed), steps):
            expected = peer.step(env, action)
            number = world.actions.index(action)
            twin.restore(json.loads(json.dumps(snapshots[-1])))
            for each in (world, twin):
                _, reward, terminated, truncated, info = each.step(number)
                assert (reward, terminated, truncated) == (expected.reward, expected.terminated, expected.truncated)
                assert info["success"] == (terminated and reward > 0)
            assert twin.snapshot() == world.snapshot()
            snapshots.append(world.snapshot())
            matches(snapshots[-1], expected, env)
            pictures.append(peer.frames(env, tile_size))
            if expected.terminated or expected.truncated:
                break
        full, egocentric = (np.stack(frames) for frames in zip(*pictures, strict=True))
        np.testing.assert_array_equal(world.render_states(snapshots), full)
        np.testing.assert_array_equal(partial.render_states(snapshots), egocentric)
        count += len(snapshots)
    return count


COMPARED: dict[str, int] = {}


@each_of_the_sample
def test_a_world_equals_its_environment(id):
    COMPARED[id] = play_beside_minigrid(id, seeds=range(8), steps=25)


def test_enough_states_were_compared():
    """2,000 states of 30 environments in both views, by the tests above."""
    if set(COMPARED) != set(SAMPLE):
        pytest.skip("not all of the sample was run")
    assert len(COMPARED) >= 30
    assert sum(COMPARED.values()) >= 2000, sum(COMPARED.values())


@pytest.mark.slow
@each_of_all
def test_every_world_equals_its_environment(id):
    play_beside_minigrid(id, seeds=range(10, 20), steps=40)


@pytest.mark.parametrize("id", ["minigrid/KeyCorridorS3R1-v0", "babyai/GoToObjS4-v0"])
def test_large_tiles_equal_minigrids_own(id):
    play_beside_minigrid(id, seeds=range(2), steps=8, tile_size=24)


# ---------------------------------------------------------------------------------------------------------- replaying


@pytest.mark.parametrize("id", ["babyai/GoToSeqS5R2-v0", "minigrid/Dynamic-Obstacles-8x8-v0"])
def test_states_are_restored_in_any_order(id):
    """Long episodes, restored forwards, backwards and at random, by one world that keeps copies on the way."""
    world, fresh = worlds.make(id), worlds.make(id)
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(2):
        world.start(seed)
        steps = [(world.snapshot(), None)]
        for action in peer.likely_actions(world, rng, 60):
            before = world.snapshot()
            outcome = world.step(world.actions.index(action))[1:]
            steps.append((before, (world.actions.index(action), outcome, world.snapshot())))
        episodes += steps[1:]
    order = [*range(len(episodes)), *reversed(range(len(episodes))), *rng.integers(len(episodes), size=100)]
    for i in order:
        before, (action, outcome, after) = episodes[i]
        fresh.restore(before)
        assert fresh.snapshot() == before
        assert (fresh.step(action)[1:], fresh.snapshot()) == (outcome, after)
    assert len(fresh._checkpoints) <= 64


def test_copies_share_nothing_that_changes():
    world = worlds.make("babyai/UnlockPickupDist-v0")
    world.start(0)
    before = world.snapshot()
    twin = _copy_of(world.env)
    for action in peer.likely_actions(world, np.random.default_rng(0), 40):
        twin.step(int(NUMBERS[action]))
    assert world.snapshot() == before
    objects = {id(thing) for thing in world.env.grid.grid if thing and thing.type in ("door", "key", "ball", "box")}
    assert objects.isdisjoint(id(thing) for thing in twin.grid.grid)
    assert twin.instrs.env is twin
    assert set(twin.instrs.desc.obj_set) <= {*twin.grid.grid, twin.carrying}


def test_equal_objects_are_told_apart():
    """Of two green balls, the one that stood on the left at first is asked for, wherever it is now."""
    world = worlds.make("babyai/PickupLoc-v0")
    for seed in range(3000):
        world.start(seed)
        desc = world.env.instrs.desc
        look = desc.obj_set[0].encode()
        twins = [thing for thing in world.env.grid.grid if thing and thing.encode() == look]
        if len(desc.obj_set) == 1 and len(twins) > 1:
            break
    wanted = desc.obj_set[0].cur_pos
    (other,) = [t.cur_pos for t in twins if t is not desc.obj_set[0]][:1]
    results = []
    for x, y in (wanted, other):
        snapshot = stand_before(world, world.snapshot(), int(x), int(y))
        if snapshot is None:
            pytest.skip("nowhere to stand")
        world.restore(snapshot)
        results.append(world.step(world.actions.index("pickup"))[4]["success"])
        world.start(seed)
    assert results == [True, False]


def stand_before(world, snapshot, x: int, y: int):
    """The same state with the agent in front of a cell."""
    facts = world.facts(snapshot)
    (agent,) = facts.of_kind("agent")
    for facing, (dx, dy) in {"east": (1, 0), "south": (0, 1), "west": (-1, 0), "north": (0, -1)}.items():
        if [t.kind for t in facts.at(x - dx, y - dy)] in ([], ["agent"]):
            moved = Facts(facts.things - {agent} | {Thing("agent", x - dx, y - dy, facing)})
            return world.realise(moved, snapshot)
    return None


# ----------------------------------------------------------------------------------------------------- imagined states


def test_imagined_states_of_replayed_worlds_go_on():
    """A door imagined open lets the agent through; the same door, not another one, ends the episode when opened."""
    world = worlds.make("minigrid/Unlock-v0")
    world.start(SEED)
    start = world.snapshot()
    (door,) = world.facts(start).of_kind("door")
    closed = Thing("door", door.x, door.y, door.detail.replace("locked", "closed"))
    unlocked = world.realise(Facts(world.facts(start).things - {door} | {closed}), start)
    before = stand_before(world, unlocked, door.x, door.y)
    world.restore(json.loads(json.dumps(before)))
    assert world.snapshot() == before
    _, reward, terminated, _, info = world.step(world.actions.index("toggle"))
    assert (reward > 0, terminated, info) == (True, True, {"success": True})
    fresh = worlds.make("minigrid/Unlock-v0")
    fresh.restore(world.snapshot())
    assert fresh.snapshot() == world.snapshot()
    assert world.realise(world.facts(start), start) == start


def test_what_is_moved_in_imagination_is_what_it_was():
    """Moved to another cell, the ball that the mission names still is the one that it names."""
    world = worlds.make("minigrid/UnlockPickup-v0")
    world.start(SEED)
    start = world.snapshot()
    facts = world.facts(start)
    (box,) = facts.of_kind("box")
    (agent,) = facts.of_kind("agent")
    free = next(
        (x, y)
        for y in range(1, 5)
        for x in range(1, 4)
        if not facts.at(x, y) and not facts.at(x + 1, y) and (x, y) != (agent.x, agent.y)
    )
    here = {Thing("box", free[0] + 1, free[1], box.detail), Thing("agent", *free, "east")}
    world.restore(world.realise(Facts(facts.things - {box, agent} | here), start))
    assert world.step(world.actions.index("pickup"))[4] == {"success": True}


# -------------------------------------------------------------------------------------------------------------- solver


@pytest.mark.parametrize(
    "id", ["minigrid/DoorKey-8x8-v0", "minigrid/Playground-v0", "minigrid/LockedRoom-v0", "babyai/UnlockToUnlock-v0"]
)
def test_the_solvers_rules_are_minigrids(id):
    world = worlds.make(id) if "babyai" in id else MiniGrid("rules", env_id(id), actions=ALL_ACTIONS)
    changed = 0
    for seed in range(20):
        world.start(seed)
        before = place(world)
        for action in peer.likely_actions(world, np.random.default_rng(seed), 150):
            predicted = step(before, int(NUMBERS[action]), world.width)
            world.step(world.actions.index(action))
            if world.terminated:
                break
            after = place(world)
            assert after == predicted
            changed += after.board != before.board
            before = after
    assert changed > 5


def place(world):
    s = world.snapshot()
    return place_of(s["cells"], world.width, s["x"], s["y"], s["direction"], visible_words(s["carrying"])[0])


def test_worlds_without_solver_have_an_expert_where_the_package_has_one():
    """The bot reaches success in most levels; where there is none, nothing is advised."""
    won = []
    for id in ("GoToLocal-v0", "PickupDist-v0", "UnlockPickup-v0", "PutNextLocal-v0", "OpenDoorsOrderN2-v0"):
        world = worlds.make(f"babyai/{id}")
        assert not world.has_solver
        for seed in range(4):
            world.start(seed)
            success = truncated = False
            while not (success or truncated):
                advice = world.expert_actions(world.snapshot())
                assert len(advice) == 1, (id, seed, world.snapshot()["mission"])
                _, _, _, truncated, info = world.step(advice[0])
                success = info["success"]
            won.append(success)
    assert sum(won) >= 19
    world = worlds.make("minigrid/UnlockPickup-v0")
    world.start(0)
    assert world.expert_actions(world.snapshot()) == ()


def test_a_bot_that_plans_in_circles_gives_up():
    """Left alone, it would search for ever here and keep every search."""
    world = worlds.make("babyai/UnlockToUnlock-v0")
    world.reset(seed=1)
    for _ in range(10):
        advice = world.expert_actions(world.snapshot())
        if not advice:
            return
        world.step(advice[0])
    pytest.fail("another seed is needed: the bot finds its way here")


def test_the_bots_advice_is_a_function_of_the_state():
    """Asked out of order, and after actions that it did not advise, it says the same."""
    world, fresh = worlds.make("babyai/GoToLocal-v0"), worlds.make("babyai/GoToLocal-v0")
    snapshots, advice = [], []
    for seed in range(2):
        world.start(seed)
        for action in peer.likely_actions(world, np.random.default_rng(seed), 20):
            snapshots.append(world.snapshot())
            advice.append(world.expert_actions(snapshots[-1]))
            world.step(world.actions.index(action))
    fresh.start(9)
    for i in np.random.default_rng(0).permutation(len(snapshots)):
        assert fresh.expert_actions(snapshots[i]) == advice[i]


# ------------------------------------------------------------------------------------------------------- what is told


def test_carried_objects_and_missions_are_told():
    world = worlds.make("minigrid/Unlock-v0")
    world.start(SEED)
    snapshot = world.snapshot()
    (key,) = world.facts(snapshot).of_kind("key")
    assert world.inventory(snapshot) == ""
    world.restore(stand_before(world, snapshot, key.x, key.y))
    world.step(world.actions.index("pickup"))
    assert world.inventory(world.snapshot()) == f"a {key.detail} key"
    partial = worlds.make("minigrid/Unlock-v0/partial")
    held = [(t.kind, t.detail) for t in partial.facts(world.snapshot()).at(3, 6)]
    assert held == [("agent", ""), ("key", key.detail)]
    assert partial.inventory(world.snapshot()) == ""
    fetch = worlds.make("minigrid/Fetch-5x5-N2-v0")
    fetch.start(0)
    assert "fetch" in fetch.mission(fetch.snapshot()) or "get" in fetch.mission(fetch.snapshot())
    assert world.mission(snapshot) == ""  # always the same: the rules say it


def test_boxes_that_may_hold_something_cannot_be_foreseen():
    for id, hides in (("minigrid/ObstructedMaze-1Dlh-v0", True), ("minigrid/UnlockPickup-v0", False)):
        world = worlds.make(id)
        assert world.fully_visible is not hides
        world.start(0)
        (box,) = world.facts(world.snapshot()).of_kind("box")
        before = stand_before(world, world.snapshot(), box.x, box.y)
        toggle = world.actions.index("toggle")
        assert world.foreseeable(before, toggle) is not hides
        assert world.foreseeable(before, world.actions.index("pickup"))
    assert not worlds.make("minigrid/Dynamic-Obstacles-5x5-v0").deterministic


@pytest.mark.slow
@each_of_all
def test_only_the_listed_worlds_hide_things_in_boxes(id):
    world = worlds.make(id)
    hidden = 0
    for seed in range(30):
        world.start(seed)
        hidden += "(" in world.snapshot()["cells"]
    assert bool(hidden) == (not world.fully_visible) or id.startswith("minigrid/ObstructedMaze")
    assert not (hidden and world.fully_visible)


def test_missions_change_the_layout_and_the_agents_pose_does_not():
    world = worlds.make("babyai/GoToLocal-v0")
    world.start(0)
    snapshot = world.snapshot()
    other = {**snapshot, "layout": [snapshot["layout"][0], "go to the moon"]}
    assert world.key(other) != world.key(snapshot)
    assert world.key({**snapshot, "x": 1, "direction": 2, "seed": 7}) == world.key(snapshot)
    obstacles = worlds.make("minigrid/Dynamic-Obstacles-8x8-v0")
    keys = set()
    for seed in range(5):
        obstacles.start(seed)
        keys.add(obstacles.key(obstacles.snapshot()))
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("id", "found"), [("minigrid/Empty-5x5-v0", 1), ("minigrid/LavaGapS5-v0/partial", 3), ("babyai/OpenRedDoor-v0", 3)]
)
def test_worlds_with_too_few_layouts_are_not_split(id, found):
    world = worlds.make(id)
    assert world.layouts() == found
    with pytest.raises(WorldError, match=f"only {found} different layouts? (was|were) found"):
        world.reset(seed=0, options={"split": "train"})
    world.reset(seed=0)


# -------------------------------------------------------------------------------------------------------- partial view


def remembered(env, memory: dict) -> None:
    """Write down every place of the board that MiniGrid shows its agent."""
    _, mask = env.gen_obs_grid()
    for i, j in zip(*np.nonzero(mask), strict=True):
        memory[place_on_board(env, i, j)] = True


def place_on_board(env, i: int, j: int) -> tuple[int, int]:
    """The place of a cell of the view, turned by MiniGrid's own direction vectors."""
    size = env.agent_view_size
    corner = np.array(env.agent_pos) + env.dir_vec * (size - 1) - env.right_vec * (size // 2)
    x, y = corner - env.dir_vec * j + env.right_vec * i
    return int(x), int(y)


@pytest.mark.parametrize(
    "id", ["minigrid/MultiRoom-N4-S5-v1", "minigrid/PutNear-8x8-N3-v0", "babyai/UnlockToUnlock-v0"]
)
def test_beliefs_are_what_a_perfect_memory_knows(id):
    """Against a memory of the places that MiniGrid's own masks show, kept over whole and over broken episodes."""
    world = worlds.make(f"{id}/partial")
    env = peer.new_env(env_id(id))
    told = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        peer.reset(env, seed)
        world.start(seed)
        memory: dict[tuple[int, int], bool] = {}
        seen = []
        for action in peer.likely_actions(world, rng, 40):
            if rng.random() < 0.6:
                remembered(env, memory)
                seen.append(world.snapshot())
            if world.step(world.actions.index(action))[2]:
                break
            env.step(int(NUMBERS[action]))
            belief = world.belief(seen, world.snapshot())
            size = env.agent_view_size
            for i in range(size):
                for j in range(size):
                    if (i, j) == (size // 2, size - 1):
                        continue
                    x, y = place_on_board(env, i, j)
                    said = [(t.kind, t.detail) for t in belief.at(i, j)]
                    if (x, y) not in memory:
                        assert said == [("unknown", "")]
                    else:
                        told += 1
                        assert said == content(env, x, y)
    assert told > 1000


def content(env, x: int, y: int) -> list[tuple[str, str]]:
    """What stands on a place of MiniGrid's board, in our words."""
    thing = env.grid.get(x, y) if 0 <= x < env.width and 0 <= y < env.height else None
    if not (0 <= x < env.width and 0 <= y < env.height):
        return [("wall", "")]
    if thing is None:
        return []
    if thing.type in ("wall", "goal", "lava"):
        return [(thing.type, "")]
    if thing.type == "door":
        state = "open" if thing.is_open else "locked" if thing.is_locked else "closed"
        return [("door", f"{thing.color} {state}")]
    return [(thing.type, thing.color)]


def test_what_is_carried_is_believed_only_if_it_was_seen():
    world = worlds.make("minigrid/PutNear-6x6-N2-v0/partial")
    world.start(0)
    snapshot = world.snapshot()
    word = next(word for word in snapshot["cells"].split() if word in WORDS.values() and word != "#")
    other = "kp" if word != "kp" else "ky"
    blank = {**snapshot, "cells": " ".join("." if w != "#" else w for w in snapshot["cells"].split())}
    holding = {**blank, "carrying": other}
    assert [t.kind for t in world.belief([blank], holding).at(3, 6)] == ["agent", "unknown"]
    assert [t.kind for t in world.belief([blank, holding], holding).at(3, 6)] == ["agent", "key"]


def test_egocentric_facts_are_realised_where_the_agent_stands():
    world = worlds.make("minigrid/PutNear-6x6-N2-v0/partial")
    world.start(1)
    snapshot = world.snapshot()
    facts = world.facts(snapshot)
    thing = next(t for t in sorted(facts.things) if t.kind in ("ball", "key", "box"))
    changed = Facts(facts.things - {thing} | {Thing(thing.kind, thing.x, thing.y, "grey")})
    realised = world.realise(changed, snapshot)
    assert world.facts(realised) == changed
    assert (realised["x"], realised["y"]) == (snapshot["x"], snapshot["y"])
    everywhere = Facts(frozenset({*facts.of_kind("agent")}))  # the walls around are gone, beyond the board's edge, too
    assert world.realise(everywhere, snapshot) is None


def test_obstacles_are_where_they_seem():
    """After balls were moved in imagination, they wander on from there."""
    world = worlds.make("minigrid/Dynamic-Obstacles-8x8-v0")
    assert isinstance(world, Replayed)
    world.start(0)
    snapshot = world.snapshot()
    facts = world.facts(snapshot)
    ball = facts.of_kind("ball")[0]
    free = next((x, y) for x in range(3, 6) for y in range(3, 6) if not facts.at(x, y))
    world.restore(world.realise(Facts(facts.things - {ball} | {Thing("ball", *free, ball.detail)}), snapshot))
    balls = [thing for thing in world.env.grid.grid if isinstance(thing, Ball)]
    assert {id(thing) for thing in balls} == {id(thing) for thing in world.env.obstacles}
    assert {tuple(thing.cur_pos) for thing in balls} == {
        (t.x, t.y) for t in world.facts(world.snapshot()).of_kind("ball")
    }

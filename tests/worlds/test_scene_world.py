"""The furnished room: the contract of all worlds, and facts against geometry and rays."""

import json
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import worlds
from tests.worlds import scene_peer as peer
from worlds.core import Thing, WorldError
from worlds.rooms import COLOURS, KINDS, WALL_COLOURS
from worlds.scene import TOLERANCE, why_missing
from worlds.scene_world import ACTIONS, REACH, SEEN, FurnishedRoom
from worlds.testing import CHECKS, check_world, random_states
from worlds.text import write_facts

pytestmark = pytest.mark.skipif(bool(why_missing()), reason=f"rooms cannot be drawn: {why_missing()}")

ROOT = Path(__file__).parents[2]
IDS = ("room/5x5", "room/6x6", "room/8x8")
LEFT, RIGHT, FORWARD = range(3)


@pytest.fixture(scope="module")
def world():
    return worlds.make("room/5x5")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_it_keeps_the_contract(check):
    check(lambda: worlds.make("room/5x5"))


@pytest.mark.slow
@pytest.mark.parametrize("id", IDS[1:])
def test_larger_rooms_keep_the_contract(id):
    check_world(lambda: worlds.make(id))


def test_rooms_are_listed_and_lazy():
    assert set(IDS) <= set(worlds.available())
    code = "import sys, worlds; assert worlds.is_available('room/5x5'); assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(size=2), "size is 2; rooms of 3 to 12 squares can be built"),
        (dict(size=13), "size is 13"),
        (dict(size=4, things=5), "5 things in 4 x 4 squares; 1 to 4 fit"),
        (dict(things=0), "0 things"),
        (dict(max_steps=-1), "max_steps is -1"),
    ],
)
def test_impossible_rooms_are_refused(settings, message):
    with pytest.raises(WorldError, match=message):
        FurnishedRoom("room", **settings)


# --------------------------------------------------------------------------------------------------------- the episode


def snapshot_of(things, pose, target):
    return {
        "things": [list(thing) for thing in things],
        "walls": ["cream", "mint", "sky", "rose"],
        "fixtures": ["window", "door", "picture", "shelves"],
        "floor": "oak",
        "ceiling": "white",
        "x": pose[0],
        "y": pose[1],
        "quarters": pose[2],
        "target": list(target),
        "steps": 0,
    }


CHAIR, DUCK = ("chair", "red", 2, 0, 0), ("duck", "yellow", 4, 2, 1)


def test_turns_and_moves(world):
    world.restore(snapshot_of([CHAIR, DUCK], (1, 2, 1), ("duck", "yellow")))
    poses = []
    for action in (FORWARD, LEFT, FORWARD, LEFT, FORWARD, LEFT, LEFT):
        world.step(action)
        snapshot = world.state().snapshot
        poses.append((snapshot["x"], snapshot["y"], snapshot["quarters"]))
    assert poses == [(1, 1, 1), (1, 1, 2), (0, 1, 2), (0, 1, 3), (0, 2, 3), (0, 2, 0), (0, 2, 1)]


def test_things_and_walls_are_in_the_way(world):
    world.restore(snapshot_of([CHAIR, DUCK], (2, 1, 1), ("duck", "yellow")))  # north of it stands the chair
    _, reward, terminated, _, info = world.step(FORWARD)
    assert (reward, terminated, info) == (0.0, False, {"success": False})
    assert world.state().snapshot["y"] == 1
    for action in (RIGHT, FORWARD, LEFT, FORWARD, FORWARD):  # beside the chair, to the north wall
        world.step(action)
    snapshot = world.state().snapshot
    assert (snapshot["x"], snapshot["y"], snapshot["quarters"]) == (3, 0, 1)


def test_success_is_to_stand_before_the_target_and_face_it(world):
    world.restore(snapshot_of([CHAIR, DUCK], (2, 1, 0), ("chair", "red")))
    assert world.mission(world.state().snapshot) == "go to the red chair"
    assert world.steps_to_go(world.state().snapshot) == 1
    assert world.optimal_actions(world.state().snapshot) == (LEFT,)
    _, reward, terminated, _, info = world.step(LEFT)
    assert (reward, terminated, info) == (1.0, True, {"success": True})


def test_episodes_begin_fairly(world):
    for seed in range(20):
        world.reset(seed=seed)
        snapshot = world.state().snapshot
        named = [tuple(thing[:2]) for thing in snapshot["things"]]
        squares = [tuple(thing[2:4]) for thing in snapshot["things"]]
        assert len(named) == len(set(named)) == 5
        assert len(squares) == len(set(squares)) == 5
        assert named.count(tuple(snapshot["target"])) == 1
        assert (snapshot["x"], snapshot["y"]) not in squares
        assert len(set(snapshot["walls"])) == len(set(snapshot["fixtures"])) == 4
        assert world.steps_to_go(snapshot)


def test_what_the_mission_names_can_be_reached(world):
    """A thing in a corner may be shut in by others."""
    for seed in range(1000):
        world.start(seed)
        assert world.steps_to_go(world.snapshot()), f"layout {seed} has no way to {world.mission(world.snapshot())}"


# ----------------------------------------------------------------------------------------------------------- the facts


def in_own_view(snapshot, x, y):
    """(column, row) of a square of the room on the agent's board, by complex numbers."""
    offset = complex(x - snapshot["x"], snapshot["y"] - y) / 1j ** snapshot["quarters"]
    ahead, left = round(offset.real), round(offset.imag)
    return REACH - left, 5 - ahead


def test_facts_are_where_things_stand(world):
    seen = 0
    for state in random_states(world, 60):
        expected = {
            Thing(kind, *in_own_view(state.snapshot, x, y), colour)
            for kind, colour, x, y, _ in state.snapshot["things"]
        }
        sides = zip(state.snapshot["walls"], ((5, None), (None, -1), (-1, None), (None, 5)), strict=True)
        for colour, (column, row) in sides:
            for along in range(5):
                place = (along if column is None else column, along if row is None else row)
                expected.add(Thing("wall", *in_own_view(state.snapshot, *place), colour))
        told = {thing for thing in state.facts.things if thing.kind in KINDS or thing.kind == "wall"}
        assert told <= expected
        seen += len([thing for thing in told if thing.kind in KINDS])
        assert state.facts.of_kind("agent") == (Thing("agent", REACH, 5),)
    assert seen > 40


def test_things_are_told_where_rays_reach_them_and_unknown_where_not(world):
    size, clear = 112, 0
    for state in random_states(world, 24, seed=3):
        room, camera = world.room(state.snapshot), world.camera(state.snapshot)
        shown, alone = peer.nearest(room, camera, size)
        for number, (kind, colour, x, y, _) in enumerate(state.snapshot["things"]):
            column, row = in_own_view(state.snapshot, x, y)
            ahead, aside = 5 - row, abs(column - REACH)
            if not (ahead > 0 and aside <= min(ahead, REACH)):
                continue  # not on the board that facts tell of
            share = np.count_nonzero(shown == number) / np.count_nonzero(np.isfinite(alone[number]))
            if share > SEEN + 0.15:
                assert Thing(kind, column, row, colour) in state.facts.things
                clear += 1
            elif share < SEEN - 0.15:
                assert Thing("unknown", column, row) in state.facts.things
    assert clear > 15


def test_every_square_of_the_view_is_told_once_and_free_ones_are_free(world):
    free = 0
    for state in random_states(world, 40, seed=5):
        told = {(thing.x, thing.y) for thing in state.facts.things}
        assert len(told) == len(state.facts.things)
        taken = {in_own_view(state.snapshot, x, y) for _, _, x, y, _ in state.snapshot["things"]}
        for ahead in range(1, 6):
            for right in range(-min(ahead, REACH), min(ahead, REACH) + 1):
                cell = (REACH + right, 5 - ahead)
                if cell not in told:
                    free += 1
                    assert cell not in taken, "a square with a thing on it is told to be free"
    assert free > 100


def test_the_square_behind_a_tall_thing_is_unknown(world):
    clock = ("clock", "red", 2, 2, 0)
    snapshot = snapshot_of([clock, ("bucket", "blue", 2, 1, 0)], (2, 3, 1), ("clock", "red"))
    facts = world.facts(snapshot)
    assert Thing("clock", REACH, 4, "red") in facts.things
    assert Thing("unknown", REACH, 3) in facts.things
    moved = {**snapshot, "things": [list(clock), ["bucket", "blue", 0, 1, 0]]}
    assert Thing("unknown", REACH, 3) in world.facts(moved).things, "hidden is hidden, whatever is there"
    assert Thing("bucket", REACH - 2, 3, "blue") in world.facts(moved).things


def test_belief_remembers_what_was_seen_before_a_turn(world):
    first = snapshot_of([CHAIR, DUCK], (2, 3, 1), ("duck", "yellow"))  # looking north at the chair
    left = {**first, "quarters": 2}
    back = {**first, "quarters": 1}
    assert Thing("chair", REACH, 2, "red") in world.facts(first).things
    assert world.belief([first], back) == world.facts(first)
    unseen = world.belief([left], first).of_kind("unknown")
    assert (REACH, 2) in {(thing.x, thing.y) for thing in unseen}
    both = world.belief([first, left], left)
    assert both.things >= world.facts(left).things - set(world.facts(left).of_kind("unknown"))


def test_steps_to_go_are_those_of_a_search_by_hand(world):
    world.reset(seed=11)
    snapshot = world.state().snapshot
    taken = {tuple(thing[2:4]) for thing in snapshot["things"]}
    [goal] = [tuple(t[2:4]) for t in snapshot["things"] if t[:2] == snapshot["target"]]
    start = (snapshot["x"], snapshot["y"], 1j ** snapshot["quarters"])
    queue, steps = deque([start]), {start: 0}
    while True:
        x, y, heading = queue.popleft()
        ahead = (x + round(heading.real), y - round(heading.imag))
        if ahead == goal:
            break
        for after in ((x, y, heading * 1j), (x, y, heading / 1j), (*ahead, heading)):
            if after not in steps and after[:2] not in taken and 0 <= after[0] < 5 and 0 <= after[1] < 5:
                steps[after] = steps[x, y, heading] + 1
                queue.append(after)
    assert world.steps_to_go(snapshot) == steps[x, y, heading]


def test_words_of_the_board_are_single_and_different(world):
    glyphs = list(world.schema.glyphs.values())
    assert len(glyphs) == len(set(glyphs))
    assert all(len(glyph.split()) == 1 for glyph in glyphs)
    assert not set(WALL_COLOURS) & set(COLOURS), "walls and things have words of their own"
    assert world.actions == ACTIONS


# ----------------------------------------------------------------------------------------------------- other processes

_ELSEWHERE = """
import json, sys
import numpy as np
import worlds
from worlds.testing import random_states
from worlds.text import write_facts
world = worlds.make("room/5x5")
states = random_states(world, 12, seed=9)
np.save(sys.argv[1], world.render_states([state.snapshot for state in states]))
print(json.dumps([write_facts(state.facts, world.schema, "grid") for state in states]))
"""


def test_another_process_tells_the_same_facts_and_draws_nearly_the_same_frames(world, tmp_path):
    path = tmp_path / "frames.npy"
    run = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(path)],
        check=True,
        cwd=ROOT,
        timeout=300,
        capture_output=True,
        text=True,
    )
    states = random_states(world, 12, seed=9)
    assert json.loads(run.stdout) == [write_facts(state.facts, world.schema, "grid") for state in states]
    frames = world.render_states([state.snapshot for state in states]).astype(float)
    assert np.abs(frames - np.load(path)).mean() <= TOLERANCE

"""Sokoban's rules on small levels, and its solver against brute force."""

import itertools

import numpy as np
import pytest

from worlds.core import WorldError
from worlds.sokoban import Sokoban

UP, DOWN, LEFT, RIGHT = range(4)


def place(rows):
    """A world in the state drawn in XSB style."""
    text = "".join(rows)
    world = Sokoban("level", size=len(rows), boxes=1)
    ground = text.translate(str.maketrans("@$+*", "__.."))
    agent = next(cell for cell, glyph in enumerate(text) if glyph in "@+")
    boxes = [cell for cell, glyph in enumerate(text) if glyph in "$*"]
    world.reset(seed=0)
    world.restore({"map": ground, "agent": agent, "boxes": boxes, "steps": 0})
    return world


def drawn(world):
    """The present board in XSB style, row by row."""
    glyphs = world.schema.glyphs
    facts = world.state().facts
    cells = [
        [glyphs[tuple(sorted((t.kind, t.detail) for t in facts.at(x, y)))] for x in range(world.size)]
        for y in range(world.size)
    ]
    return ["".join(row) for row in cells]


def test_a_push_onto_the_target_succeeds():
    world = place(["#####", "#___#", "#@$.#", "#___#", "#####"])
    _, reward, terminated, truncated, info = world.step(RIGHT)
    assert drawn(world) == ["#####", "#___#", "#_@*#", "#___#", "#####"]
    assert (reward, terminated, truncated, info) == (pytest.approx(10.9), True, False, {"success": True})


def test_nothing_changes_after_success():
    world = place(["#####", "#___#", "#@$.#", "#___#", "#####"])
    world.step(RIGHT)
    before = world.state()
    _, reward, terminated, _, info = world.step(LEFT)
    assert (world.state(), reward, terminated, info["success"]) == (before, 0.0, True, True)
    assert world.optimal_actions(before.snapshot) == ()


@pytest.mark.parametrize(
    "rows",
    [
        ["#####", "#.__#", "#_@$#", "#___#", "#####"],  # a wall behind the box
        ["#####", "#.__#", "#@$$#", "#.__#", "#####"],  # a box behind the box
        ["#####", "#.$@#", "#___#", "#___#", "#####"],  # a wall
    ],
)
def test_blocked_moves_change_nothing_and_cost_a_step(rows):
    world = place(rows)
    _, reward, terminated, _, _ = world.step(RIGHT)
    assert drawn(world) == rows
    assert (reward, terminated) == (-0.1, False)
    assert world.state().snapshot["steps"] == 1


def test_rewards_for_boxes_on_and_off_targets():
    world = place(["######", "#____#", "#@*_.#", "#_.$_#", "#____#", "######"])
    assert world.step(RIGHT)[1] == pytest.approx(-1.1)  # off
    assert world.step(RIGHT)[1] == pytest.approx(0.9)  # on
    assert drawn(world)[2] == "#_.@*#"
    assert world.step(DOWN)[1] == pytest.approx(-0.1)  # elsewhere


def test_boxes_cannot_be_pulled():
    world = place(["#####", "#___#", "#_@$#", "#.__#", "#####"])
    world.step(LEFT)
    assert drawn(world)[2] == "#@_$#"


def test_the_agent_may_stand_on_a_target():
    world = place(["#####", "#.@_#", "#_$_#", "#___#", "#####"])
    world.step(LEFT)
    assert drawn(world)[1] == "#+__#"


def test_truncation():
    world = Sokoban("short", size=6, boxes=1, max_steps=2)
    world.reset(seed=0)
    optimal = world.optimal_actions(world.state().snapshot)
    idle = next(action for action in range(4) if action not in optimal)
    assert not world.step(idle)[3]
    assert world.step(idle)[3]


def brute_force_distance(world, snapshot, limit):
    """Fewest steps to success, by trying all action sequences layer by layer; None beyond ``limit``."""
    layer, seen = [snapshot], {world.facts(snapshot)}
    for depth in itertools.count():
        for state in layer:
            world.restore(state)
            if world.success:
                return depth
        if depth == limit or not layer:
            return None
        following = []
        for state, action in itertools.product(layer, range(4)):
            world.restore(state)
            world.step(action)
            after = world.state()
            if after.facts not in seen:
                seen.add(after.facts)
                following.append(after.snapshot)
        layer = following


@pytest.mark.parametrize("seed", range(6))
def test_solver_against_brute_force(seed):
    world = Sokoban("two boxes", size=5, boxes=2)
    world.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        snapshot = world.state().snapshot
        distance = brute_force_distance(world, snapshot, limit=60)
        expected = []
        for action in range(4):
            world.restore(snapshot)
            world.step(action)
            if distance and brute_force_distance(world, world.state().snapshot, distance - 1) == distance - 1:
                expected.append(action)
        assert world.optimal_actions(snapshot) == tuple(expected)
        assert world.steps_to_go(snapshot) == distance
        world.restore(snapshot)
        world.step(rng.integers(4))


def test_a_box_in_a_corner_is_lost():
    world = place(["#####", "#$__#", "#_@_#", "#__.#", "#####"])
    assert world.optimal_actions(world.state().snapshot) == ()
    assert world.steps_to_go(world.state().snapshot) is None


@pytest.mark.parametrize(("size", "boxes"), [(6, 1), (7, 2), (8, 3)])
def test_levels_are_solvable_varied_and_unsolved(size, boxes):
    world = Sokoban("levels", size=size, boxes=boxes)
    keys = set()
    for seed in range(30):
        _, info = world.reset(seed=seed)
        snapshot = world.state().snapshot
        keys.add(world.key(snapshot))
        assert not info["success"]
        assert world.optimal_actions(snapshot)
        assert len(snapshot["boxes"]) == snapshot["map"].count(".") == boxes
    assert len(keys) > 20


def test_boards_too_small_for_their_boxes_are_refused():
    with pytest.raises(WorldError, match="9 boxes do not fit"):
        Sokoban("crowd", size=6, boxes=9)

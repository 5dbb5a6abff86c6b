"""Reordering: questions against the episodes they are about, answers against every order there is, files both ways."""

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import worlds
from vagen.config import Tiny
from vagen.evaluate import reorder
from vagen.evaluate.reorder import (
    DIRECTIONS,
    ReorderError,
    Row,
    card_row,
    draw_items,
    evaluate,
    evaluate_file,
    judge,
    read_order,
    read_questions,
    shown,
    table,
    without_idle_steps,
    write_questions,
)
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, Policy
from worlds import WorldError

SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
WORLDS = ("sokoban-6x6", "minigrid-rooms-6x6")
of_every_kind = pytest.mark.parametrize(
    ("world", "direction", "length"), list(itertools.product(WORLDS, DIRECTIONS, (3, 5)))
)


@pytest.fixture(scope="module")
def chat() -> Chat:
    model, processor = tiny.build(Tiny(**SMALL), WORLDS, 0)
    return Chat(Policy("small", model.eval(), processor, ClozeFormat("grid", False, WORLDS, ())))


@of_every_kind
def test_the_true_order_is_the_one_that_happened(world, direction, length):
    for item in draw_items(world, direction, length, 4, seed=3):
        window, count = item.sample.window, length - 1
        fresh = worlds.make(world)
        pictures = shown(item)
        if direction == "forward":
            fresh.restore(window.snapshots[0])
            for place, action in zip(item.row.gt_answer, window.actions, strict=True):
                frame = fresh.step(action)[0]
                np.testing.assert_array_equal(pictures[place].pixels, frame)
        else:
            words = item.row.question.partition("are: ")[2].partition(". Which")[0]
            listed = dict(part.split(". ") for part in words.split("; "))
            fresh.restore(window.snapshots[0])
            np.testing.assert_array_equal(pictures[0].pixels, fresh.render())
            for number, place in enumerate(item.row.gt_answer, start=1):
                fresh.step(fresh.actions.index(listed[str(place)]))
                np.testing.assert_array_equal(pictures[number].pixels, fresh.render())
        assert len(pictures) == len(item.row.images) == (length if direction == "forward" else count + 1)
        assert judge(item.row, f"I think {item.row.gt_answer}", item).exact


@of_every_kind
def test_no_step_is_asked_about_that_changes_nothing(world, direction, length):
    for item in draw_items(world, direction, length, 4, seed=3):
        facts = [item.sample.world.facts(snapshot) for snapshot in item.sample.window.snapshots]
        assert all(before != after for before, after in itertools.pairwise(facts))


def test_idle_steps_are_left_out(trajectories):
    for episode in trajectories["frozenlake-4x4"]:
        world = worlds.make(episode.world)
        visible = without_idle_steps(episode)
        facts = [world.facts(snapshot) for snapshot in episode.snapshots]
        assert [world.facts(s) for s in visible.snapshots] == [key for key, _ in itertools.groupby(facts)]


@of_every_kind
def test_the_simulator_accepts_every_order_that_leads_through_the_same(world, direction, length):
    for item in draw_items(world, direction, length, 3, seed=5):
        sample, count = item.sample, length - 1
        frames = [sample.world.render_states([snapshot])[0].tobytes() for snapshot in sample.window.snapshots]
        for order in itertools.permutations(range(1, count + 1)):
            placed = [item.row.gt_answer.index(place) for place in order]  # which thing is put first, second …
            if direction == "forward":
                expected = [frames[number + 1] for number in placed] == frames[1:]
            else:
                fresh = worlds.make(world)
                fresh.restore(sample.window.snapshots[0])
                seen = [fresh.step(sample.window.actions[number])[0].tobytes() for number in placed]
                expected = seen == frames[1:]
            verdict = judge(item.row, str(list(order)), item)
            assert verdict.accepted == expected
            assert verdict.exact == (list(order) == item.row.gt_answer)
            matches = sum(a == b for a, b in zip(order, item.row.gt_answer, strict=True))
            assert verdict.pairwise == matches / count


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[2, 1, 3]", (2, 1, 3)),
        ("first [1,2,3], no: [3, 2,1].", (3, 2, 1)),
        ("[2 1 3]", (2, 1, 3)),
        ("[2, 1]", None),
        ("[1, 2, 2]", None),
        ("[1, 2, 4]", None),
        ("[1, 2, 3, 4]", None),
        ("2, 1, 3", None),
        ("[a, 1]", None),
        ("", None),
        ("[1, 2, 3] and [99999999999999999999]", None),
    ],
)
def test_the_last_list_is_the_answer(text, order):
    assert read_order(text, 3) == order


@given(st.text(alphabet="[]0123456789, \nab", max_size=60))
def test_no_answer_makes_reading_raise(text):
    order = read_order(text, 3)
    assert order is None or sorted(order) == [1, 2, 3]


def test_what_cannot_be_read_is_wrong_and_counts():
    item = draw_items("sokoban-6x6", "forward", 3, 1, seed=1)[0]
    rows = [item.row] * 4
    verdicts = [judge(item.row, answer, item) for answer in (str(item.row.gt_answer), "", "no", "[1]")]
    found = card_row("w", rows, verdicts, [item] * 4)
    assert (found.n, found.exact.value, found.parsed, found.pairwise) == (4, 0.25, 0.25, 0.25)


def test_chance_is_what_random_orders_reach():
    items = draw_items("sokoban-6x6", "inverse", 4, 30, seed=2)
    generator = random.Random(0)
    accepted, places = [], []
    for item, _ in itertools.product(items, range(60)):
        verdict = judge(item.row, str(generator.sample([1, 2, 3], 3)), item)
        accepted.append(verdict.accepted)
        places.append(verdict.pairwise)
    found = card_row("w", [item.row for item in items], [judge(item.row, "", item) for item in items], items)
    assert found.chance_accepted == pytest.approx(np.mean(accepted), abs=0.03)
    assert found.chance_pairwise == pytest.approx(np.mean(places), abs=0.03)


def test_questions_are_a_function_of_their_seed():
    one, same, other = (draw_items("sokoban-6x6", "forward", 4, 5, seed=s) for s in (1, 1, 2))
    assert [item.row for item in one] == [item.row for item in same]
    assert {item.row.id for item in one}.isdisjoint(item.row.id for item in other)
    assert len({item.row.id for item in one}) == 5


def test_files_hold_what_was_asked_and_are_read_back(tmp_path, chat):
    items = [item for d in DIRECTIONS for item in draw_items("sokoban-6x6", d, 4, 2, seed=1)]
    path = write_questions(items, tmp_path / "questions")
    rows = read_questions(path)
    assert rows == [item.row for item in items]
    for item in items:
        for name, picture in zip(item.row.images, shown(item), strict=True):
            with Image.open(path.parent / name) as image:
                np.testing.assert_array_equal(np.asarray(image), picture.pixels)
    found = evaluate_file(chat, path, path.parent, 4, 4)
    assert [(row.direction, row.length, row.n) for row in found] == [("forward", 4, 2), ("inverse", 4, 2)]


def test_a_model_is_asked_in_every_world_direction_and_length(chat, monkeypatch):
    """With a model that always puts things in the order in which they are shown."""
    monkeypatch.setattr(reorder, "generate", lambda chat, prompts, *_: ["[1, 2]"] * len(prompts))
    found = evaluate(chat, WORLDS, [3], 8, 1, "test", 4, 16)
    assert [(row.world, row.direction) for row in found] == list(itertools.product(WORLDS, DIRECTIONS))
    assert all(row.parsed == 1 and row.n == 8 for row in found)
    head, *lines = table(found).splitlines()
    assert "sokoban-6x6" in lines[0]
    assert "accepted (chance)" in head
    assert "pairwise (chance)" in head
    for row, line in zip(found, lines, strict=True):
        assert f"{row.length - 1} {'images' if row.direction == 'forward' else 'actions'} " in line
        assert f"{row.pairwise:.3f} ({row.chance_pairwise:.3f})" in line
    json.dumps(reorder.as_json(found, "small"), allow_nan=False)


def line(**changes) -> str:
    good = {
        "id": "forward_world_modeling_3_steps_0",
        "type": "forward_world_modeling_3_steps",
        "key_frame_ids": [0, 1, 2],
        "images": ["a.png", "b.png", "c.png"],
        "question": "?",
        "options": [],
        "gt_answer": [2, 1],
    }
    return json.dumps({**good, **changes})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "holds no questions"),
        ("{", "line 1"),
        (line() + "\n[]", "line 2"),
        (line(type="sideways_world_modeling_3_steps"), "line 1: type"),
        (line(gt_answer=[1, 1]), "no order of 1 to 2"),
        (line(gt_answer=[]), "no order of 1 to 0"),
        (line(images=["a.png"]), "1 images for an order of 2"),
        (line(), "3 images are missing"),
    ],
)
def test_files_that_cannot_be_asked_are_refused(tmp_path, chat, content, complaint):
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    with pytest.raises(ReorderError, match=complaint):
        evaluate_file(chat, path, tmp_path, 4, 4)


def test_worlds_without_long_episodes_are_refused(monkeypatch):
    monkeypatch.setattr(reorder, "EPISODE_STEPS", 3)
    with pytest.raises(WorldError, match="only 0 of 2 episodes have 10 different images"):
        draw_items("frozenlake-4x4", "forward", 10, 2, seed=1)


def test_rows_keep_what_else_a_file_says():
    assert Row.model_validate_json(line(task="x")).model_dump()["task"] == "x"

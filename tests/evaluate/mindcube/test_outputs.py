"""Rewards read outputs strictly: what has another form is worth nothing, and nothing can be had twice."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagen.mindcube.outputs import Worth, worth
from vagen.mindcube.prompts import TASKS
from vagen.mindcube.targets import AUGMENTED, LEAD, PLAIN, REASONING, target

MAPPED = (*PLAIN, *AUGMENTED)
ANSWER = "<answer>B. Door</answer>"


@pytest.fixture
def row(question_row) -> dict:
    return {**question_row(1), "reasoning": "The door is at [5, 8]. So the door is behind me."}


def written(row: dict, task: str) -> str:
    return target(row, task, "here")


@pytest.mark.parametrize("task", TASKS)
def test_the_right_output_is_worth_everything(row, task):
    assert worth(written(row, task), row, task) == Worth(True, True, 1.0 if task in MAPPED else None)


@pytest.mark.parametrize("task", TASKS)
def test_a_wrong_letter_costs_only_its_part(row, task):
    text = written(row, task).replace(ANSWER, "<answer>A. Cup</answer>")
    assert worth(text, row, task) == Worth(True, False, 1.0 if task in MAPPED else None)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("other", TASKS)
def test_an_output_of_another_task_has_no_form(row, task, other):
    same = (task in REASONING, task in PLAIN, task in AUGMENTED) == (
        other in REASONING,
        other in PLAIN,
        other in AUGMENTED,
    )
    maps_only = (task in REASONING) == (other in REASONING) and task in MAPPED and other in MAPPED
    assert worth(written(row, other), row, task).formed == (same or maps_only)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B. Door",
        "<answer>B. Door",
        "<answer></answer>",
        f"{ANSWER} or so",
        f"I say {ANSWER}",
        f"{ANSWER}<answer>A. Cup</answer>",
        "<answer>A. Cup <answer>B. Door</answer>",
        "<answer>B</answer>",
        "<answer>B. Cup</answer>",
        "<answer>A. Cup B. Door</answer>",
    ],
)
def test_anything_beside_the_form_is_worth_nothing(row, text):
    assert worth(text, row, "raw_qa") == Worth(False, False, None)


def test_a_map_is_read_where_it_belongs(row):
    truth = row["grounded_cogmap"]
    hidden = f"{LEAD}<cogmap>{{}}</cogmap><think>{truth}</think>{ANSWER}"
    assert worth(hidden, row, "aug_cgmap_ffr_out").map == 0
    for no_map in ("no idea", "{}"):
        text = f"{LEAD}<cogmap>{no_map}</cogmap>{ANSWER}"
        assert worth(text, row, "plain_cgmap_out") == Worth(False, True, 0.0), "a form without a map is no form"
    assert worth(ANSWER, row, "plain_cgmap_out") == Worth(False, False, 0.0)


def test_views_left_out_are_charged_where_they_are_asked_for(row):
    without = {"objects": json.loads(row["grounded_cogmap"])["objects"]}
    text = f"{LEAD}<cogmap>{json.dumps(without)}</cogmap>{ANSWER}"
    assert worth(text, row, "plain_cgmap_out").map == 1
    similarity = worth(text, row, "aug_cgmap_out").map
    assert similarity is not None
    assert 0 < similarity < 1


def test_a_row_without_a_true_map_is_refused(row):
    with pytest.raises(ValueError, match="no true map"):
        worth(written(row, "plain_cgmap_out"), {**row, "grounded_cogmap": None}, "plain_cgmap_out")


@given(text=st.text(alphabet='<>/answerthinkcogmap{}[]":. ABDoor0', max_size=80), task=st.sampled_from(TASKS))
def test_no_text_breaks_it(text, task):
    row = {
        "id": "among_x_q0",
        "question": "What is behind me? A. Cup B. Door",
        "gt_answer": "B",
        "grounded_cogmap": '{"objects": [{"name": "cup", "position": [5, 5]}]}',
    }
    found = worth(text, row, task)
    assert found.formed or not found.correct or task in MAPPED
    assert found.map is None or 0 <= found.map <= 1

"""Prompts: what each task shows and asks, other wordings, and rows that lack something."""

import json

import pytest

from vagen.cli.options import MINDCUBE_TASKS
from vagen.config import shipped
from vagen.mindcube.maps import check_map, find_map
from vagen.mindcube.prompts import MAP_GIVEN, TASKS, Wording, read_wording
from vagen.mindcube.rows import MindCubeError

SHIPPED = shipped("mindcube.yaml")


@pytest.fixture
def write_prompts(tmp_path):
    def write(text: str):
        path = tmp_path / "prompts.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_what_it_wants(task, question_row):
    row = question_row(2)
    prompt = read_wording(SHIPPED, task).write(row, "here")
    assert prompt.endswith(f"Question: {row['question']}")
    assert "<answer>A. Above</answer>" in prompt
    assert "$" not in prompt
    assert ("<think>" in prompt) == (task == "ff_rsn" or "ffr" in task)
    asks_map = task not in ("raw_qa", "ff_rsn", *MAP_GIVEN)
    assert ("<cogmap>" in prompt) == asks_map
    assert (row["grounded_cogmap"] in prompt) == (task in MAP_GIVEN)
    if asks_map:
        assert '"cup", "door", "lamp", "shelf", "sofa"' in prompt, "the names to use, in an order that says nothing"
        assert ("Image 1, Image 2, Image 3" in prompt) == task.startswith("aug")
        assert ('"views"' in prompt) == task.startswith("aug")


@pytest.mark.parametrize("task", TASKS)
def test_answers_in_the_form_of_the_prompt_are_read(task, question_row):
    """What the prompt shows as an example is an answer that scoring reads."""
    from vagen.evaluate.mindcube.answers import extract_letter

    prompt = read_wording(SHIPPED, task).write(question_row(), "here")
    assert extract_letter(prompt.rpartition("Question:")[0]) == "A"
    example = next((line for line in prompt.splitlines() if line.startswith('{"')), None)
    if example is not None:
        example = prompt[prompt.index(example) :].partition("\n\n")[0].replace("[x, y]", "[1, 2]")
        check_map(find_map(example.replace('"direction"', '"up"')), generated=True)


def test_views_are_named_as_the_question_names_them(question_row):
    wording = Wording("aug_cgmap_out", "$views: $question", 1)
    assert wording.write(question_row(1), "").startswith("Image 1, Image 2: ")
    assert wording.write(question_row(1, question="two views? A. x"), "").startswith("View 1, View 2: ")


DEEP = '{"a":' * 100_000 + "}" * 100_000


@pytest.mark.parametrize("grounded", [None, "", "no map", '{"a": 1}', {"objects": []}, DEEP], ids=range(6))
def test_without_a_true_map_nothing_is_listed(grounded, question_row):
    text = Wording("plain_cgmap_out", "$objects; $question", 1).write(question_row(grounded_cogmap=grounded), "")
    assert text.startswith("the objects that the question and its options name; ")


def test_a_map_may_be_given_as_json(question_row, true_map):
    row = question_row(grounded_cogmap=true_map)
    assert json.dumps(true_map) in read_wording(SHIPPED, "aug_cgmap_in").write(row, "")


@pytest.mark.parametrize("task", MAP_GIVEN)
@pytest.mark.parametrize("grounded", [None, "", "  ", [1]])
def test_a_map_that_is_to_be_given_must_be_there(task, grounded, question_row):
    row = question_row(grounded_cogmap=grounded)
    with pytest.raises(MindCubeError, match=f"here: no grounded_cogmap, which task {task} puts into its prompt"):
        read_wording(SHIPPED, task).write(row, "here")


def test_the_official_wording(write_prompts, question_row):
    path = write_prompts('tasks: {aug_cgmap_in: {prompt: "$input_prompt", max_new_tokens: 7}}')
    wording = read_wording(path, "aug_cgmap_in")
    assert wording.max_new_tokens == 7
    assert wording.write(question_row(input_prompt="Whatever: $5"), "") == "Whatever: $5"
    with pytest.raises(MindCubeError, match="line 3: no input_prompt"):
        wording.write(question_row(), "line 3")


def test_paragraphs_and_dollars(write_prompts, question_row):
    path = write_prompts('tasks: {raw_qa: {prompt: ["  for $$5 ", "$question"], max_new_tokens: 7}}')
    row = question_row()
    assert read_wording(path, "raw_qa").write(row, "") == f"for $5\n\n{row['question']}"


def test_another_wording_has_another_digest(write_prompts):
    first, second = (
        read_wording(write_prompts(f'tasks: {{raw_qa: {{prompt: "{text} $question", max_new_tokens: 7}}}}'), "raw_qa")
        for text in ("a", "b")
    )
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tasks: {raw_qa: {prompt: Answer, max_new_tokens: 5}}", "tasks.raw_qa.prompt asks no question"),
        ('tasks: {raw_qa: {prompt: "$ $question", max_new_tokens: 5}}', "a lone '$'"),
        ('tasks: {raw_qa: {prompt: "$question"}}', "tasks.raw_qa.max_new_tokens: Field required"),
        ('tasks: {raw_qa: {prompt: "$question", max_new_tokens: 0}}', "tasks.raw_qa.max_new_tokens"),
        ('tasks: {raw_qa: {prompt: "$question", max_new_tokens: 5, x: 1}}', "tasks.raw_qa.x"),
        ('tasks: {raw: {prompt: "$question", max_new_tokens: 5}}', "tasks.raw"),
        ('tasks: {ff_rsn: {prompt: "$question", max_new_tokens: 5}}', "have no task 'raw_qa', only ff_rsn"),
        ("[1]", "the file: Input should be"),
        ("", "the file: Input should be"),
        ("tasks: {", "are not YAML"),
    ],
)
def test_files_that_are_no_templates(text, complaint, write_prompts):
    path = write_prompts(text)
    with pytest.raises(MindCubeError) as error:
        read_wording(path, "raw_qa")
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


def test_a_task_that_gives_a_map_needs_a_template_that_does(write_prompts):
    with pytest.raises(MindCubeError, match="gives no map"):
        read_wording(write_prompts('tasks: {aug_cgmap_in: {prompt: "$question", max_new_tokens: 5}}'), "aug_cgmap_in")
    with pytest.raises(MindCubeError, match="cannot read prompts"):
        read_wording(SHIPPED.with_name("missing.yaml"), "raw_qa")


def test_the_command_line_knows_every_task():
    assert tuple(MINDCUBE_TASKS) == TASKS

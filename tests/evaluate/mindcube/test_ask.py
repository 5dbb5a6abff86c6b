"""Asking a model: the official schema, every row once whatever happens, and everything missing named beforehand."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vagen.cli
from vagen.config import shipped
from vagen.evaluate.mindcube.ask import ask, choose, choosing, prepare, run_file, shuffled
from vagen.mindcube.prompts import read_wording
from vagen.mindcube.rows import MindCubeError, read_responses, scene_of, take_apart
from vagen.policy.chat import Picture
from vagen.policy.generate import score_choices

ROOT = Path(__file__).parents[3]
TOKENS = 4


@pytest.fixture(scope="module")
def chat(tiny_model):
    from vagen.policy.chat import Chat
    from vagen.policy.policy import load

    return Chat(load(str(tiny_model)))


@pytest.fixture
def exam(tmp_path, question_row, write_lines, stand_in_images):
    """``exam(number)``: a file of questions, its folder of images, and the questions as an inquiry."""

    def make(number: int = 7, task: str = "raw_qa", **fields):
        rows = [question_row(index, **fields) for index in range(number)]
        stand_in_images(tmp_path / "images", rows)
        questions = write_lines(tmp_path / "questions.jsonl", rows)
        return prepare(questions, tmp_path / "images", read_wording(shipped("mindcube.yaml"), task))

    return make


def lines(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def test_responses_are_the_questions_with_answers(exam, chat, tmp_path, capsys):
    inquiry = exam()
    out = tmp_path / "responses.jsonl"
    assert ask(chat, inquiry, out, 3, TOKENS, overwrite=False) == 7
    found = lines(out)
    assert [{**row, "answer": None, "model_type": None} for row in inquiry.rows] == [
        row | {"answer": None, "model_type": None} for row in found
    ]
    assert {row["model_type"] for row in found} == {"idefics3"}
    assert all(isinstance(row["answer"], str) for row in found)
    assert len({row["answer"] for row in found}) > 1, "a constant answer would hide mixed-up rows"
    assert [response.truth for response in read_responses(out)] == [row["gt_answer"] for row in inquiry.rows]
    assert json.loads(run_file(out).read_text())["task"] == "raw_qa"


def test_answers_do_not_depend_on_the_batch(exam, chat, tmp_path):
    """Neither on the order within one, in which prompts of like lengths are put together."""
    inquiry = exam()
    answers = []
    for batch in (1, 3, 7):
        ask(chat, inquiry, tmp_path / f"{batch}.jsonl", batch, TOKENS, overwrite=False)
        answers.append([row["answer"] for row in lines(tmp_path / f"{batch}.jsonl")])
    assert answers[0] == answers[1] == answers[2]


def test_with_shuffled_images_every_question_sees_another_scene(exam, chat, tmp_path):
    inquiry = exam(12)
    other = shuffled(inquiry)
    scenes = [scene_of(row["id"]) for row in inquiry.rows]
    of_file = {file: scene for files, scene in zip(inquiry.images, scenes, strict=True) for file in files}
    for own, shown, scene in zip(inquiry.images, other.images, scenes, strict=True):
        assert len(shown) == len(own)
        assert scene not in {of_file[file] for file in shown}
    ask(chat, inquiry, tmp_path / "responses.jsonl", 4, TOKENS, overwrite=False)
    with pytest.raises(MindCubeError, match="responses with shuffled False, not True"):
        ask(chat, other, tmp_path / "responses.jsonl", 4, TOKENS, overwrite=False)


def test_a_scene_that_is_alone_cannot_be_shuffled(exam):
    with pytest.raises(MindCubeError, match="no other scene has 1 images, as among_group000 has"):
        shuffled(exam(3))


# ------------------------------------------------------------------------------------------------------------ choosing


def test_chosen_answers_are_the_likeliest_options_after_what_was_written(exam, chat):
    """What was written before the answer stays; each option is scored for itself, alone in its batch."""
    inquiry = exam(4, "ff_rsn")
    prompts, texts = [], ["<think>one</think><answer>none of them", "<think>cut", "", "<answer>B<answer>"]
    for number in range(4):
        shown = [Picture.of(np.asarray(Image.open(path).convert("RGB"))) for path in inquiry.images[number]]
        prompts.append((chat.ask(inquiry.prompts[number], shown), shown))
    found = choose(chat, prompts, texts, inquiry.rows)
    leads = ["<think>one</think><answer>", "<think>cut<answer>", "<answer>", "<answer>"]
    for output, lead, prompt, row in zip(found, leads, prompts, inquiry.rows, strict=True):
        outputs = [f"{lead}{letter}. {option}</answer>" for letter, option in take_apart(row["question"]).options]
        scores = [score_choices(chat, prompt, [one])[0] for one in outputs]
        assert output == outputs[int(np.argmax(scores))]


def test_a_run_that_chooses_is_another_run(exam, chat, tmp_path):
    inquiry, out = exam(), tmp_path / "responses.jsonl"
    ask(chat, choosing(inquiry), out, 3, TOKENS, overwrite=False)
    options = [[f"<answer>{'. '.join(o)}</answer>" for o in take_apart(r["question"]).options] for r in inquiry.rows]
    assert all(row["answer"].endswith(tuple(ends)) for row, ends in zip(lines(out), options, strict=True))
    with pytest.raises(MindCubeError, match="responses with chosen True, not False"):
        ask(chat, inquiry, out, 3, TOKENS, overwrite=False)


def test_without_options_there_is_nothing_to_choose(exam):
    with pytest.raises(MindCubeError, match=r"line 1: among_group000\S* has no options to choose among"):
        choosing(exam(2, question="What is behind the chair?"))


# ------------------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize(
    ("kept", "torn"), [(0, b""), (0, b'{"id": "amo'), (2, b""), (3, b'{"id"'), (4, b"{}"), (7, b"")]
)
def test_going_on_where_it_stopped(kept, torn, exam, chat, tmp_path):
    inquiry = exam()
    whole, out = tmp_path / "whole.jsonl", tmp_path / "responses.jsonl"
    ask(chat, inquiry, whole, 3, TOKENS, overwrite=False)
    ask(chat, inquiry, out, 3, TOKENS, overwrite=False)
    out.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:kept]) + torn)
    assert ask(chat, inquiry, out, 3, TOKENS, overwrite=False) == 7 - kept
    assert out.read_bytes() == whole.read_bytes()
    assert ask(chat, inquiry, out, 3, TOKENS, overwrite=False) == 0
    assert out.read_bytes() == whole.read_bytes()


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def kill_in_the_middle(command: list[str], out: Path, rows: int) -> None:
    """Start a command and SIGKILL it as soon as it has written so many rows."""
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE)
    until = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < until:
        if out.is_file() and out.read_bytes().count(b"\n") >= rows:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, printed = process.communicate()
    assert process.returncode == -signal.SIGKILL, printed.decode()


def test_a_run_is_killed_and_goes_on(tmp_path, question_row, write_lines, stand_in_images, tiny_model, chat):
    """SIGKILL in the middle, and in the end every row is there once, as if nothing had happened."""
    rows = [question_row(index) for index in range(70)]
    stand_in_images(tmp_path / "images", rows)
    questions = write_lines(tmp_path / "questions.jsonl", rows)

    out = tmp_path / "responses.jsonl"
    command = [
        *(sys.executable, "-m", "vagen.cli", "eval", "mindcube", "--questions", str(questions), "--batch", "3"),
        *("--images", str(tmp_path / "images"), "--model", str(tiny_model), "--task", "raw_qa"),
        *("--max-new-tokens", "24", "--out", str(out)),
    ]
    kill_in_the_middle(command, out, rows=1)
    assert 0 < out.read_bytes().count(b"\n") < 70, "killed too late to say anything"
    with out.open("ab") as file:
        file.write(b'{"id": "among_gro')  # as if it had been killed within a line
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    inquiry = prepare(questions, tmp_path / "images", read_wording(shipped("mindcube.yaml"), "raw_qa"))
    ask(chat, inquiry, tmp_path / "at_once.jsonl", 3, 24, overwrite=False)
    assert out.read_bytes() == (tmp_path / "at_once.jsonl").read_bytes()
    assert [row["id"] for row in lines(out)] == [row["id"] for row in rows]


def test_each_answer_is_on_the_disk_before_the_next(exam, chat, tmp_path, monkeypatch):
    out, sizes = tmp_path / "responses.jsonl", []
    real = os.fsync

    def watched(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == out.stat().st_ino:
            sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    ask(chat, exam(), out, 3, TOKENS, overwrite=False)
    ends = [index + 1 for index, byte in enumerate(out.read_bytes()) if byte == ord("\n")]
    assert sizes == ends


# ---------------------------------------------------------------------------------------------------- another's output


@pytest.mark.parametrize("change", ["task", "model", "weights", "prompts", "questions", "max_new_tokens"])
def test_another_run_is_not_gone_on_with(change, exam, chat, tmp_path, question_row, write_lines):
    inquiry, out, tokens = exam(3), tmp_path / "responses.jsonl", TOKENS
    ask(chat, inquiry, out, 3, tokens, overwrite=False)
    before = out.read_bytes()
    policy, wording = chat.policy, inquiry.wording
    other = chat
    if change == "task":
        inquiry = exam(3, task="ff_rsn")
    elif change == "model":
        other = type(chat)(replace(policy, name="other"))
    elif change == "weights":
        other = type(chat)(replace(policy, digest="0" * 32))
    elif change == "prompts":
        inquiry = replace(inquiry, wording=replace(wording, text=f"Please: {wording.text}"))
    elif change == "questions":
        inquiry = exam(4)
    else:
        tokens += 1
    with pytest.raises(MindCubeError, match=f"{out} holds responses with {change} .*, not .*--overwrite"):
        ask(other, inquiry, out, 3, tokens, overwrite=False)
    assert out.read_bytes() == before
    ask(other, inquiry, out, 3, tokens, overwrite=True)
    assert len(lines(out)) == len(inquiry.rows)
    assert ask(other, inquiry, out, 3, tokens, overwrite=False) == 0


def test_files_of_other_origin_are_left_alone(exam, chat, tmp_path):
    inquiry, out = exam(3), tmp_path / "responses.jsonl"
    out.write_text("something\n")
    with pytest.raises(MindCubeError, match=r"exists, and responses\.jsonl\.run\.json cannot be read"):
        ask(chat, inquiry, out, 3, TOKENS, overwrite=False)
    run_file(out).write_text("{}")
    with pytest.raises(MindCubeError, match="does not describe a run"):
        ask(chat, inquiry, out, 3, TOKENS, overwrite=False)
    assert out.read_text() == "something\n"
    ask(chat, inquiry, out, 3, TOKENS, overwrite=True)
    rows = lines(out)
    for broken in (rows[1:], [rows[0], {"id": "other"}], [*rows, rows[0]], [{**rows[0], "gt_answer": "D"}]):
        out.write_text("".join(json.dumps(row) + "\n" for row in broken))
        with pytest.raises(MindCubeError, match=r"line \d: not the answer to that line of the questions"):
            ask(chat, inquiry, out, 3, TOKENS, overwrite=False)
    with pytest.raises(MindCubeError, match="holds the questions"):
        ask(chat, inquiry, inquiry.source, 3, TOKENS, overwrite=True)


def test_two_processes_do_not_write_to_one_file(exam, chat, tmp_path):
    inquiry, out = exam(3), tmp_path / "responses.jsonl"
    with out.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(MindCubeError, match="being written to by another process"):
            ask(chat, inquiry, out, 3, TOKENS, overwrite=False)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_every_missing_image_is_named(tmp_path, question_row, write_lines, stand_in_images, capsys):
    rows = [question_row(index) for index in range(6)]
    stand_in_images(tmp_path / "images", rows)
    for name in ("all/scene1/0.png", "all/scene2/2.png", "all/scene5/1.png"):
        (tmp_path / "images" / name).unlink()
    words = ["eval", "mindcube", "--questions", str(write_lines(tmp_path / "q.jsonl", rows)), "--task", "raw_qa"]
    words += [
        "--images",
        str(tmp_path / "images"),
        "--model",
        str(tmp_path / "no_model"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert vagen.cli.main(words) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"3 of 12 images are missing below {tmp_path / 'images'}" in printed
    assert "all/scene1/0.png, all/scene2/2.png, all/scene5/1.png" in printed
    assert not (tmp_path / "o").exists(), "something was written before"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"question": None}, "question: "),
        ({"question": " "}, "the question is empty"),
        ({"images": "a.png"}, "images: "),
        ({"images": [5]}, "images.0: "),
        ({"id": 5}, "id: "),
        ({"answer": "A."}, "has answer already"),
        ({"cogmap_gen_answer": ""}, "has cogmap_gen_answer already"),
        ({"images": ["/etc/hostname"]}, "image '/etc/hostname' is not below"),
        ({"images": ["../secret.png"]}, "image '../secret.png' is not below"),
    ],
)
def test_rows_that_are_no_questions(fields, complaint, question_row, write_lines, tmp_path):
    path = write_lines(tmp_path / "q.jsonl", [question_row(), question_row(1, **fields)])
    with pytest.raises(MindCubeError) as error:
        prepare(path, ROOT, read_wording(shipped("mindcube.yaml"), "raw_qa"))
    assert f"{path}, line 2: {complaint}" in str(error.value)


@pytest.mark.parametrize("task", ["aug_cgmap_in", "cgmap_in_ffr_out"])
def test_the_row_without_a_map_is_named(task, question_row, write_lines, tmp_path):
    row = question_row(1)
    del row["grounded_cogmap"]
    path = write_lines(tmp_path / "q.jsonl", [question_row(), row])
    with pytest.raises(MindCubeError) as error:
        prepare(path, tmp_path, read_wording(shipped("mindcube.yaml"), task))
    assert f"{path}, line 2 ({row['id']}): no grounded_cogmap" in str(error.value)


def test_an_image_that_is_none_stops_the_run_where_it_is(exam, chat, tmp_path):
    inquiry, out = exam(6), tmp_path / "responses.jsonl"
    good = inquiry.images[4][0].read_bytes()
    for bad in (b"no image", good[: len(good) // 2]):
        inquiry.images[4][0].write_bytes(bad)
        with pytest.raises(MindCubeError, match=f"cannot read image {inquiry.images[4][0]}"):
            ask(chat, inquiry, out, 2, TOKENS, overwrite=False)
        assert len(lines(out)) == 4
    inquiry.images[4][0].write_bytes(good)
    assert ask(chat, inquiry, out, 2, TOKENS, overwrite=False) == 2


def test_questions_without_images(question_row, write_lines, tmp_path, chat):
    path = write_lines(tmp_path / "q.jsonl", [question_row(index, images=[]) for index in range(2)])
    inquiry = prepare(path, tmp_path, read_wording(shipped("mindcube.yaml"), "raw_qa"))
    assert ask(chat, inquiry, tmp_path / "out.jsonl", 2, TOKENS, overwrite=False) == 2


def test_images_go_through_the_models_own_processor(exam, chat, tmp_path, monkeypatch):
    """Whole, in colour and in order; what happens to their size is the processor's affair."""
    inquiry, shown = exam(3), []
    ours = chat.policy.processor.image_processor
    real = type(ours).__call__

    def watched(self, images, *args, **kwargs):
        flat = images if isinstance(images[0], Image.Image) else [image for group in images for image in group]
        shown.append([(image.mode, image.size) for image in flat])
        return real(self, images, *args, **kwargs)

    monkeypatch.setattr(type(ours), "__call__", watched)
    ask(chat, inquiry, tmp_path / "out.jsonl", 1, TOKENS, overwrite=False)
    for paths in inquiry.images:
        sizes = []
        for path in paths:
            with Image.open(path) as image:
                sizes.append(("RGB", image.size))
        assert sizes in shown


# ----------------------------------------------------------------------------------------------------------- the whole


@pytest.mark.slow
def test_all_public_questions(shared, tmp_path, stand_in_images, tiny_model):
    """1,050 real questions with stand-in images: asked, killed, gone on with, and scored."""
    questions = shared / "tinybench_questions.jsonl"
    stand_in_images(tmp_path / "images", lines(questions))
    out = tmp_path / "responses.jsonl"
    command = [
        *(sys.executable, "-m", "vagen.cli", "eval", "mindcube", "--questions", str(questions), "--batch", "16"),
        *("--images", str(tmp_path / "images"), "--model", str(tiny_model), "--task", "plain_cgmap_out"),
        *("--max-new-tokens", "32", "--out", str(out)),
    ]
    for rows in (300, 700):
        kill_in_the_middle(command, out, rows)
    kept = out.read_bytes()
    assert kept.count(b"\n") < 1050, "killed too late to say anything"
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1]), "rows that were there are asked again"
    assert [row["id"] for row in lines(out)] == [row["id"] for row in lines(questions)]
    for mode in ("official-basic", "official-cogmap", "strict"):
        assert vagen.cli.main(["score", "mindcube", str(out), "--mode", mode, "--out", str(tmp_path / "s.json")]) == 0
    groups = {group["name"]: group["n"] for group in json.loads((tmp_path / "s.json").read_text())["rows"]}
    assert (groups["among"], groups["around"], groups["rotation"]) == (600, 250, 200)

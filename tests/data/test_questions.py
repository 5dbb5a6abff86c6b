"""Questions from files as training data: each once per epoch, beside clozes as often as the weight says."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vagen.config import Clozes, Questions
from vagen.data.examples import SOURCE, Example, read_examples, read_image, spread
from vagen.data.places import DataError
from vagen.data.questions import QuestionStream, TrainingStream
from vagen.data.stream import ClozeStream


def line(number: int, images: list[str], **fields) -> str:
    return json.dumps(
        {
            "id": f"q{number}",
            "images": images,
            "input_prompt": f"Question {number}?",
            "grounded_output": f"A. {number}",
        }
        | fields
    )


@pytest.mark.parametrize(("total", "n"), [(0, 3), (1, 3), (5, 5), (5, 1), (6, 2), (7, 3), (800, 400), (801, 400)])
def test_what_is_spread_is_in_order_from_end_to_end(total, n):
    found = spread(range(total), n)
    assert len(found) == min(n, total)
    assert found == sorted(set(found))
    assert not total or found[0] == 0
    assert n < 2 or not total or found[-1] == total - 1
    assert max(np.diff(found), default=0) - min(np.diff(found), default=0) <= 1, "not evenly"


@pytest.mark.parametrize("turns", [6, 7])
def test_turns_spread_over_equal_episodes_are_not_all_the_first(turns):
    assert len({number % turns for number in spread(range(128 * turns), 16)}) > 1


@pytest.fixture
def file(tmp_path) -> Path:
    """Ten questions about two images, three about one of them, two of another task."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((8, 8, 3), ord(name[0]), np.uint8)).save(tmp_path / name)
    lines = [line(number, ["a.png", "b.png"]) for number in range(10)]
    lines += [line(number, ["a.png"]) for number in range(10, 13)]
    lines += [line(number, ["b.png"], task="raw_qa") for number in range(13, 15)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "train.jsonl"


def stream_of(file: Path, seed: int = 0, **settings) -> QuestionStream:
    return QuestionStream(Questions(files=(str(file),), **settings), seed)


def test_a_file_is_read(file):
    examples = read_examples(file, file.parent)
    assert len(examples) == 15
    first = file.read_bytes().splitlines()[0]
    images = (file.parent / "a.png", file.parent / "b.png")
    assert examples[0] == Example("question", "Question 0?", "A. 0", images, first)
    assert examples[14].cell == (SOURCE, "raw_qa")
    assert (read_image(examples[0].images[1]) == ord("b")).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1: the line: Invalid JSON"),
        ("[]", "line 1: the line: Input should be an object"),
        ('{"images": ["a.png"], "grounded_output": "x"}', "line 1: input_prompt: Field required"),
        (line(0, []), "line 1: images: List should have at least 1"),
        (line(0, ["a.png"], grounded_output=" "), "line 1: grounded_output"),
        (line(0, ["a.png"]) + "\n" + line(1, ["c.png"]), r"line 2: image .*c\.png is missing: set questions\.images"),
        (line(0, ["../a.png"]), r"image '../a\.png' is not below the folder"),
        (line(0, ["/a.png"]), "is not below the folder"),
    ],
)
def test_lines_that_are_no_questions_are_refused_by_number(file, text, message):
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_examples(file, file.parent)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read questions .*none\.jsonl: No such file"):
        read_examples(tmp_path / "none.jsonl", tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read image .*a\.png"):
        read_image(tmp_path / "a.png")


def test_images_may_be_in_another_folder(file, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    target = file.rename(moved / "train.jsonl")
    with pytest.raises(DataError, match=r"set questions\.images"):
        stream_of(target)
    assert stream_of(target, images=str(tmp_path)).first_image() == tmp_path / "a.png"


def test_every_question_comes_once_per_epoch_and_rows_share_their_images(file):
    stream = stream_of(file, per_row=4)
    groups = [stream.group(number) for number in range(5)]  # 10 in rows of 4, 4 and 2; 3; 2
    for group in groups:
        assert len({sample.images for sample in group.samples}) == 1
        assert group.weights == (1.0,) * len(group.samples)
    assert sorted(len(group.samples) for group in groups) == [2, 2, 3, 4, 4]
    assert Counter(s.question for g in groups for s in g.samples) == Counter(f"Question {n}?" for n in range(15))


def test_the_order_is_a_function_of_the_seed_and_changes_every_epoch(file):
    one, same, other = stream_of(file, 1, per_row=1), stream_of(file, 1, per_row=1), stream_of(file, 2, per_row=1)
    orders = [[s.group(n).samples[0].question for n in range(30)] for s in (one, same, other)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:15] != orders[0][15:]
    assert same.group(3) == one.group(3)  # whatever was asked for before


def test_words_are_those_that_are_written(file):
    assert stream_of(file).words() == ["Question", "A"]
    assert stream_of(file).cells == [(SOURCE, "question"), (SOURCE, "raw_qa")]


def test_tasks_have_weights_that_may_change(file):
    """One task from the start, the other from the middle on; rows that would be empty are stood in for."""
    stream = stream_of(file, tasks={"raw_qa": 3.0, "question": [[0.5, 0], [0.5, 2]]})
    early, late = ([stream.group(number, progress) for number in range(6)] for progress in (0.4, 0.6))
    assert {sample.task for group in early for sample in group.samples} == {"raw_qa"}
    assert {group.weights for group in early} == {(3.0, 3.0)}
    assert {(s.task, w) for g in late for s, w in zip(g.samples, g.weights, strict=True)} == {
        ("raw_qa", 3.0),
        ("question", 2.0),
    }
    alone = TrainingStream(None, stream, length=10)
    assert [alone.group(number).samples[0].task for number in range(5)] == ["raw_qa"] * 5
    assert {alone.group(number).samples[0].task for number in range(5, 10)} == {"raw_qa", "question"}
    everything = [s.question for number in range(4) for s in alone.whole_group(number).samples]
    assert Counter(everything) == Counter(f"Question {n}?" for n in range(15)), "tokens of late tasks are not counted"


def test_weights_of_tasks_that_cannot_be_are_refused(file):
    with pytest.raises(DataError, match="the files have no raw, only question, raw_qa"):
        stream_of(file, tasks={"raw": 1.0})
    late = [[0.5, 0], [0.6, 1]]
    with pytest.raises(DataError, match="nothing is asked when 0% of the training is over"):
        stream_of(file, tasks={"raw_qa": late, "question": late})


def test_clozes_and_questions_take_turns_by_weight(file, shards):
    clozes = ClozeStream([shards["sokoban-6x6"]], Clozes(weights={"state_estimation": 1.0}), 0)
    both = TrainingStream(clozes, stream_of(file), 2.0)
    groups = [both.group(number) for number in range(240)]
    kinds = Counter(isinstance(group.samples[0], Example) for group in groups)
    assert kinds == {True: 160, False: 80}
    assert both.cells == [("sokoban-6x6", "state_estimation"), (SOURCE, "question"), (SOURCE, "raw_qa")]
    shares = [group for rank in range(3) for group in both.share(2, 12, rank, 3)]
    assert sorted(map(str, shares)) == sorted(map(str, groups[24:36]))


def test_one_of_both_is_enough_and_none_is_refused(file, shards):
    alone = TrainingStream(None, stream_of(file))
    assert (alone.worlds, dict(alone.patterns)) == ((), {})
    assert isinstance(alone.group(3).samples[0], Example)
    clozes = ClozeStream([shards["sokoban-6x6"]], Clozes(weights={"state_estimation": 1.0}), 0)
    assert TrainingStream(clozes, None).group(3) == clozes.group(3)
    with pytest.raises(DataError, match=r"nothing to train on: set `shards`.*questions\.files"):
        TrainingStream(None, None)

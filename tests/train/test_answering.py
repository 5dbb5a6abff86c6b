"""Reinforcement by questions about images: exact rewards for form, letter and map, by loop and command."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from vagen.config import Config, ConfigError
from vagen.data.examples import SOURCE
from vagen.data.places import DataError
from vagen.data.stream import Group
from vagen.mindcube.prompts import TASKS
from vagen.mindcube.targets import target
from vagen.policy.policy import create
from vagen.rl.rewards import RewardError
from vagen.train.answering import _one_of, judged, open_exam
from vagen.train.rl import prepare, train
from vagen.train.run import cloze_format

COLOURS = {"red": (200, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 200)}
ROOT = Path(__file__).parents[2]
LAUNCHED = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # of the process group


def question(one: str, two: str, task: str) -> dict:
    """Which colour the first of two images has, with a map on which it stands left of the second."""
    objects = [{"name": name, "position": [x, 5]} for name, x in ((one, 2), (two, 8))]
    row = {
        "id": f"rotation_{one}{two}_1",
        "question": "Which colour comes first? A. red B. green C. blue",
        "images": [f"{one}.png", f"{two}.png"],
        "gt_answer": "ABC"[list(COLOURS).index(one)],
        "grounded_cogmap": json.dumps({"objects": objects, "views": []}),
        "reasoning": f"The first is {one}.",
        "task": task,
    }
    return row | {"input_prompt": row["question"], "grounded_output": target(row, task, "here")}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of one colour each, and questions about pairs of them, by task."""
    folder = tmp_path_factory.mktemp("questions")
    for name, colour in COLOURS.items():
        Image.fromarray(np.full((32, 32, 3), colour, np.uint8)).save(folder / f"{name}.png")
    for task in ("raw_qa", "plain_cgmap_out"):
        pairs = [(one, two) for one in COLOURS for two in COLOURS if one != two]
        write(folder / f"{task}.jsonl", [question(*pair, task) for pair in pairs])
    return folder


@pytest.fixture
def asked(folder, rl_values, tmp_path):
    """``asked(task, **changes)``: the values of a run that answers the questions of a task."""

    def make(task: str = "raw_qa", **changes) -> dict:
        file = str(folder / f"{task}.jsonl")
        base = rl_values(
            tmp_path / "run",
            questions={"files": [file]},
            rl={"source": "questions", "rollouts": {"worlds": [], "tokens": 90}, "evaluation": {"files": [file]}},
        )
        return {**base, **{key: {**base.get(key, {}), **change} for key, change in changes.items()}}

    return make


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_right_answers_become_more_frequent(folder, reinforce):
    """After a warm-up that has taught the form, rewards alone raise the share of right answers."""
    file = str(folder / "raw_qa.jsonl")
    run = reinforce(
        questions={"files": [file]},
        optimizer={"lr": 2e-3},
        train={"steps": 20, "checkpoint_every": 100},
        rl={
            "source": "questions",
            "rollouts": {"worlds": [], "groups": 6, "members": 8, "tokens": 16},
            "rewards": {"format": 0.1},
            "warmup": {"steps": 40, "rows": 6, "lr": 1.5},
            "policy": {"epochs": 2, "minibatches": 2, "aggregation": "seq-mean-token-mean"},
            "evaluation": {"every": 20, "files": [file], "episodes": 12},
        },
    )
    steps = records(run)[40:]
    right = [step["success"] for step in steps]
    assert np.mean(right[-5:]) > np.mean(right[:5]) + 0.15, f"the share of right answers: {right}"
    assert steps[-1]["rollout/turns"] == 1
    assert steps[-1]["rollout/formed"] >= steps[-1]["success"]
    assert steps[-1]["reward/task"] == steps[-1]["success"] == steps[-1][f"success/{SOURCE}"]
    assert steps[-1]["eval/success"] == steps[-1][f"eval/{SOURCE}/success"] > 0.5


def test_a_map_is_paid_as_a_description_of_the_state(folder, reinforce):
    """A warm-up of right outputs writes whole maps; what they earn is the weight times their agreement."""
    file = str(folder / "plain_cgmap_out.jsonl")
    run = reinforce(
        questions={"files": [file]},
        optimizer={"lr": 5e-3},
        train={"steps": 2, "checkpoint_every": 100},
        rl={
            "source": "questions",
            "rollouts": {"worlds": [], "groups": 4, "members": 4, "tokens": 90},
            "rewards": {"state_estimation": 0.25},
            "warmup": {"steps": 60, "rows": 6},
            "auxiliary": {"weight": 0.5, "rows": 4},
        },
    )
    last = records(run)[-1]
    assert 0 < last["reward/state_estimation"] <= 0.25
    assert last["labels"] > 0, "the right outputs beside counted for nothing"
    assert last["reward"] == pytest.approx(last["reward/task"] + last["reward/state_estimation"])


def test_those_to_measure_by_come_from_all_over_the_files(asked, folder):
    file = str(folder / "raw_qa.jsonl")
    config = Config.model_validate(asked(rl={"evaluation": {"files": [file], "episodes": 3}}))
    assert config.rl is not None
    exam = open_exam(config, config.rl)
    assert exam is not None
    assert exam.held_out == tuple(exam.stream.examples[number] for number in (0, 2, 5))


def test_samples_of_a_group_are_drawn_by_their_weights():
    counts = Counter(_one_of(Group(("a", "b", "c"), (1.0, 0.0, 3.0)), number) for number in range(2000))
    assert set(counts) == {"a", "c"}
    assert counts["c"] == pytest.approx(1500, abs=80)


def test_right_outputs_that_are_too_long_are_refused(asked, tmp_path):
    values = asked("plain_cgmap_out", rl={"rollouts": {"worlds": [], "tokens": 20}})
    with pytest.raises(
        ConfigError, match=r"right outputs have more than rl.rollouts.tokens=20 tokens.*raise it to \d+"
    ):
        train(Config.model_validate(values))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_judged_by_its_own_form(folder, rl_values, tmp_path, task):
    file = write(folder / f"one.{task}.jsonl", [question("green", "blue", task)])
    rl = {"source": "questions", "rollouts": {"worlds": []}}
    config = Config.model_validate(rl_values(tmp_path, questions={"files": [str(file)]}, rl=rl))
    assert config.rl is not None
    exam = open_exam(config, config.rl)
    assert exam is not None
    (example,) = exam.stream.examples
    right = judged(example, example.answer)
    assert right.formed
    assert right.correct
    assert right.map in (None, 1.0)
    assert not judged(example, example.answer.replace("B. green", "A. red")).correct
    assert not judged(example, f"So: {example.answer}").formed


def test_the_command_learns_from_questions(asked, tmp_path):
    """Warm-up, reinforcement and validation by the real command; a tiny model knows the questions' words as tokens."""
    file = asked("plain_cgmap_out")["questions"]["files"][0]
    values = asked(
        "plain_cgmap_out",
        rl={
            "source": "questions",
            "rollouts": {"groups": 2, "members": 2, "tokens": 90},
            "rewards": {"format": 0.1, "state_estimation": 0.2},
            "warmup": {"steps": 2, "rows": 2},
            "evaluation": {
                "every": 1,
                "files": [file],
                "episodes": 4,
            },
        },
    )
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "vagen.cli", "train", "--config", str(tmp_path / "rl.yaml")]
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    done = subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    model = Path(done.stdout.strip().splitlines()[-1])
    assert json.loads((model / "cloze_format.json").read_text())["worlds"] == []
    measured = [record for record in records(tmp_path / "run") if "eval/success" in record]
    assert len(measured) == 3, "before reinforcement, and after each of its two steps"
    config = Config.model_validate(values)
    assert config.rl is not None
    exam = open_exam(config, config.rl)
    assert exam is not None
    policy = create(config.model, cloze_format(config, (), ()), 0, words=exam.stream.words())
    assert len(policy.processor.tokenizer("Which colour comes", add_special_tokens=False)["input_ids"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "naming"}, "task 'naming' has no exact reward"),
        ({"gt_answer": None}, "no gt_answer to judge answers by"),
        ({"gt_answer": "A"}, "its grounded_output is not the right output of task plain_cgmap_out"),
        ({"grounded_output": "B. green"}, "its grounded_output is not the right output"),
        ({"grounded_cogmap": "none"}, "no true map to compare with"),
    ],
)
def test_a_question_that_cannot_be_judged_is_refused(asked, folder, change, message):
    row = question("green", "blue", "plain_cgmap_out") | change
    file = write(folder / "refused.jsonl", [row])
    config = Config.model_validate(asked(questions={"files": [str(file)]}))
    with pytest.raises(DataError, match=message):
        prepare(config, "new")


def test_what_questions_do_not_have_is_refused(asked, tmp_path):
    base = asked()["rl"]
    for changes, error, message in (
        ({"questions": {"files": []}}, DataError, "set questions.files"),
        ({"rl": {**base, "evaluation": {"every": 5}}}, ConfigError, "rl.evaluation.files: name questions"),
        ({"rl": {**base, "warmup": {"clozes": 1.0}}}, ConfigError, "rl.warmup.clozes asks about episodes"),
        ({"rl": {**base, "rewards": {"format": 0.6}}}, RewardError, "keep them below 0.5"),
    ):
        with pytest.raises(error, match=message):
            prepare(Config.model_validate(asked(**changes)), "new")
    for source, worlds, message in (
        ("questions", ["frozenlake-4x4"], "plays no worlds"),
        ("worlds", [], "needs rollouts.worlds"),
        ("clozes", [], "needs rollouts.worlds"),
    ):
        with pytest.raises(ValueError, match=message):
            Config.model_validate({"rl": {"source": source, "rollouts": {"worlds": worlds}}})
    assert not (tmp_path / "run" / "run.json").exists()

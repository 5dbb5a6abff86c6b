"""Folders of questions: official form, right answers that score 100 %, and nothing to be had without looking."""

import json
import math
import re
import shlex
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import vagen.cli
from tests.spatial_drawing import BoxRenderer
from tests.worlds.spatial_geometry import in_camera, projected
from vagen.cloze.statistics import wilson
from vagen.config import load, shipped
from vagen.data.examples import read_examples
from vagen.evaluate.mindcube.ask import prepare
from vagen.evaluate.mindcube.blind import Exam, baselines
from vagen.evaluate.mindcube.score import score_file
from vagen.files import OutputError
from vagen.mindcube.maps import check_map, find_map
from vagen.mindcube.prompts import TASKS, read_wording
from vagen.mindcube.rows import MindCubeError, kind_of, read_rows, scene_of, setting_of, take_apart
from vagen.mindcube.targets import AUGMENTED, PLAIN, REASONING, target
from vagen.spatial import Amounts, example, write
from worlds.rooms import KINDS, Camera, Room
from worlds.scene import SceneRenderer, why_missing
from worlds.spatial import questions
from worlds.spatial_grid import SETTINGS

WORDINGS = [read_wording(shipped("mindcube.yaml"), task) for task in ("raw_qa", "aug_cgmap_ffr_out")]
# A digest of a room without things, as the OpenGL driver drew it that drew the sample.
SAMPLE_DRIVER = "c68060a2620d7d05960886b039e07e7f12da36594a74ca2455ae345a17a453a8"
SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "spatial"
BLIND_HALVES = 3000  # questions of a setting, half of them to learn from
ASKED_BLINDLY = 5200  # questions that the blind rules are tried on


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spatial") / "data"
    write(path, BoxRenderer(), SETTINGS, Amounts(40, 8, 12), WORDINGS, 3, 32)
    return path


def rows(path: Path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def test_every_split_has_questions_in_mindcubes_form_with_their_images(folder):
    for split, n in (("train", 40), ("val", 8), ("test", 12)):
        found = rows(folder / f"{split}.jsonl")
        assert Counter(setting_of(row["id"]) for row in found) == dict.fromkeys(SETTINGS, n)
        for row in found:
            parts = take_apart(row["question"])
            assert 2 <= len(parts.options) <= 4
            assert row["gt_answer"] in dict(parts.options)
            assert kind_of(parts.stem) != "other", parts.stem
            assert len(row["category"]) == 4
            assert row["id"].startswith(scene_of(row["id"]))
            for name in row["images"]:
                assert name.startswith(f"other_all_image/{setting_of(row['id'])}/{row['id'].split('_')[1]}/")
                assert Image.open(folder / name).size == (32, 32)
            views = [view["name"] for view in json.loads(row["grounded_cogmap"])["views"]]
            word = "Image" if "image" in row["question"].lower() else "View"
            assert views == [f"{word} {number}" for number in range(1, len(row["images"]) + 1)]


def test_scenes_of_one_split_are_in_no_other(folder):
    scenes = [{scene_of(row["id"]) for row in rows(folder / f"{split}.jsonl")} for split in ("train", "val", "test")]
    assert len(set.union(*scenes)) == sum(map(len, scenes))


def test_all_tasks_can_be_asked(folder):
    for task in TASKS:
        inquiry = prepare(folder / "test.jsonl", folder, read_wording(shipped("mindcube.yaml"), task))
        assert len(inquiry.prompts) == 12 * len(SETTINGS)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", ["official-basic", "official-cogmap", "strict"])
def test_an_oracle_scores_full_marks(folder, tmp_path, task, mode):
    wording = read_wording(shipped("mindcube.yaml"), task)
    lines = [
        json.dumps({**row, "answer": example(row, wording)["grounded_output"]}) for row in rows(folder / "train.jsonl")
    ]
    (tmp_path / "responses.jsonl").write_text("\n".join(lines) + "\n")
    score_file(tmp_path / "responses.jsonl", mode, tmp_path / "score.json")
    result = json.loads((tmp_path / "score.json").read_text())
    mapped = task in (*PLAIN, *AUGMENTED)
    if mode == "strict":
        for row in result["rows"]:
            assert row["accuracy"] == 1, row
            assert row["maps_read"] == mapped, row
            if mapped:
                assert (row["maps"]["overall"], row["maps"]["isomorphic"]) == (1, 1), row
        return
    figures = result["results"]
    assert figures["gen_cogmap_accuracy"] == 1
    assert all(of["gen_cogmap_accuracy"] == 1 for of in figures["settings"].values() if of["total"])
    if mapped and mode == "official-cogmap":
        assert figures["cogmap_similarity"]["avg_overall_similarity"] == 1
        assert figures["cogmap_similarity"]["isomorphic_accuracy"] == 1


def test_without_looking_there_is_chance_only():
    """The letter that is right most often and a learned rule over the text, on more than 5,000 questions."""
    exams = [
        Exam.of(question.id, question.text, question.letter)
        for setting in SETTINGS
        for question in questions(setting, ASKED_BLINDLY // 4, BoxRenderer(), 7)
    ]
    assert len(exams) == ASKED_BLINDLY
    chance, letter, text = baselines(exams)
    expected = math.fsum(chance.correct) / len(exams)
    for baseline in (letter, text):
        share = wilson(sum(baseline.correct), len(exams))
        assert share.low <= expected, f"{baseline.name} is right in {share}, chance is {expected:.3f}"
        # Of balanced answers, those learned from are the rarer in what is held out: a little below chance is no leak.
        assert share.value > expected - 0.02, f"{baseline.name} is right in {share}, chance is {expected:.3f}"
    for setting in SETTINGS:
        members = [number for number, exam in enumerate(exams) if exam.setting == setting]
        expected = math.fsum(chance.correct[n] for n in members) / len(members)
        room = 3.3 * math.sqrt(expected * (1 - expected) / len(members))  # one in a thousand leaves it by chance
        for baseline in (letter, text):
            share = math.fsum(baseline.correct[n] for n in members) / len(members)
            assert abs(share - expected) < room, (
                f"{setting}: {baseline.name} is right in {share:.3f} of {expected:.3f}"
            )


def test_nothing_that_is_asked_tells_its_answer():
    """A rule that knows each option, and its place, with each word before it; learned from every other question."""
    for setting in SETTINGS:
        found = list(questions(setting, BLIND_HALVES, BoxRenderer(), 11))
        right, wrong = Counter(), Counter()
        for question in found[::2]:
            for place, option in enumerate(question.options):
                (right if place == question.right else wrong).update(traces(question, place, option))
        hits = expected = 0.0
        for question in found[1::2]:
            evidence = [
                sum(math.log((right[t] + 1) / (wrong[t] + 1)) for t in traces(question, place, option))
                for place, option in enumerate(question.options)
            ]
            hits += evidence.index(max(evidence)) == question.right
            expected += 1 / len(question.options)
        room = 3.3 * math.sqrt(expected * (1 - expected / (BLIND_HALVES // 2)))
        assert hits - expected < room, f"{setting}: the text alone tells {hits:.0f} answers, {expected:.0f} by chance"


def traces(question, place: int, option: str) -> list[tuple]:
    """What a reader of the text may notice of an option: the words asked with it, and with its place."""
    what = "thing" if option in question.scene.names else option
    words = set(re.findall(r"\w+", question.stem))
    named = (option in question.stem) and what == "thing"
    return [(word, key) for word in words for key in (what, place, named)]


def test_training_examples_are_prompts_with_right_outputs(folder):
    asked = {row["id"]: row for row in rows(folder / "train.jsonl")}
    for task in ("raw_qa", "aug_cgmap_ffr_out"):
        examples = rows(folder / f"train.{task}.jsonl")
        assert [row["id"] for row in examples] == list(asked)
        for row in examples:
            assert row["task"] == task
            assert asked[row["id"]]["question"] in row["input_prompt"]
            assert row["grounded_output"] == target(row, task, "here")
    assert [row["id"] for row in rows(folder / "val.raw_qa.jsonl")] == [
        row["id"] for row in rows(folder / "val.jsonl")
    ]
    assert not (folder / "test.raw_qa.jsonl").exists()


def test_what_an_image_shows_is_said_once_for_each(folder):
    """The same names as in the reasoning of the questions, whose truth is tested with it, and facings by the map."""
    asked = {}
    for row in rows(folder / "train.jsonl"):
        shown = re.findall(r"\d shows ([^.]+)\.", row["reasoning"])
        truth = json.loads(row["grounded_cogmap"])
        facings = {thing["name"]: thing["facing"] for thing in truth["objects"] if "facing" in thing}
        for image, names, view in zip(row["images"], shown, truth["views"], strict=True):
            fronts = [name for name in re.findall(r"the (\w+ \w+)", names) if name in facings]
            said = [f" In image 1 the {name} faces {seen_from(view['facing'], facings[name])}." for name in fronts]
            asked[image] = f"Image 1 shows {names}.{''.join(said)}"
    named = rows(folder / "train.naming.jsonl")
    assert [len(row["images"]) for row in named] == [1] * len(asked)
    assert {row["images"][0]: row["grounded_output"] for row in named} == asked
    said = " ".join(asked.values())
    assert all(words in said for words in ("faces me.", "faces away from me.", "faces to my left.", "to my right."))


def seen_from(looks: str, faces: str) -> str:
    """A facing as one sees it who looks some way, both as complex numbers: right is 1 and up is i."""
    numbers = {"right": 1, "up": 1j, "left": -1, "down": -1j}
    turned = numbers[faces] / numbers[looks]
    return {1: "away from me", -1: "me", 1j: "to my left", -1j: "to my right"}[turned]


@pytest.mark.parametrize("task", TASKS)
def test_outputs_have_the_official_form(folder, task):
    row = rows(folder / "train.jsonl")[0]
    text = target(row, task, "here")
    letter = row["gt_answer"]
    option = dict(take_apart(row["question"]).options)[letter]
    assert text.endswith(f"<answer>{letter}. {option}</answer>")
    assert text.count("<answer>") == 1
    assert (f"<think>{row['reasoning']}</think><answer>" in text) == (task in REASONING)
    assert text.startswith("Based on my observation, the answer is:\n<cogmap>```json\n") == (
        task in (*PLAIN, *AUGMENTED)
    )
    if task in (*PLAIN, *AUGMENTED):
        found = check_map(find_map(text), generated=True)
        truth = check_map(find_map(row["grounded_cogmap"]), generated=False)
        assert found.objects == truth.objects
        assert found.views == (truth.views if task in AUGMENTED else {})


@pytest.mark.parametrize(
    ("change", "task", "message"),
    [
        ({"gt_answer": "F"}, "raw_qa", "none of the question's options"),
        ({"reasoning": None}, "ff_rsn", "no reasoning, which task ff_rsn needs"),
        ({"grounded_cogmap": ""}, "aug_cgmap_out", "no grounded_cogmap"),
        ({"grounded_cogmap": "[1]"}, "plain_cgmap_out", "is no map"),
    ],
)
def test_rows_that_lack_something_are_refused(folder, change, task, message):
    row = rows(folder / "train.jsonl")[0]
    with pytest.raises(MindCubeError, match=f"line 7: .*{message}"):
        target({**row, **change}, task, "line 7")


def test_the_same_seed_writes_the_same_bytes(folder, tmp_path):
    again = tmp_path / "again"
    write(again, BoxRenderer(), SETTINGS, Amounts(40, 8, 12), WORDINGS, 3, 32)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_the_card_counts_and_other_folders_are_left_alone(folder, tmp_path):
    card = (folder / "README.md").read_text()
    assert "| train | among | 40 |" in card
    assert "split: validation" in card
    (tmp_path / "thesis.tex").write_text("work")
    with pytest.raises(OutputError, match=r"has no README\.md"):
        write(tmp_path, BoxRenderer(), SETTINGS, Amounts(1, 0, 0), (), 0, 32)
    assert (tmp_path / "thesis.tex").read_text() == "work"


def test_a_folder_of_mindcube_itself_is_not_replaced(tmp_path):
    (tmp_path / "other_all_image").mkdir()
    (tmp_path / "README.md").write_text("# MindCube")
    with pytest.raises(OutputError, match=r"README\.md is not one of `vagen spatial`"):
        write(tmp_path, BoxRenderer(), SETTINGS, Amounts(1, 0, 0), (), 0, 32, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "# MindCube"


@pytest.mark.parametrize("size", [8, 32, 88, 96, 136, 184, 200, 224, 336])
def test_the_training_command_of_the_card_makes_a_model_that_sees_the_images(tmp_path, size):
    path = write(tmp_path / "data", BoxRenderer(), ["rotation"], Amounts(1, 0, 0), WORDINGS[:1], 0, size)
    command = re.search(r"vagen train (.*?)\nvagen", path.read_text().replace("\\\n", ""), re.DOTALL)
    assert command is not None
    arguments = shlex.split(command.group(1))
    overrides = [word for word in arguments if word.startswith("--model.")]
    tiny = load(shipped("spatial.yaml"), overrides).model.tiny
    if "--model.path=MODEL" in arguments:
        assert size in (88, 136, 184), "a prime number of patches to a side"
    else:
        assert tiny.image_size == size
        assert tiny.image_size // (tiny.patch_size * tiny.merge) <= 8, "an image costs many tokens"


def test_the_card_names_a_model_of_ones_own_where_the_tiny_one_has_no_whole_patches(tmp_path):
    path = write(tmp_path / "data", BoxRenderer(), ["rotation"], Amounts(1, 0, 0), WORDINGS[:1], 0, 50)
    assert "--model.path=MODEL" in path.read_text()


def test_the_card_lists_only_files_that_are_there(folder, tmp_path):
    assert "`val.TASK.jsonl`" in (folder / "README.md").read_text()
    path = write(tmp_path / "data", BoxRenderer(), ["rotation"], Amounts(1, 0, 1), WORDINGS[:1], 0, 32)
    assert "val.TASK" not in path.read_text()


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_a_folder_and_names_its_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "worlds.scene", SimpleNamespace(SceneRenderer=BoxRenderer))
    output = tmp_path / "out"
    words = ["--settings", "rotation", "--train", "6", "--val", "0", "--test", "2", "--tasks", "raw_qa"]
    assert vagen.cli.main(["spatial", *words, "--size", "16", "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output / "README.md")
    names = sorted(path.name for path in output.glob("*.jsonl"))
    assert names == ["test.jsonl", "train.jsonl", "train.naming.jsonl", "train.raw_qa.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--settings", "beside"], "invalid choice: 'beside'"),
        (["--train", "0", "--val", "0", "--test", "0"], "nothing is to be asked"),
        (["--tasks", "raw"], "invalid choice: 'raw'"),
        (["--prompts", "none.yaml"], "cannot read prompts none.yaml"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert vagen.cli.main(["spatial", *words, "--output", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_earlier_folder_is_replaced_only_if_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "worlds.scene", SimpleNamespace(SceneRenderer=BoxRenderer))
    monkeypatch.chdir(tmp_path)
    words = ["spatial", "--settings", "rotation", "--train", "1", "--val", "0", "--test", "0", "--size", "32"]
    words += ["--output", "out"]
    assert vagen.cli.main(words) == 0
    (tmp_path / "out" / "notes.txt").write_text("work")
    assert vagen.cli.main(words) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "notes.txt").read_text() == "work"
    assert vagen.cli.main([*words, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_without_an_output_nothing_starts(capsys):
    assert vagen.cli.main(["spatial"]) == 2
    assert "--output" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- the sample


def test_the_sample_is_small_and_whole():
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    shown = set()
    for split, n in (("train", 24), ("test", 12)):
        found = rows(SAMPLE / f"{split}.jsonl")
        assert Counter(setting_of(row["id"]) for row in found) == dict.fromkeys(SETTINGS, n)
        shown |= {SAMPLE / name for row in found for name in row["images"]}
    assert all(Image.open(path).size == (224, 224) for path in shown)
    examples = read_examples(SAMPLE / "train.aug_cgmap_ffr_out.jsonl", SAMPLE)
    assert [example.task for example in examples] == ["aug_cgmap_ffr_out"] * 96


def test_the_sample_is_what_the_generator_asks_where_everything_is_seen():
    """Its rooms are drawn again from their seeds; the geometry sees in them what the pixels showed."""
    for setting in SETTINGS:
        kept = [row for row in rows(SAMPLE / "train.jsonl") if setting_of(row["id"]) == setting]
        again = [question.row() for question in questions(setting, len(kept), BoxRenderer(), 0)]
        assert [row["question"] for row in again] == [row["question"] for row in kept]
        assert [row["gt_answer"] for row in again] == [row["gt_answer"] for row in kept]


@pytest.mark.skipif(bool(why_missing()), reason=f"rooms cannot be drawn: {why_missing()}")
def test_drawn_images_show_what_questions_are_about_where_the_cameras_look(tmp_path):
    """The images on the disk, by the renderer itself: each thing is where an independent projection puts it."""
    write(tmp_path / "data", SceneRenderer(), SETTINGS, Amounts(6, 0, 0), [], 5, 96)
    renderer = SceneRenderer()
    seen = 0
    for setting in SETTINGS:
        for question in questions(setting, 6, renderer, 5):
            room = question.scene.room
            for view, image in zip(question.views, question.images, strict=True):
                camera = question.scene.cameras[view]
                picture = renderer.render(room, [camera], 96)[0]
                np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "data" / image)), picture)
                owners = renderer.segment(room, [camera])[0]
                for number, item in enumerate(room.items):
                    if not question.scene.seen[view][number]:
                        continue
                    columns = np.nonzero(owners == number)[1] / owners.shape[1] * 2 - 1
                    middle = np.array([item.x, item.y, KINDS[item.kind].height / 2])
                    away = np.abs(columns - projected(camera, middle)[0]).max()
                    depth = in_camera(camera, middle)[2] - KINDS[item.kind].radius
                    reach = KINDS[item.kind].radius / depth / math.tan(math.radians(camera.fov / 2))
                    assert away < reach + 0.01, f"{image}: {item} reaches {away} from its middle, {reach} at most"
                    seen += 1
    assert seen > 60


@pytest.mark.skipif(bool(why_missing()), reason=f"rooms cannot be drawn: {why_missing()}")
def test_the_sample_is_what_the_command_writes(tmp_path):
    bare = SceneRenderer().render(Room(6, 6, ()), [Camera(-2, 1, yaw=20)], 224)
    if sha256(bare.tobytes()).hexdigest() != SAMPLE_DRIVER:
        pytest.skip("another OpenGL driver than the sample's: what is just seen may differ")
    write(tmp_path / "data", SceneRenderer(), SETTINGS, Amounts(24, 0, 12), WORDINGS, 0, 224)
    for name in ("train.jsonl", "test.jsonl", "train.naming.jsonl"):
        assert (tmp_path / "data" / name).read_text() == (SAMPLE / name).read_text(), name

"""The tasks for lmms-eval, loaded by it. The package is heavy and no dependency: skipped where it is absent."""

import json

import pytest
import yaml

from vagen.config import shipped
from vagen.mindcube.prompts import TASKS

FOLDER = shipped("mindcube.yaml").parent / "lmms_eval"
WITH_MAP = {"plain_cgmap_out", "aug_cgmap_out", "plain_cgmap_ffr_out", "aug_cgmap_ffr_out"}


class Loader(yaml.SafeLoader):
    """Reads ``!function utils.name`` as text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(name: str) -> dict:
    return yaml.load((FOLDER / name).read_text(encoding="utf-8"), Loader)


def test_there_is_a_file_for_every_task():
    settings = yaml.safe_load(shipped("mindcube.yaml").read_text(encoding="utf-8"))["tasks"]
    files = {path.name: read(path.name) for path in FOLDER.glob("*.yaml")}
    assert {file["task"] for file in files.values()} == {f"vagen_mindcube_{task}" for task in TASKS}
    for name, file in files.items():
        task = file["lmms_eval_specific_kwargs"]["default"]["task"]
        assert name == f"mindcube_{task}.yaml"
        assert file["generation_kwargs"]["max_new_tokens"] == settings[task]["max_new_tokens"]
        assert file["include"] == ("_maps" if task in WITH_MAP else "_answers")
        assert (FOLDER / file["include"]).is_file()


@pytest.fixture
def manager(tmp_path, monkeypatch, question_row, write_lines, stand_in_images):
    """lmms-eval's tasks, in a folder with data of our own where the public data would be."""
    tasks = pytest.importorskip("lmms_eval.tasks")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [question_row(index) for index in range(3)]
    rows += [question_row(3, id="translation_1", meta_info=[["a"], ["b"]])]
    for place in ("raw", "scaffold/all"):
        folder = tmp_path / "data" / "mindcube" / "data" / place
        folder.mkdir(parents=True)
        write_lines(folder / "MindCube_tinybench.jsonl", rows)
    stand_in_images(tmp_path / "data" / "mindcube" / "data", rows)
    return tasks.TaskManager(include_defaults=False, include_path=str(FOLDER))


@pytest.mark.parametrize("name", TASKS)
def test_lmms_eval_runs_the_task(name, manager, question_row, true_map):
    full = f"vagen_mindcube_{name}"
    task = manager.load_task_or_group([full])[full]
    docs = list(task.eval_docs)
    assert len(docs) == 4
    assert question_row(1)["question"] in task.doc_to_text(docs[1])
    assert [image.mode for image in task.doc_to_visual(docs[1])] == ["RGB", "RGB"]
    assert task.doc_to_target(docs[1]) == "B"
    plain = json.dumps({entry["name"]: {"position": entry["position"]} for entry in true_map["objects"]})
    answers = [f"<cogmap>{plain}</cogmap><answer>A. Cup</answer>", "B.", "A.", "B."]
    results = [task.process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    figures = {
        metric: aggregate([result[metric] for result in results]) for metric, aggregate in task.aggregation().items()
    }
    assert figures["mindcube_accuracy"] == pytest.approx(2 / 3), "translation does not count"
    if name in WITH_MAP:
        assert figures["mindcube_isomorphic"] == pytest.approx(1 / 3)
        assert 0 < figures["mindcube_strict_map"] < figures["mindcube_similarity"]
    else:
        assert set(figures) == {"mindcube_accuracy"}

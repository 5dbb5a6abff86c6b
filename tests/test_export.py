"""Exports: plain folders with a model card that the Hub understands, whole or absent."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from vagen.cloze.grammar import named
from vagen.config import Tiny
from vagen.evaluate.worldmodel import draw_samples
from vagen.export import export
from vagen.policy import tiny
from vagen.policy.chat import conversation
from vagen.policy.policy import ClozeFormat, ModelError, Policy, weights_digest

WORLD = "sokoban-6x6"
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}


def row(world: str, cloze: str, pattern: str, accuracy: float) -> dict:
    return {
        "world": world,
        "cloze": cloze,
        "pattern": pattern,
        "input": "image",
        "representation": "grid",
        "horizon": 1,
        "n": 300,
        "accuracy": accuracy,
        "ci_low": accuracy - 0.05,
        "ci_high": accuracy + 0.05,
        "ceiling": 1.0,
        "skill": None,
        "field_f1": {},
        "floor_intervals": {},
        "parsed": 1.0,
        "effective": None,
        "seen_in_training": None,
        "examples": [],
        "floors": {"majority": 0.25, "copy": None, "random": 0.125, "shuffled_image": 0.0625},
    }


CARD = {
    "rows": [
        row(WORLD, "state_estimation", "o0 -> s0", 0.912345),
        row(WORLD, "o0 a0 a1 -> s2", "o0 a0 a1 -> s2", 0.5),
        row("frozenlake-6x6", "inverse_dynamics", "o0 o1 -> a0", 0.75),
    ],
    "split": "test",
    "model": "small",
    "seed": 1,
    "versions": {"vagen": "0"},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A run's folder with two checkpoints of different weights; not to be written to."""
    run = tmp_path_factory.mktemp("run")
    for step in (1, 2):
        model, processor = tiny.build(Tiny(**SMALL), [WORLD], step)
        form = ClozeFormat("grid", False, (WORLD,), ("state_estimation",))
        Policy("small", model, processor, form).save(run / "checkpoints" / f"step-00000{step}" / "model")
    return run


@pytest.fixture
def card(tmp_path) -> Path:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(CARD))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_export_is_the_newest_checkpoint_and_a_card(original, tmp_path):
    """Byte for byte: nothing is converted on the way, so nothing can change."""
    output = export(original, tmp_path / "export")
    model = contents(original / "checkpoints" / "step-000002" / "model")
    beside = {"README.md", "example-0.png"}
    assert model == {name: data for name, data in contents(output).items() if name not in beside}
    assert (output / "README.md").is_file()
    first = load_file(original / "checkpoints" / "step-000001" / "model" / "model.safetensors")
    exported = load_file(output / "model.safetensors")
    assert any(not torch.equal(exported[name], tensor) for name, tensor in first.items()), "the test proves nothing"


def test_exports_load_with_stock_transformers_and_export_again(original, tmp_path):
    output = export(original, tmp_path / "export")
    model = AutoModelForImageTextToText.from_pretrained(output)
    AutoProcessor.from_pretrained(output)
    weights = load_file(output / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    again = export(output, tmp_path / "again")
    assert load_file(again / "model.safetensors").keys() == weights.keys()
    assert contents(again)["model.safetensors"] == contents(output)["model.safetensors"]


def test_the_model_card_tells_the_hub_how_good_the_model_is(original, card, tmp_path):
    output = export(original, tmp_path / "my-model", card)
    loaded = ModelCard.load(output / "README.md")
    data = loaded.data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-text-to-text",
        "apache-2.0",
    )
    assert data.model_name == "my-model"
    assert len(data.eval_results) == len(CARD["rows"])
    for result, expected in zip(data.eval_results, CARD["rows"], strict=True):
        assert result.dataset_type == expected["world"]
        assert result.dataset_split == "test"
        assert expected["cloze"] in result.task_name
        assert expected["pattern"] in result.task_name
        assert result.metric_value == pytest.approx(expected["accuracy"], abs=5e-5)
        assert result.metric_type == "accuracy"
    for expected in CARD["rows"]:
        assert expected["world"] in loaded.text, "the text for people lacks a row"
        assert expected["cloze"] in loaded.text
    assert "Idefics3ForConditionalGeneration" in loaded.text
    assert json.loads((output / "report_card.json").read_text()) == CARD


@pytest.mark.parametrize("cloze", ["inverse_dynamics", "text_policy", "a0 a1 o2 -> s0"])
def test_the_example_of_a_model_card_asks_what_the_model_was_trained_with(original, tmp_path, monkeypatch, cloze):
    """Run as it stands, by a reader who knows nothing else; the answer must be right by the simulator."""
    model = tmp_path / "model"
    shutil.copytree(original / "checkpoints" / "step-000001" / "model", model)
    (model / "cloze_format.json").write_text(json.dumps(asdict(ClozeFormat("grid", True, ("gone", WORLD), (cloze,)))))
    monkeypatch.chdir(tmp_path)
    text = (export(model, Path("mine")) / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    spaces: dict = {}
    exec(code.replace("max_new_tokens=256", "max_new_tokens=2"), spaces)
    (sample,) = draw_samples(WORLD, cloze, named(cloze), 1, 0, "test", "grid")
    assert spaces["messages"] == conversation(sample, explain=True)
    frames = sample.world.render_states(sample.images) if sample.images else []
    assert len(spaces.get("images", [])) == len(frames)
    for image, frame in zip(spaces.get("images", []), frames, strict=True):
        assert (np.asarray(image) == frame).all()
    assert f"```text\n{sample.answer}\n```" in text
    assert cloze in text
    assert str(named(cloze)) in text


def test_a_model_of_unknown_worlds_and_clozes_has_a_card_without_pictures(original, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(original / "checkpoints" / "step-000001" / "model", model)
    (model / "cloze_format.json").write_text(json.dumps(asdict(ClozeFormat("grid", True, ("gone",), ("lost",)))))
    output = export(model, tmp_path / "mine")
    text = (output / "README.md").read_text()
    assert not list(output.glob("*.png"))
    assert "![" not in text
    assert "your own" in text
    assert "lost" in text


def test_a_model_card_has_calibration_and_the_f1_of_things(original, tmp_path):
    rows = [{**CARD["rows"][0], "calibration": {"ece": 0.0625, "bins": []}, "field_f1": {"agent": 0.75, "box": 1.0}}]
    (tmp_path / "card.json").write_text(json.dumps({**CARD, "rows": rows}))
    text = (export(original, tmp_path / "mine", tmp_path / "card.json") / "README.md").read_text()
    assert "| 0.062 | agent 0.750, box 1.000 |" in text


def test_permissions_are_those_of_any_new_file(original, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(original / "checkpoints" / "step-000001" / "model", source)
    (source / "model.safetensors").chmod(0o600)
    before = os.umask(0o027)
    try:
        output = export(source, tmp_path / "mine")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in output.iterdir()} == {"0o640"}
    assert oct((source / "model.safetensors").stat().st_mode & 0o777) == "0o600", "the source was changed"


def test_exporting_again_keeps_the_card_of_the_same_weights_and_says_when_it_drops_one(original, tmp_path, capsys):
    model = original / "checkpoints" / "step-000002" / "model"
    own = {**CARD, "weights": weights_digest(model)}
    (tmp_path / "own.json").write_text(json.dumps(own))
    output = export(original, tmp_path / "mine", tmp_path / "own.json")
    export(original, output, overwrite=True)
    assert json.loads((output / "report_card.json").read_text()) == own
    assert "World-model report card" in (output / "README.md").read_text()
    assert capsys.readouterr().err == ""
    export(original / "checkpoints" / "step-000001" / "model", output, overwrite=True)
    assert not (output / "report_card.json").exists()
    assert "is dropped: it is of other weights" in capsys.readouterr().err


def test_a_model_card_without_results_claims_none(original, tmp_path):
    loaded = ModelCard.load(export(original, tmp_path / "export") / "README.md")
    assert loaded.data.eval_results is None
    assert not (tmp_path / "export" / "report_card.json").exists()
    parameters = sum(t.numel() for t in load_file(tmp_path / "export" / "model.safetensors").values())
    assert f"{parameters:,}" in loaded.text or str(parameters) in loaded.text, "the size is missing or wrong"


def test_results_whose_names_are_awkward_in_yaml_survive(original, tmp_path):
    awkward = {**CARD, "rows": [row(WORLD, "a: b # c", "'\"{o0} -> s0", 0.5)]}
    (tmp_path / "card.json").write_text(json.dumps(awkward))
    loaded = ModelCard.load(export(original, tmp_path / "export", tmp_path / "card.json") / "README.md")
    assert "a: b # c" in loaded.data.eval_results[0].task_name


def test_an_earlier_export_is_replaced_whole(original, card, tmp_path):
    output = export(original, tmp_path / "export", card)
    (output / "left-over.txt").write_text("from before")
    export(original, output, overwrite=True)
    assert not (output / "left-over.txt").exists(), "files of the earlier export are left"
    assert not (output / "report_card.json").exists(), "results of the earlier export are claimed for this one"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "temporary folders are left"


@pytest.mark.parametrize("trouble", ["weights", "card", "disk"])
def test_an_export_that_fails_leaves_the_earlier_one_alone(original, card, tmp_path, monkeypatch, trouble):
    output = export(original, tmp_path / "export", card)
    before = contents(output)
    source = tmp_path / "source"
    shutil.copytree(original / "checkpoints" / "step-000001" / "model", source)
    error: type[Exception] = ModelError
    if trouble == "weights":
        weights = source / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif trouble == "card":
        card.write_text("{}")
    else:
        error = OSError

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(error):
        export(source, output, card, overwrite=True)
    assert contents(output) == before, "the earlier export was changed"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "temporary folders are left"


def test_weights_that_are_missing_or_pickled_are_refused(original, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(original / "checkpoints" / "step-000001" / "model", source)
    (source / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        export(source, tmp_path / "export")
    torch.save({}, source / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        export(source, tmp_path / "export")
    assert not (tmp_path / "export").exists()

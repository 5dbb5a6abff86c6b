"""The training loop in one process, against a loop of torch alone; and what it leaves behind."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor

from vagen.config import Config, ConfigError, load
from vagen.data.stream import ClozeStream
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.errors import ModelError
from vagen.policy.packing import PackedLoss
from vagen.policy.policy import load as load_policy
from vagen.train import cloze as loop
from vagen.train.run import latest_model, micro_batches
from vagen.train.stopwatch import PHASES

DECLARED = {
    "step",
    "loss",
    "grad_norm",
    "lr",
    "seconds_per_step",
    "processor_seconds",
    "clozes_per_second",
    "tokens_per_second",
    "supervised_tokens_per_second",
    "padding",
    "sharing",
    "sharing_bound",
    *(f"seconds/{phase}" for phase in PHASES),
}


@pytest.fixture(scope="module")
def baseline(run) -> Path:
    """A run of 20 steps with checkpoints after 10 and 20; not to be written to."""
    return run()


# ---------------------------------------------------------------------------------------------------- the same numbers


def test_losses_and_gradients_are_those_of_plain_torch(baseline, reference, read_metrics, assert_same_losses):
    """Which covers: weights and their global normalisation, accumulation, clipping, AdamW, decay groups, schedule."""
    records = read_metrics(baseline)
    assert_same_losses(records, reference, 2e-5, "one process, ZeRO 0")
    norms = np.array([record["grad_norm"] for record in records])
    np.testing.assert_allclose(norms, reference.norms, rtol=1e-3, err_msg="gradient norms differ")


@pytest.mark.parametrize("micro_rows", [1, 4])
def test_accumulation_changes_nothing(run, reference, read_metrics, assert_same_losses, micro_rows):
    records = read_metrics(run(train={"micro_rows": micro_rows}))
    assert_same_losses(records, reference, 2e-5, f"{micro_rows} rows per forward pass")
    np.testing.assert_allclose([r["grad_norm"] for r in records], reference.norms, rtol=1e-3)


@pytest.mark.parametrize("changes", [{"row_tokens": 260, "micro_rows": 1}, {"row_tokens": 900, "micro_rows": 2}])
def test_planned_rows_change_nothing(run, reference, read_metrics, assert_same_losses, changes):
    """Groups divided over many short rows, and several in one: another number of forward passes in each step."""
    records = read_metrics(run(train=changes))
    assert_same_losses(records, reference, 2e-5, f"rows of {changes['row_tokens']} tokens")
    np.testing.assert_allclose([r["grad_norm"] for r in records], reference.norms, rtol=1e-3)


def test_a_history_trains_as_plain_torch_does(run, by_hand, values, tmp_path, read_metrics, assert_same_losses):
    changes = {"clozes": {"history": 2}, "train": {"steps": 4, "row_tokens": 1200, "micro_rows": 1}}
    expected = by_hand(Config.model_validate(values(tmp_path, **changes)))
    output = run(**changes)
    assert_same_losses(read_metrics(output), expected, 2e-5, "clozes after a history")
    assert load_policy(str(latest_model(output))).format.history == 2, "evaluation would ask without"


def test_gradients_are_clipped(run, by_hand, values, tmp_path, read_metrics, reference, assert_same_losses):
    """So hard that Adam, which does not care about the size of gradients, comes to a halt: its epsilon rules."""
    changes = {"optimizer": {"clip": 1e-7}, "train": {"steps": 8}}
    expected = by_hand(Config.model_validate(values(tmp_path, **changes)))
    assert abs(expected.losses[-1] - reference.losses[7]) > 0.1, "the test cannot tell clipping from none"
    assert_same_losses(read_metrics(run(**changes)), expected, 2e-5, "clipped gradients")


@pytest.mark.parametrize("workers", [1, 2])
def test_loading_processes_change_nothing(run, reference, read_metrics, assert_same_losses, workers):
    assert_same_losses(read_metrics(run(train={"workers": workers})), reference, 2e-5, f"{workers} loading processes")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cloze_too_long_for_a_row_is_one_line_whoever_packs_it(run, workers):
    with pytest.raises(ModelError, match=r"\Aa cloze of \d+ tokens is too long for a row of .*=20; .* images\Z"):
        run(train={"row_tokens": 20, "micro_rows": 1, "workers": workers})


def test_loading_processes_can_be_spawned(baseline, reference):
    """As they are on macOS, and by default from Python 3.14 on: what they work with must survive pickling."""
    config = load(baseline / "config.yaml")
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture)
    cells = [(world, cloze) for world in stream.worlds for cloze in stream.patterns]
    ids = np.ones(len(reference.policy.processor.tokenizer))
    steps = loop._Steps(stream, Batcher(Chat(reference.policy), ids, cells), config, 0, 1, 0)
    (first, *_), (again, *_) = next(iter(steps)), next(iter(pickle.loads(pickle.dumps(steps))))
    assert torch.equal(first.ids, again.ids)


def test_losses_of_cells_are_plain_means_over_their_tokens(baseline, reference, read_metrics):
    for record, sums in zip(read_metrics(baseline), reference.cells, strict=True):
        for (world, cloze), (loss, tokens) in sums.items():
            assert record[f"loss/{world}/{cloze}"] == pytest.approx(loss / tokens, abs=1e-4), f"{world} {cloze}"
        cells = {key for key in record if key.startswith("loss/")}
        assert cells == {f"loss/{world}/{cloze}" for world, cloze in sums}, "cells without tokens must be absent"


def test_an_interval_reports_the_mean_over_its_steps(run, reference, read_metrics):
    """Steps 1-8 and 9-16, and the rest at the end although 20 is no multiple of 8."""
    records = read_metrics(run(train={"log_every": 8}))
    assert [record["step"] for record in records] == [8, 16, 20]
    for record, (first, last) in zip(records, [(0, 8), (8, 16), (16, 20)], strict=True):
        assert record["loss"] == pytest.approx(np.mean(reference.losses[first:last]), abs=2e-5)
        assert record["grad_norm"] == pytest.approx(reference.norms[last - 1], rel=1e-3)


def test_the_loss_of_a_step_by_hand_from_its_checkpoint(baseline, read_metrics):
    """The weights saved after step 10 give the loss reported for step 11, as a weighted mean over all its tokens."""
    config = load(baseline / "config.yaml")
    policy = load_policy(str(baseline / "checkpoints" / "step-000010" / "model"))
    policy = replace(policy, model=policy.model.train())
    chat = Chat(policy)
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture)
    cells = [(world, cloze) for world in stream.worlds for cloze in stream.patterns]
    ids = answer_weights(chat, stream, config.train.balance)
    batch = Batcher(chat, ids, cells).batch([stream.group(10 * config.train.rows + n) for n in range(4)])
    with torch.no_grad():
        losses = PackedLoss(policy.model)(batch).double()
    cloze_weights = torch.tensor([config.clozes.weights[cells[cell][1]] for cell in batch.cells.tolist()])
    weights = cloze_weights.double() * torch.from_numpy(ids)[batch.targets]
    expected = float((losses * weights).sum() / weights.sum())
    assert len({len(stream.group(40 + n).samples) for n in range(4)}) > 1, "rows are alike: counts are not tested"
    assert read_metrics(baseline)[10]["loss"] == pytest.approx(expected, abs=1e-5)


def test_the_learning_rate_goes_up_stays_and_comes_down(baseline, read_metrics):
    """By hand: 2e-3 at the peak; 5 steps up from a tenth, level, the last 6 of 20 down to it. Logged once stepped."""
    rates = [record["lr"] / 2e-3 for record in read_metrics(baseline)]
    assert rates[:4] == pytest.approx([0.28, 0.46, 0.64, 0.82])
    assert rates[4:14] == pytest.approx([1.0] * 10)
    cosine = [0.1 + 0.9 * (1 + np.cos(np.pi * k / 6)) / 2 for k in range(1, 7)]
    assert rates[14:] == pytest.approx(cosine)
    assert rates[-1] == pytest.approx(0.1)


# -------------------------------------------------------------------------------------------------------- what is left


def test_metrics_have_the_declared_keys(baseline, read_metrics):
    records = read_metrics(baseline)
    assert [record["step"] for record in records] == list(range(1, 21))
    for record in records:
        assert {key for key in record if not key.startswith("loss/")} == DECLARED
        assert all(isinstance(value, (int, float)) and np.isfinite(value) for value in record.values())
        assert record["sharing"] > 1.3, "packing saves less than it should"
        assert record["sharing_bound"] > 1.3
        assert 0 <= record["padding"] < 0.5
        assert all(record[f"seconds/{phase}"] > 0 for phase in ("data", "vision", "language", "backward", "optimizer"))
        assert record["seconds_per_step"] > 0
        assert record["processor_seconds"] > 0
        assert record["tokens_per_second"] > record["supervised_tokens_per_second"] > record["clozes_per_second"] > 0


def test_the_saved_configuration_is_the_one_that_was_run(baseline, values):
    saved = load(baseline / "config.yaml")
    assert saved == Config.model_validate(values(baseline))
    assert saved.model_dump(mode="json") == yaml.safe_load((baseline / "config.yaml").read_text())


def test_checkpoints_load_with_stock_transformers(baseline, reference):
    """And hold the weights that 20 steps of plain torch lead to."""
    folder = latest_model(baseline)
    assert folder.parent.name == "step-000020"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    expected = reference.policy.model.state_dict()
    actual = model.state_dict()
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=3e-3, msg=f"{name} is not what was trained")
    moved = sum(float((actual[name] - tensor).norm()) for name, tensor in model_at_start(reference).items())
    assert moved > 1, "the checkpoint holds the initial weights"


def model_at_start(reference):
    from vagen.config import Tiny
    from vagen.policy import tiny

    form = reference.policy.format
    sizes = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
    return tiny.build(Tiny(**sizes), form.worlds, 5)[0].state_dict()


def test_only_the_newest_checkpoints_are_kept(run):
    output = run(train={"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 2})
    names = sorted(path.name for path in (output / "checkpoints").glob("step-*"))
    assert names == ["step-000004", "step-000006"]


def test_a_new_run_in_the_same_folder_starts_afresh(run, read_metrics):
    output = run(train={"steps": 4, "checkpoint_every": 2})
    first = read_metrics(output)
    run("overwrite", output, train={"steps": 3, "checkpoint_every": 3})
    assert [record["step"] for record in read_metrics(output)] == [1, 2, 3], "metrics of the earlier run are left"
    assert latest_model(output).parent.name == "step-000003", "a checkpoint of the earlier run is left"
    assert read_metrics(output)[0]["loss"] == pytest.approx(first[0]["loss"], abs=1e-6)


def test_a_tiny_model_learns(run, read_metrics):
    """One world, few trajectories, 60 steps: losses must fall well below where they began."""
    records = read_metrics(
        run(
            optimizer={"lr": 5e-3, "clip": 1.0},
            train={"steps": 60, "checkpoint_every": 60},
            clozes={"weights": {"state_estimation": 1.0, "forward_dynamics": 1.0}},
        )
    )
    first, last = (np.mean([record["loss"] for record in part]) for part in (records[:5], records[-5:]))
    assert last < 0.6 * first, f"the loss went from {first:.2f} to {last:.2f} only"


def test_half_precision_trains_alike(run, reference, read_metrics):
    records = read_metrics(run(train={"precision": "bf16", "steps": 3}))
    np.testing.assert_allclose([record["loss"] for record in records], reference.losses[:3], rtol=0.02)
    np.testing.assert_allclose([record["grad_norm"] for record in records], reference.norms[:3], rtol=0.1)


def test_qwen_trains_as_plain_torch_does(run, by_hand, values, tmp_path, read_metrics, assert_same_losses):
    changes = {
        "model": {"tiny": {**values(tmp_path)["model"]["tiny"], "architecture": "qwen3_vl"}},
        "train": {"steps": 5},
    }
    expected = by_hand(Config.model_validate(values(tmp_path, **changes)))
    assert_same_losses(read_metrics(run(**changes)), expected, 2e-5, "Qwen3-VL")


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def interrupted(baseline, tmp_path) -> Path:
    """The baseline as if it had been stopped between the checkpoints of steps 10 and 20, at step 15."""
    output = tmp_path / "interrupted"
    shutil.copytree(baseline, output)
    shutil.rmtree(output / "checkpoints" / "step-000020")
    (output / "checkpoints" / "latest").write_text("step-000010")
    lines = (output / "metrics.jsonl").read_text().splitlines(keepends=True)
    (output / "metrics.jsonl").write_text("".join(lines[:15]))
    return output


def test_a_resumed_run_repeats_the_uninterrupted_one(interrupted, run, baseline, read_metrics, assert_same_losses):
    run(start="resume", output=interrupted)
    resumed, whole = read_metrics(interrupted)[-10:], read_metrics(baseline)[10:]
    assert [record["step"] for record in resumed] == list(range(11, 21))
    assert_same_losses(resumed, [record["loss"] for record in whole], 1e-6, "steps 11 to 20 after --resume")
    for one, other in zip(resumed, whole, strict=True):
        assert one["lr"] == pytest.approx(other["lr"]), "the schedule did not go on where it was"
    assert latest_model(interrupted).parent.name == "step-000020"


def test_a_resumed_run_reports_every_step_once(interrupted, run, read_metrics):
    run(start="resume", output=interrupted)
    assert [record["step"] for record in read_metrics(interrupted)] == list(range(1, 21))


def test_resuming_a_finished_run_does_nothing(run, baseline, tmp_path, read_metrics):
    output = tmp_path / "finished"
    shutil.copytree(baseline, output)
    run(start="resume", output=output)
    assert read_metrics(output) == read_metrics(baseline)
    assert latest_model(output).parent.name == "step-000020"


def test_a_finished_run_is_not_trained_over_unasked(run, baseline, read_metrics):
    """Hours of training must not be lost to a command that was given twice."""
    before = read_metrics(baseline)
    with pytest.raises(ConfigError, match=r"already holds a run: .*--resume.*--overwrite"):
        run(output=baseline)
    assert read_metrics(baseline) == before
    assert latest_model(baseline).parent.name == "step-000020"


def test_a_half_written_checkpoint_is_not_taken_for_the_newest(baseline, tmp_path):
    """A run that is killed while it saves leaves the engine's files, and at most a part of the model."""
    output = tmp_path / "killed"
    shutil.copytree(baseline / "checkpoints" / "step-000010", output / "checkpoints" / "step-000010")
    half = output / "checkpoints" / "step-000020" / ".model.123.part"
    half.mkdir(parents=True)
    shutil.copyfile(latest_model(baseline) / "config.json", half / "config.json")
    assert latest_model(output).parent.name == "step-000010"


@pytest.mark.parametrize("trouble", ["model", "processor"])
def test_a_model_folder_appears_whole_or_not_at_all(reference, tmp_path, monkeypatch, trouble):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(getattr(reference.policy, trouble)), "save_pretrained", full)
    with pytest.raises(OSError, match="space"):
        reference.policy.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ awkward inputs


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param({"text_forward_dynamics": 1.0}, id="text only"),
        pytest.param({"rollout": 1.0}, id="rollout"),
        pytest.param({"plan_inference": 1.0, "text_inverse_dynamics": 1.0}, id="plans and text"),
        pytest.param({"policy": 1.0}, id="policy"),
        pytest.param({"o1 a1 -> s2": 1.0}, id="later"),
    ],
)
def test_any_choice_of_clozes_trains(run, read_metrics, weights):
    """Windows may be too short for a cloze, or nothing may be left to do: then a row has fewer clozes, or none."""
    records = read_metrics(run(clozes={"weights": weights}, train={"steps": 6}))
    assert len(records) == 6
    assert all(np.isfinite(record["loss"]) for record in records)


def test_rows_must_divide_evenly(values, tmp_path):
    train = Config.model_validate(values(tmp_path, train={"rows": 6, "micro_rows": 4})).train
    with pytest.raises(ConfigError, match=r"train\.rows=6 .* train\.micro_rows=4"):
        micro_batches(train, 1)
    assert micro_batches(train.model_copy(update={"rows": 16}), 2) == 2

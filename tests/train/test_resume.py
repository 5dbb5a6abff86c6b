"""Runs that are killed, stopped, changed or tampered with: they go on bit for bit, or are refused."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from vagen.config import Collect, Config, ConfigError, load
from vagen.data.shards import read_manifest
from vagen.rollout.collect import collect
from vagen.train import checkpoints as module
from vagen.train import cloze as loop
from vagen.train.checkpoints import Checkpoints, random_states, restore_random_states, seed_random
from vagen.train.run import begin, changed_keys, held, known_id, prepare

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow


def losses_of(run: Path) -> list[tuple[int, float]]:
    """Every reported step with its loss, as the digits in the file have it."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records]


def without_launcher() -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in names}


OFFLOAD = {"optimizer": True, "parameters": True}
SHORT = {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 3}


@pytest.fixture(scope="module")
def whole(run) -> Path:
    """A run of 6 steps with checkpoints after 2, 4 and 6; not to be written to."""
    return run(train=SHORT)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# ----------------------------------------------------------------------------------------------------- bit for bit


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="ZeRO 0"),
        pytest.param({"train": {"zero_stage": 1}}, id="ZeRO 1", marks=slow),
        pytest.param({"train": {"zero_stage": 2}}, id="ZeRO 2", marks=slow),
        pytest.param({"train": {"zero_stage": 3}}, id="ZeRO 3"),
        pytest.param({"train": {"zero_stage": 3, "offload": OFFLOAD}}, id="offload", marks=slow),
        pytest.param({"train": {"precision": "bf16", "zero_stage": 2}}, id="bf16", marks=slow),
        pytest.param({"optimizer": {"name": "muon"}}, id="Muon", marks=slow),
        pytest.param({"optimizer": {"name": "muon"}, "train": {"zero_stage": 2}}, id="Muon, ZeRO 2", marks=slow),
        pytest.param({"optimizer": {"name": "muon"}, "train": {"zero_stage": 3}}, id="Muon, ZeRO 3", marks=slow),
        pytest.param({"train": {"workers": 2}}, id="workers", marks=slow),
    ],
)
def test_a_resumed_run_has_the_losses_of_one_that_was_never_stopped(run, whole, tmp_path, changes):
    settings = {**changes, "train": {**SHORT, **changes.get("train", {})}}
    expected = run(**settings) if changes else whole
    output = Path(shutil.copytree(expected, tmp_path / "stopped"))
    for step in (4, 6):
        shutil.rmtree(output / "checkpoints" / f"step-{step:06d}")
    run("resume", output, **settings)
    assert losses_of(output) == losses_of(expected), "not bit for bit"
    models = [folder / "checkpoints" / "step-000006" / "model" / "model.safetensors" for folder in (output, expected)]
    assert models[0].read_bytes() == models[1].read_bytes(), "the models differ"


def test_sources_of_random_numbers_go_on_where_they_were():
    seed_random(3)
    random.gauss(0, 1), np.random.standard_normal(), torch.rand(2)
    states = random_states()
    expected = random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()
    seed_random(4)
    restore_random_states(states)
    assert (random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()) == expected


def test_dropout_goes_on_where_it_was(run, tmp_path, monkeypatch):
    """A model that drops out: were the random numbers not restored, losses would part right after resuming."""
    create = loop.create

    def dropping(*arguments):
        policy = create(*arguments)
        for layer in policy.model.model.text_model.layers:
            layer.mlp = torch.nn.Sequential(layer.mlp, torch.nn.Dropout(0.3))
        monkeypatch.setattr(policy.model, "save_pretrained", lambda folder, **_: (folder / "config.json").touch())
        return policy

    monkeypatch.setattr(loop, "create", dropping)
    expected = run(train=SHORT)
    output = Path(shutil.copytree(expected, tmp_path / "stopped"))
    shutil.rmtree(output / "checkpoints" / "step-000006")
    run("resume", output, train=SHORT)
    assert losses_of(output) == losses_of(expected)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(run, whole, copy):
    shutil.rmtree(copy / "checkpoints")
    run("resume", copy, train=SHORT)
    assert losses_of(copy) == losses_of(whole)


# -------------------------------------------------------------------------------------------------------------- killed


class Command:
    """``vagen ARGUMENTS`` as a program of its own."""

    def __init__(self, arguments: list[str]):
        command = [sys.executable, "-m", "vagen.cli", *arguments]
        environment = {**without_launcher(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> None:
        self._process.communicate(timeout=300)


@pytest.mark.parametrize(
    ("start", "kills", "steps", "workers"),
    [
        pytest.param(None, 3, 40, 0, id="3 kills"),
        pytest.param(Command, 32, 300, 1, id="32 kills of the real command", marks=slow),
    ],
)
def test_killed_runs_go_on_as_if_nothing_had_happened(script, values, tmp_path, start, kills, steps, workers):
    """By ``start``, or forked from a process that has made the imports."""
    start = start or script("kills").Fork
    train = {"steps": steps, "checkpoint_every": 3, "rows": 2, "micro_rows": 1, "workers": workers}
    configs = {}
    for name in ("whole", "killed"):
        configs[name] = tmp_path / f"{name}.yaml"
        configs[name].write_text(yaml.safe_dump(values(tmp_path / name, train=train)))
    with mock.patch.dict(os.environ, without_launcher(), clear=True):
        uninterrupted = start(["train", "--config", str(configs["whole"])])
        uninterrupted.wait()
    run = tmp_path / "killed"
    with mock.patch.dict(os.environ, without_launcher(), clear=True):
        made = script("kills").kill_often(start, configs["killed"], run, kills, random.Random(steps))
    killed = Counter(kill.moment for kill in made)
    gone_on_from = {kill.checkpoint for kill in made}
    assert killed["checkpoint"] >= kills // 4, f"too few kills came while a checkpoint was written: {killed}"
    assert len(gone_on_from - {0}) >= kills // 3, "the kills came all at the same place"
    assert [step for step, _ in losses_of(run)] == list(range(1, steps + 1))
    assert losses_of(run) == losses_of(tmp_path / "whole"), "not bit for bit"
    assert not list(run.glob("checkpoints/.*.part")), "what a killed process left is not cleaned up"
    assert len(list(run.glob("checkpoints/step-*"))) == 2


@pytest.mark.parametrize(
    ("number", "processes"),
    [
        pytest.param(signal.SIGTERM, 2, id="SIGTERM, two processes"),
        pytest.param(signal.SIGINT, 1, id="SIGINT", marks=slow),
        pytest.param(signal.SIGTERM, 1, id="SIGTERM", marks=slow),
    ],
)
def test_a_signal_stops_with_a_checkpoint(values, tmp_path, number, processes):
    """Which is sent to one process only, as a scheduler does; loading processes are there too."""
    config = tmp_path / "config.yaml"
    train = {"steps": 4000, "checkpoint_every": 4000, "zero_stage": 2, "workers": 1}
    config.write_text(yaml.safe_dump(values(tmp_path / "out", train=train)))
    command = [sys.executable, "-m", "vagen.cli", "train", "--config", str(config), "--processes", str(processes)]
    environment = {**without_launcher(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert f"vagen: stopped by {number.name} after step " in err
    assert "--resume" in err
    assert out == "", "a path was printed as if the training were over"
    step = losses_of(tmp_path / "out")[-1][0]
    (checkpoint,) = (tmp_path / "out" / "checkpoints").glob("step-*")
    assert checkpoint.name == f"step-{step:06d}"
    assert json.loads((checkpoint / "manifest.json").read_text())["processes"] == processes


# ------------------------------------------------------------------------------------------------- changed or tampered


def refused(copy: Path, values, complaint: str, **changes) -> None:
    """Going on is refused, with a message that says why."""
    before = sorted(copy.rglob("*"))
    with pytest.raises(ConfigError, match=complaint):
        loop.train(Config.model_validate(values(copy, **changes)), "resume")
    assert sorted(path for path in copy.rglob("*") if path.name != ".lock") == [p for p in before if p.name != ".lock"]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"seed": 6}, ["seed"]),
        ({"optimizer": {"lr": 1e-3, "betas": [0.9, 0.99]}}, ["optimizer.lr", "optimizer.betas"]),
        ({"train": {**SHORT, "steps": 7}}, ["train.steps"]),
        ({"train": {**SHORT, "zero_stage": 1, "rows": 8}}, ["train.rows", "train.zero_stage"]),
        ({"clozes": {"weights": {"state_estimation": 2.0}}}, ["clozes.weights.state_estimation"]),
    ],
)
def test_a_changed_configuration_is_refused_and_every_key_named(copy, values, changes, keys):
    settings = {"train": SHORT, **changes}
    before = load(copy / "config.yaml")
    found = changed_keys(before, Config.model_validate(values(copy, **settings)))
    assert set(keys) <= set(found)
    with pytest.raises(ConfigError) as caught:
        prepare(Config.model_validate(values(copy, **settings)), 1, "resume")
    assert all(key in str(caught.value) for key in found)
    assert (copy / "config.yaml").read_text() == (copy / "config.yaml").read_text()


def test_what_does_not_touch_the_losses_may_change(copy, values, run, whole):
    shutil.rmtree(copy / "checkpoints" / "step-000006")
    changes = {"log_every": 2, "checkpoint_every": 100, "keep_checkpoints": 1, "workers": 1, "prefetch": 3}
    run("resume", copy, train={**SHORT, **changes}, evaluate={"n": 7})
    assert losses_of(copy)[-1][0] == 6
    assert [path.name for path in copy.glob("checkpoints/step-*")] == ["step-000006"]
    assert load(copy / "config.yaml").train.log_every == 2, "the saved configuration is not the one that was run"


@pytest.fixture
def begun(values, data, tmp_path) -> Config:
    """A run that has begun, with data of its own."""
    for number, folder in enumerate(data):
        shutil.copytree(folder, tmp_path / f"shards-{number}")
    config = Config.model_validate(values(tmp_path / "out", shards=[str(tmp_path / "shards-*")]))
    stream = prepare(config, 1, "new")
    begin(config, stream.digests)
    return config


def test_shards_that_have_changed_are_refused_and_named(begun, tmp_path):
    prepare(begun, 1, "resume")
    manifest = read_manifest(tmp_path / "shards-1")
    again = Collect(worlds=(manifest.world,), episodes=24, max_steps=6, shard_size=10)
    (folder,) = collect(again, tmp_path / "again", manifest.seed)
    shutil.rmtree(tmp_path / "shards-1")
    folder.rename(tmp_path / "shards-1")
    prepare(begun, 1, "resume")  # the same data, made again
    (folder,) = collect(again, tmp_path / "again", manifest.seed + 1)
    shutil.rmtree(tmp_path / "shards-1")
    folder.rename(tmp_path / "shards-1")
    with pytest.raises(ConfigError, match=f"changed since: {tmp_path}/shards-1; bring them back"):
        prepare(begun, 1, "resume")


def test_shards_that_a_glob_finds_more_or_fewer_of_are_refused(begun, tmp_path):
    shutil.copytree(tmp_path / "shards-1", tmp_path / "shards-3")
    with pytest.raises(ConfigError, match=f"changed since: {tmp_path}/shards-3; "):
        prepare(begun, 1, "resume")
    for number in (0, 3):
        shutil.rmtree(tmp_path / f"shards-{number}")
    with pytest.raises(ConfigError, match=f"changed since: {tmp_path}/shards-0; "):
        prepare(begun, 1, "resume")


def test_a_resumed_run_says_where_it_goes_on(copy, run, capsys):
    shutil.rmtree(copy / "checkpoints" / "step-000006")
    run("resume", copy, train=SHORT)
    said = capsys.readouterr().err
    assert f"vagen: {copy} goes on after step 4 of 6" in said
    assert "vagen: asks about sokoban-6x6: changes agent" in said
    run("resume", copy, train=SHORT)
    assert f"vagen: {copy} is complete: it has made all 6 steps" in capsys.readouterr().err


NEWEST = "checkpoints/step-000006"


def _other_run(copy: Path) -> None:
    path = copy / NEWEST / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": "0" * 32}))


def _linked(copy: Path) -> None:
    shutil.move(copy / NEWEST, copy.parent / "elsewhere")
    (copy / NEWEST).symlink_to(copy.parent / "elsewhere")


def _linked_file(copy: Path) -> None:
    shutil.move(copy / NEWEST / "mp_rank_00_model_states.pt", copy.parent / "elsewhere.pt")
    (copy / NEWEST / "mp_rank_00_model_states.pt").symlink_to(copy.parent / "elsewhere.pt")


def _added(copy: Path) -> None:
    (copy / NEWEST / "zero_pp_rank_7_mp_rank_00_optim_states.pt").write_bytes(b"code")


def _shortened(copy: Path) -> None:
    path = copy / NEWEST / "mp_rank_00_model_states.pt"
    path.write_bytes(path.read_bytes()[:-1])


def _renamed(copy: Path) -> None:
    (copy / NEWEST).rename(copy / "checkpoints" / "step-000016")


def _no_id(copy: Path) -> None:
    (copy / "run.json").write_text("{}")


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (_other_run, "belongs to another run"),
        (_linked, "is a link"),
        (_linked_file, "no plain file"),
        (_added, "not in the manifest"),
        (_shortened, "another size"),
        (_renamed, "under another name"),
        (_no_id, r"run\.json cannot be read"),
        (lambda copy: (copy / NEWEST / "random-00000.json").unlink(), "is missing"),
        (lambda copy: (copy / NEWEST / "manifest.json").write_text("{"), "cannot be read"),
    ],
)
def test_checkpoints_that_are_not_as_this_run_wrote_them_are_refused(copy, values, monkeypatch, tamper, complaint):
    monkeypatch.setattr(loop.Engine, "load", lambda *_: pytest.fail("it was loaded"))
    tamper(copy)
    refused(copy, values, complaint, train=SHORT)


def test_a_checkpoint_without_manifest_counts_for_nothing(run, whole, copy):
    """As one of another program, or copied in part, would be."""
    (copy / NEWEST / "manifest.json").unlink()
    (copy / "checkpoints" / "step-000099").mkdir()
    run("resume", copy, train=SHORT)
    assert losses_of(copy) == losses_of(whole)
    kept = sorted(path.parent.name for path in copy.glob("checkpoints/step-*/manifest.json"))
    assert kept == ["step-000002", "step-000004", "step-000006"], "one that counts for nothing displaced another"


def test_nothing_old_is_removed_before_the_new_is_whole(run, values, copy, monkeypatch):
    shutil.rmtree(copy / NEWEST)
    old = {path.name for path in (copy / "checkpoints").glob("step-*")}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_to_disk", full)
    with pytest.raises(OSError, match="space"):
        run("resume", copy, train={**SHORT, "keep_checkpoints": 1})
    assert {path.name for path in (copy / "checkpoints").glob("step-*")} == old
    assert (copy / "checkpoints" / "latest").read_text() == "step-000006", "it names what was there when it was copied"


def test_muon_states_are_not_spread_over_another_number_of_processes(run, tmp_path):
    output = run(train={**SHORT, "steps": 2, "zero_stage": 1}, optimizer={"name": "muon"})
    checkpoints = Checkpoints(output, known_id(output), 0, 3)
    manifest = checkpoints.newest()
    assert manifest is not None
    assert checkpoints.spread_otherwise(manifest)
    with pytest.raises(ConfigError, match="cannot be spread over another number of processes"):
        checkpoints.load(mock.Mock(), manifest)
    assert not Checkpoints(output, known_id(output), 0, 1).spread_otherwise(manifest)


def test_two_trainings_do_not_write_to_one_folder(tmp_path):
    with held(tmp_path):
        if (child := os.fork()) == 0:
            try:
                held(tmp_path).__enter__()
            except ConfigError as error:
                os._exit(7 if "another training is writing to" in str(error) else 8)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_manifest_says_where_the_data_goes_on(whole):
    manifest = json.loads((whole / NEWEST / "manifest.json").read_text())
    assert (manifest["step"], manifest["rows"], manifest["processes"], manifest["zero_stage"]) == (6, 24, 1, 0)
    assert math.prod(manifest["files"].values()) > 0

"""Where metrics go, and what is said about the machine and the code."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vagen.config import Config, ConfigError
from vagen.train import environment
from vagen.train.metrics import Metrics
from vagen.train.reporters import check_installed, start_reporters
from vagen.train.run import prepare
from vagen.train.stopwatch import PHASES, Stopwatch


@pytest.fixture
def tracker(monkeypatch):
    """``tracker(name)``: a module of this name that writes down what it is told."""

    def install(name: str) -> list:
        calls: list = []
        fake = ModuleType(name)
        fake.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        fake.init = lambda **settings: calls.append(("init", settings))  # type: ignore[attr-defined]
        fake.log = lambda values, step: calls.append(("log", values, step))  # type: ignore[attr-defined]
        fake.finish = lambda: calls.append(("finish",))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, fake)
        return calls

    return install


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_every_report(values, tmp_path, tracker, name):
    calls = tracker(name)
    config = Config.model_validate(values(tmp_path / "out", train={"report_to": name, "project": "worlds"}))
    (tmp_path / "out").mkdir()
    with Metrics(tmp_path / "out", 0, 10, start_reporters(config, "0123456789abcdef", 0)) as metrics:
        metrics.report(5, {"loss": 1.5, "eval/accuracy": 0.25})
    (_, settings), *rest = calls
    assert settings["project"] == "worlds"
    assert settings["resume"] == "allow", "a run that goes on must not become another one"
    assert settings["config"]["train"]["project"] == "worlds"
    assert "0123456789abcdef" in settings.values() or settings["name"] == "out-01234567"
    assert rest == [("log", {"loss": 1.5, "eval/accuracy": 0.25}, 5), ("finish",)]
    assert json.loads((tmp_path / "out" / "metrics.jsonl").read_text())["eval/accuracy"] == 0.25


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_that_are_not_installed_are_refused(values, tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    config = Config.model_validate(values(tmp_path / "out", train={"report_to": ["tensorboard", name]}))
    with pytest.raises(
        ConfigError, match=rf"names {name}, which is not installed: pip install 'vagen-cloze\[{name}\]'"
    ):
        prepare(config, 1, "new")
    assert not (tmp_path / "out").exists()
    check_installed(["tensorboard"])


def test_nothing_but_the_file_is_written_where_nothing_is_wanted(values, tmp_path):
    config = Config.model_validate(values(tmp_path, train={"report_to": []}))
    assert start_reporters(config, "0", 0) == []


def test_a_step_without_anything_to_learn_from_shows_no_number_as_its_loss(tmp_path, capsys):
    for loss, shown in ((1.5, "loss 1.5000"), (None, "loss –")):
        with Metrics(tmp_path, 0, 1, []) as metrics:
            metrics.advance(loss)
        assert shown in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- environment


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_state_of_a_checkout(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("one = 1\n")
    assert environment.checkout(package) is None, "there is no repository"
    git(tmp_path, "init", "-q")
    assert environment.checkout(package) is None, "a repository that does not track the package says nothing about it"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = environment.checkout(package)
    assert clean == environment.Checkout(git(tmp_path, "rev-parse", "HEAD"), False, None)
    (package / "__init__.py").write_text("one = 2\n")
    dirty = environment.checkout(package)
    assert dirty is not None
    assert (dirty.commit, dirty.dirty) == (clean.commit, True)
    (package / "__init__.py").write_text("one = 3\n")
    other = environment.checkout(package)
    assert other is not None
    assert other.diff != dirty.diff, "different changes look the same"


def test_every_start_of_a_run_is_recorded(tmp_path):
    environment.record(tmp_path, 0, 1)
    environment.record(tmp_path, 40, 2)
    first, second = json.loads((tmp_path / "environment.json").read_text())
    assert ((first["step"], first["processes"]), (second["step"], second["processes"])) == ((0, 1), (40, 2))
    assert first["versions"]["torch"] == torch.__version__
    assert {"python", "vagen", "transformers", "deepspeed"} <= first["versions"].keys()
    assert first["cpu"]
    assert first["cores"] >= 1
    assert first["memory_bytes"] > 2**28


# ----------------------------------------------------------------------------------------------------------- stopwatch


def test_a_stopwatch_settles_before_it_looks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def settle():
        now[0] += 2.0  # the device was still at work

    watch = Stopwatch(settle)
    for name in ("language", "language", "backward"):
        with watch.phase(name):
            now[0] += 1.0
    taken = watch.take()
    assert taken == {**dict.fromkeys(PHASES, 0.0), "language": 6.0, "backward": 3.0}
    assert watch.take() == dict.fromkeys(PHASES, 0.0)


def test_a_phase_within_another_has_its_time_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    watch = Stopwatch()
    spend(100.0)
    with watch.phase("language"):
        spend(1.0)
        with watch.phase("vision"):
            spend(10.0)
        spend(2.0)
    spend(100.0)
    assert watch.take() == {**dict.fromkeys(PHASES, 0.0), "language": 3.0, "vision": 10.0}

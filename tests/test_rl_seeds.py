"""Reinforcement with several seeds: each run is compared with its own warm-up, and none is trained twice."""

import importlib
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.reinforcement import TINY as REINFORCEMENT

ROOT = Path(__file__).parents[1]
TINY = REINFORCEMENT | {"train": REINFORCEMENT["train"] | {"log_every": 1}}


@pytest.fixture
def rl_seeds(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("rl_seeds")


def written(folder: Path, settings: dict) -> Path:
    path = folder / "lake.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_runs_are_trained_once_measured_on_the_test_split_and_drawn(rl_seeds, tmp_path, monkeypatch):
    config, output = written(tmp_path, TINY), tmp_path / "runs"
    command = ["--configs", str(config), "--output", str(output), "--seeds", "0", "1", "--n", "6"]
    assert rl_seeds.main(command) == 0
    monkeypatch.setattr(rl_seeds, "train", lambda config: pytest.fail(f"{config.output} is trained again"))
    assert rl_seeds.main(command) == 0
    found = json.loads((output / "seeds.json").read_text())
    assert [(run["world"], run["seed"]) for run in found["runs"]] == [("frozenlake-4x4", 0), ("frozenlake-4x4", 1)]
    assert all(0 <= run[name] <= 1 for run in found["runs"] for name in ("before", "after", "random"))
    assert all(len(run["curve"]) >= 2 and run["minutes"] > 0 for run in found["runs"])
    assert (output / "table.md").read_text().splitlines()[2].startswith("| frozenlake-4x4 | grpo | 2 | 6 |")
    assert Image.open(output / "seeds.png").size[0] > 300


def test_the_rise_is_that_of_each_seed(rl_seeds):
    """Seeds that differ in where they begin, and rise alike, leave nothing uncertain about the rise."""
    runs = [rl_seeds.Run("lake", seed, 1.0, start, start + 0.4, 0.1, ()) for seed, start in enumerate((0.1, 0.3, 0.5))]
    row = rl_seeds.summary(runs, "grpo", 400)
    assert row.rise.value == pytest.approx(0.4)
    assert row.rise.low == pytest.approx(0.4)
    assert row.before.high - row.before.low > 0.5
    assert row.lowest == pytest.approx(0.5)


@pytest.mark.parametrize(
    "changed", ["--rl.warmup.steps=0", "--rl.evaluation.every=0", "--rl.rollouts.worlds=[frozenlake-4x4,sokoban-5x5]"]
)
def test_a_run_without_anything_to_compare_is_refused(rl_seeds, tmp_path, capsys, changed):
    config, output = written(tmp_path, TINY), tmp_path / "runs"
    assert rl_seeds.main(["--configs", str(config), "--output", str(output), changed]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "rl.warmup.steps" in said
    assert not output.exists()

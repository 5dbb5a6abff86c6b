"""Training by the real commands, in several processes, on a machine without a compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vagen.config import Config
from vagen.train.run import latest_model

ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "vagen.cli", "train", "--processes", "2"],
    "deepspeed": [
        *(sys.executable, str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"),
        str(ROOT / "scripts" / "train.py"),
    ],
}


@pytest.fixture
def train_command(values, without_compilers, tmp_path):
    """``train_command(launcher, *overrides, **changes)``: runs it to its end and returns (result, run's folder)."""

    def start(launcher: str, *overrides: str, timeout: float = 300, **changes):
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(values(tmp_path / "out", **changes)))
        command = [*LAUNCHERS[launcher], "--config", str(config), *overrides]
        done = subprocess.run(
            command, env=without_compilers, cwd=tmp_path, capture_output=True, text=True, timeout=timeout
        )
        return done, tmp_path / "out"

    return start


def succeeded(done) -> None:
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("deepspeed", marks=pytest.mark.slow)])
def test_two_processes_with_zero_2_train_as_plain_torch_does(
    train_command, launcher, reference, read_metrics, assert_same_losses
):
    """Without a compiler on the path; rows of the two ranks have unequal numbers of tokens."""
    done, output = train_command(launcher, "--train.zero_stage=2")
    succeeded(done)
    records = read_metrics(output)
    assert_same_losses(records, reference, 2e-5, f"two processes, ZeRO 2, {launcher}")
    norms = [record["grad_norm"] for record in records]
    assert norms == pytest.approx(reference.norms, rel=1e-3), "gradient norms differ"
    if launcher == "torchrun":
        lines = done.stdout.splitlines()
        assert lines[-1:] == [str(latest_model(output))], f"the last line must be the model's path: {lines[-3:]}"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_two_processes_with_other_stages(train_command, stage, reference, read_metrics, assert_same_losses):
    done, output = train_command("torchrun", f"--train.zero_stage={stage}")
    succeeded(done)
    assert_same_losses(read_metrics(output), reference, 2e-5, f"two processes, ZeRO {stage}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_row_without_images_on_one_rank_only(train_command, by_hand, values, tmp_path, stage):
    """Plans need three transitions; where an episode is shorter only the text clozes are left, on one of two ranks."""
    changes = {
        "clozes": {"weights": {"plan_inference": 1.0, "text_forward_dynamics": 1.0}},
        "train": {"rows": 2, "micro_rows": 1, "steps": 12},
    }
    expected = by_hand(Config.model_validate(values(tmp_path, **changes)))
    done, output = train_command("torchrun", f"--train.zero_stage={stage}", timeout=180, **changes)
    succeeded(done)
    losses = [yaml.safe_load(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx(expected.losses, abs=2e-5)


@pytest.mark.slow
def test_two_processes_resume(train_command, reference, read_metrics, assert_same_losses):
    """ZeRO 2 checkpoints of both processes go on where they were."""
    import shutil

    _, output = train_command("torchrun", "--train.zero_stage=2")
    shutil.rmtree(output / "checkpoints" / "step-000020")
    done, output = train_command("torchrun", "--train.zero_stage=2", "--resume")
    succeeded(done)
    records = read_metrics(output)[-10:]
    assert [record["step"] for record in records] == list(range(11, 21))
    assert_same_losses(records, reference.losses[10:], 2e-5, "steps 11 to 20 after --resume, two processes")


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["--train.micro_rows=3"], "train.micro_rows=3"),
        (["--train.stops=3"], "train.steps"),
        (["--shards=[nowhere]"], "nowhere"),
    ],
)
def test_bad_input_is_refused_before_processes_start(train_command, overrides, complaint):
    done, output = train_command("torchrun", *overrides)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-2000:]
    assert complaint in done.stderr
    assert not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("override", ["--model.path=/nowhere/model", "--output=/dev/null/out"])
def test_bad_models_and_outputs_are_refused_before_processes_start(train_command, override):
    done, _ = train_command("torchrun", override)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-2000:]

"""Training by the real commands, in several processes, on a machine without a compiler."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from vagen import cli
from vagen.config import Config, ConfigError, load
from vagen.data.stream import ClozeStream
from vagen.evaluate.validation import Validation
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.packing import PackedLoss
from vagen.policy.policy import load as load_policy
from vagen.train import launch
from vagen.train.ranks import slurm_ranks
from vagen.train.run import latest_model

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "train.py")
SPREAD = Path(__file__).with_name("spread.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
LAUNCHERS = {
    "vagen": [sys.executable, "-m", "vagen.cli", "train", "--processes", "2"],
    "torchrun": [*TORCHRUN, SCRIPT],
    "deepspeed": [
        *(sys.executable, str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"),
        SCRIPT,
    ],
}
slow = pytest.mark.slow


@pytest.fixture
def train_command(values, without_compilers, tmp_path):
    """``train_command(launcher, *overrides, **changes)``: runs it to its end and returns (result, run's folder).

    A launcher is the name of one, or a command.
    """

    def start(launcher: str | list[str], *overrides: str, timeout: float = 900, **changes):
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(values(tmp_path / "out", **changes)))
        program = LAUNCHERS[launcher] if isinstance(launcher, str) else launcher
        command = [*program, "--config", str(config), *overrides]
        done = subprocess.run(
            command, env=without_compilers, cwd=tmp_path, capture_output=True, text=True, timeout=timeout
        )
        return done, tmp_path / "out"

    return start


def succeeded(done) -> None:
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize(
    ("launcher", "stage"),
    [
        ("vagen", 3),
        *(pytest.param("vagen", stage, marks=slow) for stage in (0, 1, 2)),
        *(pytest.param(launcher, 3, marks=slow) for launcher in ("torchrun", "deepspeed")),
    ],
)
def test_two_processes_train_as_plain_torch_does(
    train_command, launcher, stage, reference, read_metrics, assert_same_losses
):
    """Without a compiler on the path; rows of the two ranks have unequal numbers of tokens.

    Both processes validate together, and the whole model is saved: it answers as it did when it was in parts.
    """
    asked = ["--train.validation.every=10", "--train.validation.n=5", "--train.validation.clozes=inverse_dynamics"]
    done, output = train_command(launcher, f"--train.zero_stage={stage}", *asked)
    succeeded(done)
    records = read_metrics(output)
    assert_same_losses(records, reference, 2e-5, f"two processes, ZeRO {stage}, {launcher}")
    norms = [record["grad_norm"] for record in records]
    assert norms == pytest.approx(reference.norms, rel=1e-3), "gradient norms differ"
    if launcher == "vagen":
        lines = done.stdout.splitlines()
        assert lines[-1:] == [str(latest_model(output))], f"the last line must be the model's path: {lines[-3:]}"
    validate = Validation(load(output / "config.yaml"), records_worlds(records[-1]), ())
    sums = validate(Chat(load_policy(str(latest_model(output)))), 0, 1)
    assert sums[:, 1].tolist() == [5] * len(validate.cells)
    for (world, cloze), right in zip(validate.cells, sums[:, 0].tolist(), strict=True):
        assert records[-1][f"eval/{world}/{cloze}/accuracy"] == right / 5, f"{world} {cloze}"
    assert records[-1]["eval/accuracy"] == pytest.approx(float(sums[:, 0].mean()) / 5)
    measured = {record["step"]: record["eval/accuracy"] for record in records if "eval/accuracy" in record}
    assert list(measured) == [10, 20]
    best = json.loads((output / "checkpoints" / "best.json").read_text())
    assert best["value"] == max(measured.values()) == measured[best["step"]]
    assert (output / "checkpoints" / best["checkpoint"] / "model" / "config.json").is_file()


def records_worlds(record: dict) -> list[str]:
    """The worlds a record has accuracies of, in order."""
    return [key.split("/")[1] for key in record if key.startswith("eval/") and key.count("/") == 3]


#: Plans need three transitions; where an episode is shorter only the text clozes are left, on one of two ranks.
MIXED = {
    "clozes": {"weights": {"plan_inference": 1.0, "text_forward_dynamics": 1.0}},
    "train": {"rows": 2, "micro_rows": 1, "steps": 12},
}


@pytest.fixture(scope="module")
def mixed(values, by_hand, tmp_path_factory):
    """The same by torch alone, in a run with steps that have images on one of two ranks only."""
    config = Config.model_validate(values(tmp_path_factory.mktemp("unused"), **MIXED))
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture)
    steps = range(config.train.steps)
    seeing = [[any(s.images for s in stream.group(2 * step + rank).samples) for rank in (0, 1)] for step in steps]
    assert any(one != other for one, other in seeing), "no step has images on one rank only"
    return by_hand(config)


@slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("row_tokens", "micro_rows"), [(260, 1), (900, 2)])
def test_two_processes_share_planned_rows(
    train_command, stage, row_tokens, micro_rows, reference, read_metrics, assert_same_losses
):
    """Steps that take different numbers of forward passes, some of rows without clozes."""
    rows = [f"--train.row_tokens={row_tokens}", f"--train.micro_rows={micro_rows}"]
    done, output = train_command("vagen", f"--train.zero_stage={stage}", *rows)
    succeeded(done)
    assert_same_losses(read_metrics(output), reference, 2e-5, f"two processes, planned rows, ZeRO {stage}")


@slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_row_without_images_on_one_rank_only(train_command, mixed, read_metrics, stage):
    done, output = train_command("vagen", f"--train.zero_stage={stage}", **MIXED)
    succeeded(done)
    records = read_metrics(output)
    assert [record["loss"] for record in records] == pytest.approx(mixed.losses, abs=2e-5)
    assert [record["grad_norm"] for record in records] == pytest.approx(mixed.norms, rel=1e-3)


def test_a_model_in_parts_trains_and_is_saved_whole(train_command, mixed, values, read_metrics, tmp_path):
    """Every tensor is gathered for its use and let go again, with gradient checkpointing, and rows of both kinds.

    The saved model, put together, gives the losses of the one that torch alone has trained.
    """
    changes = {**MIXED, "model": {**values(tmp_path)["model"], "gradient_checkpointing": True}}
    done, output = train_command([*TORCHRUN, str(SPREAD)], "--train.zero_stage=3", **changes)
    succeeded(done)
    records = read_metrics(output)
    assert [record["loss"] for record in records] == pytest.approx(mixed.losses, abs=2e-5)
    assert [record["grad_norm"] for record in records] == pytest.approx(mixed.norms, rel=1e-3)
    policy = load_policy(str(latest_model(output)))
    stream = ClozeStream(load(output / "config.yaml").shards, load(output / "config.yaml").clozes, 0)
    chat = Chat(policy)
    batch = Batcher(chat, answer_weights(chat, stream, 0.5), [(w, c) for w in stream.worlds for c in stream.patterns])
    rows = batch.batch([stream.group(number) for number in range(3)])
    with torch.no_grad():
        ours, theirs = (PackedLoss(model.eval())(rows) for model in (policy.model, mixed.policy.model))
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-3)


@slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_processes_resume(train_command, reference, read_metrics, assert_same_losses, stage):
    """Checkpoints of both processes go on where they were, bit for bit."""
    _, output = train_command("vagen", f"--train.zero_stage={stage}")
    before = read_metrics(output)
    shutil.rmtree(output / "checkpoints" / "step-000020")
    done, output = train_command("vagen", f"--train.zero_stage={stage}", "--resume")
    succeeded(done)
    records = read_metrics(output)
    assert [record["step"] for record in records] == list(range(1, 21))
    assert [record["loss"] for record in records] == [record["loss"] for record in before]
    assert_same_losses(records, reference, 2e-5, "two processes, resumed")


@slow
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on(
    train_command, reference, read_metrics, assert_same_losses, stage, before, after
):
    """Optimizer states spread over two processes come together in one, and the reverse."""
    words = (f"--train.zero_stage={stage}", "--train.micro_rows=1")
    changes = {"optimizer": {"weight_decay": 2.0, "rates": {"vision": 0.5}}}  # groups that must not be mistaken
    done, output = train_command("vagen", *words, f"--processes={before}", **changes)
    succeeded(done)
    expected = [record["loss"] for record in read_metrics(output)]
    assert abs(expected[-1] - reference.losses[-1]) > 1e-3, "the groups are alike"
    shutil.rmtree(output / "checkpoints" / "step-000020")
    done, output = train_command("vagen", *words, f"--processes={after}", "--resume", **changes)
    succeeded(done)
    assert_same_losses(read_metrics(output), expected, 2e-5, f"{before} processes, then {after}, ZeRO {stage}")
    assert not list(output.glob("checkpoints/.*.part"))


@slow
def test_tasks_of_a_slurm_step_train_together(
    values, without_compilers, tmp_path, reference, read_metrics, assert_same_losses
):
    """As `srun vagen train` starts them: no launcher, but SLURM's variables."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values(tmp_path / "out", train={"zero_stage": 1})))
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "vagen.cli", "train", "--config", str(config)],
            env={**without_compilers, **slurm(task), "SLURM_JOB_ID": str(os.getpid()), "MASTER_ADDR": "127.0.0.1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in (0, 1)
    ]
    said = [task.communicate(timeout=300) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert_same_losses(read_metrics(tmp_path / "out"), reference, 2e-5, "two tasks of SLURM")


def slurm(task: int) -> dict[str, str]:
    """What SLURM tells the tasks of a step: two on one node."""
    return {
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "node7",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "1234",
    }


def test_ranks_from_slurm():
    variables = {**slurm(1), "SLURM_STEP_NODELIST": "gpu[003-005,9],cpu1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    found = slurm_ranks(variables)
    port = found.pop("MASTER_PORT")
    assert found == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu003",
    }
    assert 1024 < int(port) < 65536
    assert slurm_ranks({**variables, "MASTER_ADDR": "here", "MASTER_PORT": "5"})["MASTER_ADDR"] == "here"
    assert slurm_ranks({**variables, "RANK": "0"}) == {}, "a launcher within the step knows better"
    assert slurm_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == {}, "a batch script is not a step"
    assert slurm_ranks({**variables, "SLURM_STEP_NUM_TASKS": "1"}) == {}, "a task alone may start processes itself"


def test_processes_are_not_started_twice(values, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values(tmp_path / "out")))
    assert cli.main(["train", "--config", str(config), "--processes", "8"]) == 2
    assert "a launcher has started this one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "first"), [("a", "a"), ("a,b", "a"), ("n[07-12]", "n07"), ("n[3,5]-ib", "n3-ib"), ("x-1,y[1-2]", "x-1")]
)
def test_the_first_node_of_a_list(nodes, first):
    assert slurm_ranks({**slurm(0), "SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_a_list_of_nodes_that_cannot_be_read_is_refused():
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        slurm_ranks({**slurm(0), "SLURM_STEP_NODELIST": ""})


# -------------------------------------------------------------------------------------------------------- supervising


@pytest.mark.parametrize(
    ("programs", "code", "seconds"),
    [
        (["pass", "pass"], 0, 5),
        (["import sys; sys.exit(2)", "import time; time.sleep(60)"], 2, 20),
        (["import os; os.kill(os.getpid(), 9)", "pass"], 137, 5),
        (["import sys; sys.exit(143)", "import sys, time; time.sleep(1); sys.exit(143)"], 143, 5),
    ],
)
def test_one_failure_ends_all_and_its_exit_code_is_theirs(monkeypatch, programs, code, seconds):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.5)
    children = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    began = time.monotonic()
    assert launch._supervise(children) == code
    assert time.monotonic() - began < seconds
    assert all(child.returncode is not None for child in children)


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
    done, output = train_command("vagen", *overrides)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-2000:]
    assert complaint in done.stderr
    assert not output.exists()


@slow
@pytest.mark.parametrize("override", ["--model.path=/nowhere/model", "--output=/dev/null/out"])
def test_bad_models_and_outputs_are_refused_before_processes_start(train_command, override):
    done, _ = train_command("vagen", override)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-2000:]

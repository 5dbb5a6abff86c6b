"""Data, a small configuration, and a training loop of ten lines that every other way of training must agree with."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from vagen.config import Collect, Config
from vagen.data.stream import ClozeStream
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.packing import PackedLoss
from vagen.policy.policy import Policy, create
from vagen.rollout.collect import collect
from vagen.train.run import Start, cloze_format

STEPS = 20
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WORLDS = ("minigrid-rooms-6x6", "sokoban-6x6", "frozenlake-6x6")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> list[str]:
    """Folders of shards, one per world; not to be written to."""
    gathered = collect(
        Collect(worlds=WORLDS, episodes=24, max_steps=6, shard_size=10), tmp_path_factory.mktemp("data"), 0
    )
    return [str(folder) for folder in gathered]


@pytest.fixture(scope="session")
def values(data) -> Callable[..., dict]:
    """``values(output, section={...})``: a small configuration as plain data, with changes to its sections."""

    def make(output: Path, **changes) -> dict:
        base = {
            "seed": 5,
            "output": str(output),
            "shards": data,
            "model": {
                "tiny": {
                    "hidden_size": 32,
                    "layers": 2,
                    "head_size": 16,
                    "vision_hidden_size": 32,
                    "vision_layers": 1,
                }
            },
            "clozes": {
                "explain": False,
                "weights": {
                    "state_estimation": 1.0,
                    "forward_dynamics": 1.0,
                    "inverse_dynamics": 4.0,
                    "text_forward_dynamics": 0.5,
                },
            },
            "optimizer": {"lr": 2e-3, "warmup_steps": 5, "decay": 0.3, "final_lr": 0.1, "clip": 0.5},
            "train": {
                "steps": STEPS,
                "rows": 4,
                "micro_rows": 2,
                "log_every": 1,
                "checkpoint_every": 10,
                "balance": 0.5,
                "workers": 0,
            },
        }
        for key, change in changes.items():
            base[key] = {**base[key], **change} if isinstance(change, dict) and key in base else change
        return base

    return make


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], list[dict]]:
    return lambda run: [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Reference:
    """Per step, from 0: losses, gradient norms before clipping, plain losses and token counts of every cell."""

    losses: list[float]
    norms: list[float]
    cells: list[dict[tuple[str, str], tuple[float, int]]]
    policy: Policy


def learning_rate(optimizer, steps: int, step: int) -> float:
    """Of step ``step`` (from 0), relative to the peak: up from and down to ``final_lr``, level between.

    The last share of the steps goes down along half a cosine.
    """
    down = round(optimizer.decay * steps)
    up = min(optimizer.warmup_steps, steps - down)
    if step < up:
        return optimizer.final_lr + (1 - optimizer.final_lr) * step / up
    if step < steps - down:
        return 1.0
    progress = (step - (steps - down)) / down
    return optimizer.final_lr + (1 - optimizer.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def adamw(model: torch.nn.Module, config: Config) -> torch.optim.Optimizer:
    """Weight decay for what has two dimensions or more."""
    return torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.optimizer.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
    )


def train_by_hand(config: Config, make_optimizer=adamw, clip: bool = True) -> Reference:
    """One row at a time, in one process, with torch alone: no engine, no accumulation, no collation of rows."""
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture)
    policy = create(config.model, cloze_format(config, stream.worlds, stream.patterns), config.seed)
    chat = Chat(policy)
    cells = [(world, cloze) for world in stream.worlds for cloze in stream.patterns]
    batcher = Batcher(chat, answer_weights(chat, stream, config.train.balance), cells)
    model, packed = policy.model.train(), PackedLoss(policy.model)
    optimizer = make_optimizer(model, config)
    peaks = [group["lr"] for group in optimizer.param_groups]
    result = Reference([], [], [], policy)
    for step in range(config.train.steps):
        batches = [batcher.batch([stream.group(step * config.train.rows + row)]) for row in range(config.train.rows)]
        total = sum(batch.weights.double().sum() for batch in batches)
        loss = 0.0
        sums = {}
        for batch in batches:
            losses = packed(batch)
            part = (losses * batch.weights).sum() / total
            part.backward()
            loss += part.item()
            for cell, value in zip(batch.cells.tolist(), losses.tolist(), strict=True):
                before = sums.get(cells[cell], (0.0, 0))
                sums[cells[cell]] = (before[0] + value, before[1] + 1)
        for parameter in model.parameters():
            if parameter.grad is None:  # no image in the whole step: the vision tower stands still but for its decay
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip if clip else float("inf"))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate(config.optimizer, config.train.steps, step)
        optimizer.step()
        optimizer.zero_grad()
        result.losses.append(loss)
        result.norms.append(norm.item())
        result.cells.append(sums)
    return result


@pytest.fixture(scope="session")
def process_group() -> Iterator[dict[str, str]]:
    """One process group for all runs in this process, which can train many times and joins once; its variables."""
    from vagen.train.engine import start_processes, stop_processes

    with mock.patch.dict(os.environ):
        for name in LAUNCHER:
            os.environ.pop(name, None)
        start_processes()
        variables = {name: os.environ[name] for name in LAUNCHER if name in os.environ}
    yield variables
    stop_processes()


@pytest.fixture(scope="module")
def joined(process_group) -> Iterator[None]:
    """Trainings in this process may begin: it is in the process group."""
    with mock.patch.dict(os.environ, process_group):
        yield


@pytest.fixture(scope="module")
def run(joined, values, tmp_path_factory) -> Callable[..., Path]:
    """``run(start="new", output=None, **changes)``: trains here and returns the run's folder."""
    from vagen.train.cloze import train

    def train_here(start: Start = "new", output: Path | None = None, **changes) -> Path:
        output = output or tmp_path_factory.mktemp("run") / "out"
        train(Config.model_validate(values(output, **changes)), start)
        return output

    return train_here


@pytest.fixture(scope="session")
def reference(values, tmp_path_factory) -> Reference:
    return train_by_hand(Config.model_validate(values(tmp_path_factory.mktemp("unused"))))


@pytest.fixture(scope="session")
def by_hand() -> Callable[..., Reference]:
    return train_by_hand


@pytest.fixture(scope="session")
def assert_same_losses() -> Callable:
    """Compares the losses of metrics with those of a reference, and says at which step they part."""

    def check(records: list[dict], reference: Reference | list[float], tolerance: float, what: str) -> None:
        expected = reference.losses if isinstance(reference, Reference) else reference
        actual = [record["loss"] for record in records]
        assert len(actual) == len(expected), f"{what}: {len(actual)} steps instead of {len(expected)}"
        errors = np.abs(np.array(actual) - np.array(expected))
        first, worst = int((errors >= tolerance).argmax()) + 1, int(errors.argmax()) + 1
        assert errors.max() < tolerance, (
            f"{what}: losses part by {tolerance:g} at step {first}, and by {errors.max():.2e} at step {worst}"
        )

    return check


@pytest.fixture(scope="session")
def without_compilers(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine that has no compiler: PATH is one folder of links to a few tools."""
    folder = tmp_path_factory.mktemp("bin")
    tools = ("sh", "bash", "env", "uname", "rm", "mkdir", "cat", "ls", "hostname", "which", "grep", "lscpu", "id")
    for tool in tools:
        for place in ("/usr/bin", "/bin"):
            if (Path(place) / tool).exists() and not (folder / tool).exists():
                (folder / tool).symlink_to(Path(place) / tool)
    assert not any((folder / name).exists() for name in ("g++", "gcc", "cc", "c++", "clang", "ninja", "nvcc"))
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {
        **{name: value for name, value in kept.items() if not name.startswith(("MASTER_", "CC", "CXX"))},
        "PATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


# ------------------------------------------------------------------------------------------------------- reinforcement

SMALLEST = {"hidden_size": 32, "layers": 2, "vision_hidden_size": 32, "vision_layers": 1, "image_size": 32}
TAGS = [f"<{mark}{tag}" for tag in ("answer", "think", "observation", "reasoning", "prediction") for mark in ("", "/")]


def merged(values: dict, changes: dict) -> dict:
    """A tree of values with some of its leaves replaced."""
    result = dict(values)
    for key, change in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, change) if isinstance(change, dict) and isinstance(inner, dict) else change
    return result


@pytest.fixture(scope="session")
def rl_values() -> Callable[..., dict]:
    """``rl_values(output, section={...})``: a configuration of a few seconds as plain data, with changes."""

    def make(output: Path, **changes) -> dict:
        base = {
            "seed": 5,
            "output": str(output),
            "model": {"tiny": {**SMALLEST, "words": TAGS}},
            "clozes": {"explain": False},
            "optimizer": {"lr": 2e-3, "warmup_steps": 0, "schedule": "constant"},
            "train": {"steps": 2, "micro_rows": 8, "log_every": 1, "checkpoint_every": 1, "report_to": []},
            "rl": {
                "rollouts": {
                    "worlds": ["frozenlake-4x4"],
                    "groups": 4,
                    "members": 4,
                    "strategy": "no_think",
                    "context": "no_concat",
                    "turns": 3,
                    "tokens": 8,
                },
                "filter": {"strategy": "none"},
                "warmup": {"steps": 0, "episodes": 20, "rows": 4},
                "evaluation": {"every": 0},
                "diagnostics": {"every": 0},
            },
        }
        return merged(base, changes)

    return make


@pytest.fixture(scope="module")
def reinforce(process_group, rl_values, tmp_path_factory) -> Iterator[Callable[..., Path]]:
    """``reinforce(start="new", output=None, **changes)``: trains here and returns the run's folder."""
    from vagen.train.rl import train

    def train_here(start: Start = "new", output: Path | None = None, **changes) -> Path:
        output = output or tmp_path_factory.mktemp("rl") / "out"
        train(Config.model_validate(rl_values(output, **changes)), start)
        return output

    with mock.patch.dict(os.environ, process_group):
        yield train_here

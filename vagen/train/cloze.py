"""Training with cloze objectives: the whole loop in one place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vagen.config import Config, save
from vagen.data.stream import ClozeStream
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.packing import Batch
from vagen.policy.policy import Policy, create
from vagen.train.engine import (
    Engine,
    StepResult,
    barrier,
    local_device,
    start_processes,
)
from vagen.train.metrics import Metrics
from vagen.train.run import CHECKPOINTS, MODEL, Start, cloze_format, latest_model, prepare


def train(config: Config, start: Start = "new") -> Path:
    """Train as configured and return the folder of the last model.

    Args:
        start: ``new`` refuses an output that holds a run, ``resume`` goes on from its newest checkpoint, ``overwrite``
            replaces it.

    Every process of a distributed run calls this. The order of data, and with it the result, depends on the
    configuration only, not on the number of processes.
    """
    rank, ranks = start_processes()
    stream = prepare(config, ranks, start)
    barrier()  # nobody writes before everybody has looked
    output = Path(config.output)
    torch.manual_seed(config.seed)
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    policy = create(config.model, cloze_format(config, stream), config.seed, dtype)
    policy.model.to(local_device())
    policy.model.train()
    cells = [(world, cloze) for world in stream.worlds for cloze in stream.patterns]
    chat = Chat(policy)
    batcher = Batcher(chat, answer_weights(chat, stream, config.train.balance), cells)
    engine = Engine(policy.model, config.train, config.optimizer, len(cells))
    begin = _resume(engine, output) if start == "resume" else 0
    if rank == 0 and start != "resume":
        _clear(output)
        save(config, output / "config.yaml")
    steps = _Steps(stream, batcher, config, rank, ranks, begin)
    loader = DataLoader(steps, batch_size=None, num_workers=config.train.workers)
    with Metrics(output, begin, config.train.steps, active=rank == 0) as metrics:
        interval = _Interval(cells)
        for step, batches in enumerate(loader, start=begin + 1):
            result = engine.step(batches)
            interval.add(result, engine.lr)
            metrics.advance(result.loss)
            if step % config.train.log_every == 0 or step == config.train.steps:
                metrics.report(step, interval.summary())
                interval = _Interval(cells)
            if step % config.train.checkpoint_every == 0 or step == config.train.steps:
                _checkpoint(engine, policy, output, step, rank, config.train.keep_checkpoints)
    return latest_model(output)


class _Steps(IterableDataset):
    """The micro-batches of each step for one rank; with workers, step n is made by worker n modulo their number."""

    def __init__(self, stream: ClozeStream, batcher: Batcher, config: Config, rank: int, ranks: int, start: int):
        self.stream, self.batcher = stream, batcher
        self.train = config.train
        self.rank, self.ranks, self.start = rank, ranks, start

    def __iter__(self) -> Iterator[list[Batch]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        size = self.train.micro_rows
        for step in range(self.start + first, self.train.steps, stride):
            groups = self.stream.share(step, self.train.rows, self.rank, self.ranks)
            yield [self.batcher.batch(groups[i : i + size]) for i in range(0, len(groups), size)]


class _Interval:
    """Sums of step results between two reports."""

    def __init__(self, cells: list[tuple[str, str]]):
        self.cells = cells
        self.began = time.perf_counter()
        self.results: list[StepResult] = []
        self.lr = 0.0

    def add(self, result: StepResult, lr: float) -> None:
        self.results.append(result)
        self.lr = lr

    def summary(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        losses = torch.stack([result.cell_losses for result in self.results]).sum(0)
        tokens = torch.stack([result.cell_tokens for result in self.results]).sum(0)
        computed = sum(result.computed for result in self.results)
        unpacked = sum(result.unpacked for result in self.results)
        values = {
            "loss": sum(result.loss for result in self.results) / len(self.results),
            "grad_norm": self.results[-1].grad_norm,
            "lr": self.lr,
            "seconds_per_step": seconds / len(self.results),
            "clozes_per_second": sum(result.samples for result in self.results) / seconds,
            "tokens_per_second": computed / seconds,
            "supervised_tokens_per_second": float(tokens.sum()) / seconds,
            "sharing": unpacked / computed,
        }
        for (world, cloze), loss, count in zip(self.cells, losses.tolist(), tokens.tolist(), strict=True):
            if count:
                values[f"loss/{world}/{cloze}"] = loss / count
        return values


def _checkpoint(engine: Engine, policy: Policy, output: Path, step: int, rank: int, keep: int) -> None:
    folder = output / CHECKPOINTS
    tag = f"step-{step:06d}"
    engine.save(folder, tag, {"step": step})
    if rank == 0:
        policy.save(folder / tag / MODEL, engine.model_state())
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    barrier()


def _resume(engine: Engine, output: Path) -> int:
    tag = latest_model(output).parent.name
    return int(engine.load(output / CHECKPOINTS, tag)["step"])


def _clear(output: Path) -> None:
    """Remove what an earlier run left in the same folder."""
    for folder in (CHECKPOINTS, "tensorboard"):
        shutil.rmtree(output / folder, ignore_errors=True)

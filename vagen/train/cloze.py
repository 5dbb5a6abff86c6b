"""Training with cloze objectives: the whole loop in one place."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vagen.config import Config
from vagen.data.asked import asked
from vagen.data.places import DataError
from vagen.data.questions import TrainingStream
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.errors import ModelError
from vagen.policy.packing import Batch
from vagen.policy.policy import create
from vagen.policy.work import Cost, Work
from vagen.train import environment
from vagen.train.checkpoints import Best, seed_random
from vagen.train.engine import (
    Engine,
    StepResult,
    largest,
    local_ranks,
    start_processes,
)
from vagen.train.metrics import Metrics
from vagen.train.reporters import start_reporters
from vagen.train.run import (
    Start,
    cloze_format,
    latest_model,
    loading_processes,
    prepare,
)
from vagen.train.session import open_run
from vagen.train.signals import StopRequest, ignore_stopping

Cell = tuple[str, str]  # a world and a cloze, or questions and a task


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        model: folder of the newest model.
        step: the last step that was made.
        stopped: the signal that asked it to stop before its end; None if it reached that.
    """

    model: Path
    step: int
    stopped: signal.Signals | None


class Validate(Protocol):
    """Asks a model questions of the validation split.

    Attributes:
        cells: what is asked, in the order of the results.
    """

    @property
    def cells(self) -> Sequence[Cell]: ...

    def __call__(self, chat: Chat, rank: int, ranks: int) -> torch.Tensor:
        """(cells, 2) float64: the sum of scores and the number of samples, of this rank's share of the samples."""
        ...


#: Makes the questions of a run, from its configuration, its worlds and its clozes.
MakeValidate = Callable[[Config, Sequence[str], Sequence[str]], Validate]


def train(config: Config, start: Start = "new", make_validate: MakeValidate | None = None) -> Outcome:
    """Train as configured, in the folder ``config.output``.

    Every process of a distributed run calls this. The order of data, and with it the result, depends on the
    configuration only, not on the number of processes. SIGTERM or SIGINT, to any of them, ends the training of all
    after the current step, with a checkpoint.

    Args:
        start: ``new`` refuses an output that holds a run, ``resume`` goes on from its newest checkpoint, ``overwrite``
            replaces it.
        make_validate: what ``train.validation`` asks; must be given where that is on.
    """
    rank, ranks = start_processes()
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest(announce=rank == 0))
        stream = prepare(config, ranks, start)
        output = Path(config.output)
        seed_random(config.seed)
        dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
        form = cloze_format(config, stream.worlds, stream.patterns)
        policy = create(config.model, form, config.seed, dtype, stream.words)
        policy.model.train()
        cells = stream.cells
        chat = Chat(policy)
        batcher = Batcher(chat, answer_weights(chat, stream, config.train.balance), cells)
        cost = Cost.of(policy.model)
        validation = _Validation(config, stream, make_validate, chat, rank, ranks)
        # Whatever is wrong with data or model has shown by now: nothing has been written yet.
        id, checkpoints = open_run(stack, config, start, stream.digests, rank, ranks)
        newest = checkpoints.newest()
        universal = newest is not None and checkpoints.spread_otherwise(newest)
        engine = Engine(policy.model, config.train, config.optimizer, len(cells), universal)
        seed_random(config.seed + rank)  # each process drops out for itself
        done, best = 0, None
        if newest:
            checkpoints.load(engine, newest)
            done, best = newest.step, newest.best
        steps = _Steps(stream, batcher, config, rank, ranks, done)
        metrics = None
        if rank == 0:
            if start == "resume":
                print(f"vagen: {output} {_goes_on(done, config.train.steps)}", file=sys.stderr, flush=True)
            for line in asked(stream.clozes) if stream.clozes else ():
                print(f"vagen: asks about {line}", file=sys.stderr, flush=True)
            environment.record(output, done, ranks)
            metrics = Metrics(output, done, config.train.steps, start_reporters(config, id, done))
            stack.enter_context(metrics)
        saved, stopped = done, None
        interval, spent = _Interval(cells, cost), time.process_time()
        for step, batches in enumerate(_timed(engine, _loader(steps, config)), start=done + 1):
            began = time.perf_counter()
            result = engine.step(batches)
            seconds = time.perf_counter() - began + result.seconds["data"]
            interval.add(result, engine.lr, seconds, time.process_time() - spent)
            spent = time.process_time()
            if metrics:
                metrics.advance(result.loss)
            stopped = agree(stop)
            last = step == config.train.steps or stopped is not None
            values: dict[str, float] = {}
            if validation.due(step) and stopped is None:
                values = validation(engine)
                best = validation.better(best, step, values)
            if step % config.train.log_every == 0 or last or values:
                if metrics:
                    metrics.report(step, interval.summary() | values)
                interval = _Interval(cells, cost)
            if step % config.train.checkpoint_every == 0 or last or (best is not None and best.step == step):
                rows = step * config.train.rows
                checkpoints.write(engine, policy, step, rows, best, config.train.keep_checkpoints)
                saved = step
            if last:
                break
        return Outcome(latest_model(output), saved, stopped)


def _goes_on(done: int, steps: int) -> str:
    """Where a run that is resumed goes on."""
    if not done:
        return "has no checkpoint yet: it starts from the beginning"
    return f"is complete: it has made all {steps} steps" if done >= steps else f"goes on after step {done} of {steps}"


def _loader(steps: _Steps, config: Config) -> DataLoader[list[Batch] | ValueError]:
    """The steps' batches, made by other processes where there are cores for them."""
    workers = loading_processes(config.train, local_ranks())
    return DataLoader(
        steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=config.train.prefetch if workers else None,
        worker_init_fn=ignore_stopping,
        generator=torch.Generator(),  # its own: a resumed run must not draw from the model's once more
    )


def _timed(engine: Engine, loader: DataLoader[list[Batch] | ValueError]) -> Iterator[list[Batch]]:
    """The batches of each step; waiting for them is counted as time for data.

    Raises:
        DataError, ModelError: a step cannot be made.
    """
    batches = iter(loader)
    while True:
        with engine.stopwatch.phase("data"):
            step = next(batches, None)
        if step is None:
            return
        if isinstance(step, ValueError):
            raise step
        yield step


def agree(stop: StopRequest) -> signal.Signals | None:
    """The signal that any process has received: all end after the same step."""
    number = largest(stop.received or 0)
    return signal.Signals(number) if number else None


class _Steps(IterableDataset):
    """The micro-batches of each step for one rank; with workers, step n is made by worker n modulo their number.

    An error about the data takes the place of the step that cannot be made: raised in a worker, it would arrive with
    torch's account of the worker around it.
    """

    def __init__(self, stream: TrainingStream, batcher: Batcher, config: Config, rank: int, ranks: int, start: int):
        self.stream, self.batcher = stream, batcher
        self.train = config.train
        self.rank, self.ranks, self.start = rank, ranks, start

    def __iter__(self) -> Iterator[list[Batch] | ValueError]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start + first, self.train.steps, stride):
            try:
                yield self._batches(step)
            except (DataError, ModelError) as error:
                yield error
                return

    def _batches(self, step: int) -> list[Batch]:
        size = self.train.micro_rows
        if self.train.row_tokens:
            groups = self.stream.share(step, self.train.rows, 0, 1)
            return self.batcher.planned(groups, self.train.row_tokens, size, self.rank, self.ranks)
        groups = self.stream.share(step, self.train.rows, self.rank, self.ranks)
        return [self.batcher.batch(groups[i : i + size]) for i in range(0, len(groups), size)]


class _Validation:
    """Measures the model every so many steps, all processes together."""

    def __init__(
        self,
        config: Config,
        stream: TrainingStream,
        make: MakeValidate | None,
        chat: Chat,
        rank: int,
        ranks: int,
    ):
        self._settings = config.train.validation
        self._chat, self._rank, self._ranks = chat, rank, ranks
        self._validate: Validate | None = None
        if self._settings.every:
            if make is None:
                raise ValueError("train.validation is on, and nobody said what to ask: give make_validate")
            self._validate = make(config, stream.worlds, tuple(stream.patterns))

    def due(self, step: int) -> bool:
        return bool(self._settings.every) and step % self._settings.every == 0

    def __call__(self, engine: Engine) -> dict[str, float]:
        """Accuracies over the samples of all processes: of every cell, and their mean as ``eval/accuracy``."""
        assert self._validate is not None, "only where it is due"
        began = time.perf_counter()
        with engine.gathered():
            share = self._validate(self._chat, self._rank, self._ranks)
        sums = engine.sum(share)
        accuracy = (sums[:, 0] / sums[:, 1]).tolist()
        cells = zip(self._validate.cells, accuracy, strict=True)
        values = {f"eval/{world}/{cloze}/accuracy": value for (world, cloze), value in cells}
        return {"eval/accuracy": sum(accuracy) / len(accuracy), **values, "eval/seconds": time.perf_counter() - began}

    def better(self, best: Best | None, step: int, values: dict[str, float]) -> Best:
        """The best of before and now; the earlier where they are equal."""
        value = values[self._settings.best]
        if best is not None and best.metric == self._settings.best and best.value >= value:
            return best
        return Best(step, self._settings.best, value)


class _Interval:
    """Sums of step results between two reports."""

    def __init__(self, cells: list[Cell], cost: Cost):
        self.cells, self.cost = cells, cost
        self.seconds = self.processor = 0.0
        self.results: list[StepResult] = []
        self.lr = 0.0

    def add(self, result: StepResult, lr: float, seconds: float, processor: float) -> None:
        self.results.append(result)
        self.lr = lr
        self.seconds += seconds
        self.processor += processor

    def summary(self) -> dict[str, float]:
        losses = torch.stack([result.cell_losses for result in self.results]).sum(0)
        tokens = torch.stack([result.cell_tokens for result in self.results]).sum(0)
        computed = sum(result.computed for result in self.results)
        work, alone = (sum(parts, Work()) for parts in zip(*((r.work, r.alone) for r in self.results), strict=True))
        values = {
            "loss": sum(result.loss for result in self.results) / len(self.results),
            "grad_norm": self.results[-1].grad_norm,
            "lr": self.lr,
            "seconds_per_step": self.seconds / len(self.results),
            "processor_seconds": self.processor / len(self.results),  # whoever else uses the machine
            "clozes_per_second": sum(result.samples for result in self.results) / self.seconds,
            "tokens_per_second": computed / self.seconds,
            "supervised_tokens_per_second": float(tokens.sum()) / self.seconds,
            "padding": 1 - work.tokens / computed,
            "sharing": alone.tokens / work.tokens,
            "sharing_bound": self.cost.operations(alone) / self.cost.operations(work),
        }
        for phase in self.results[0].seconds:
            values[f"seconds/{phase}"] = sum(result.seconds[phase] for result in self.results) / len(self.results)
        for (world, cloze), loss, count in zip(self.cells, losses.tolist(), tokens.tolist(), strict=True):
            if count:
                values[f"loss/{world}/{cloze}"] = loss / count
        return values

"""Kill a training at random moments, let it go on each time, and compare it with one that was never killed.

    python scripts/kills.py [--kills 30] [--output outputs/kills]

A tiny model trains on the CPU with a checkpoint every third step, once in peace and once with SIGKILL while it starts,
between steps, and while a checkpoint is written. Prints a table of the kills; the exit code is 1 if any loss, or the
final weights, differ by a bit. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

import vagen.cli
from vagen.config import Collect
from vagen.rollout.collect import collect
from vagen.train.run import CHECKPOINTS, MANIFEST, latest_model, step_of

MOMENTS = ("start", "step", "checkpoint")
DURING = {"start": "starting", "step": "training", "checkpoint": "writing a checkpoint"}


class Process(Protocol):
    """A training under way."""

    def running(self) -> bool: ...

    def send(self, number: int) -> None:
        """Send it a signal."""
        ...

    def wait(self) -> None:
        """Wait for its end."""
        ...


Start = Callable[[list[str]], Process]  # starts ``vagen`` with arguments


class Fork:
    """``vagen ARGUMENTS`` without its seconds of imports: a process forked from one that has made them."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vagen.cli", "vagen.train.cloze", "vagen.evaluate.validation"])

    def __init__(self, arguments: list[str]):
        self._process = self.context.Process(target=vagen.cli.main, args=(arguments,))
        self._process.start()

    def running(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> None:
        self._process.join(300)


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        moment: ``start``: before the first step of this start; ``checkpoint``: while one was written; else ``step``.
        step: the last step whose loss had been reported.
        checkpoint: the step of the newest whole checkpoint, from which the next start goes on; 0: from the beginning.
    """

    moment: str
    step: int
    checkpoint: int


def kill_often(start: Start, config: Path, run: Path, kills: int, generator: random.Random) -> list[Kill]:
    """Train, kill, and go on, until the training has been killed so many times.

    Args:
        config: of a training whose output is ``run``.
    """
    killed: list[Kill] = []
    resume: list[str] = []
    while len(killed) < kills:
        process = start(["train", "--config", str(config), *resume])
        moment = kill_at_a_random_moment(process, run, starts_of(run), generator)
        whole = [step_of(path.parent) for path in run.glob(f"{CHECKPOINTS}/step-*/{MANIFEST}")]
        killed.append(Kill(moment, max((step for step, _ in losses_of(run)), default=0), max(whole, default=0)))
        resume = ["--resume"] if (run / "run.json").exists() else []
        print(f"kill {len(killed)} of {kills}: {killed[-1]}", file=sys.stderr)
    process = start(["train", "--config", str(config), *resume])
    process.wait()
    return killed


def kill_at_a_random_moment(process: Process, run: Path, starts: int, generator: random.Random) -> str:
    """Kill a training: while it starts, after some steps, or while it writes a checkpoint; returns which.

    Args:
        starts: how many came to their loop before this one.
    """
    folder = run / CHECKPOINTS
    aim = generator.choice(["start", "step", "step", "checkpoint", "checkpoint", "checkpoint"])
    deadline = time.monotonic() + generator.uniform(0, 2)
    while process.running() and starts_of(run) == starts and not (aim == "start" and time.monotonic() > deadline):
        time.sleep(0.01)
    if starts_of(run) > starts:
        goal = reports_of(run) + generator.randrange(1, 9)
        while process.running() and reports_of(run) < goal:
            time.sleep(0.002)
        while aim == "checkpoint" and process.running() and not any(folder.glob(".*.part")):
            time.sleep(0.0005)
        time.sleep(generator.uniform(0, 0.05))
    if not process.running():
        raise RuntimeError("the training ended before it was killed: it needs more steps")
    process.send(signal.SIGKILL)
    process.wait()
    if starts_of(run) == starts:
        return "start"
    return "checkpoint" if any(folder.glob(".*.part")) else "step"


def starts_of(run: Path) -> int:
    """How many starts of the training have come to its loop."""
    path = run / "environment.json"
    return len(json.loads(path.read_text())) if path.is_file() else 0


def reports_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def losses_of(run: Path) -> list[tuple[int, float]]:
    """Every reported step with its loss, as the digits in the file have it; a line cut short by a kill is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(record["step"], record["loss"]) for record in records]


def table(killed: Sequence[Kill]) -> str:
    """Markdown: how often, when, and what it cost."""
    lines = [
        "| killed while | times | gone on from different checkpoints | steps made again, at most |",
        "|---|---|---|---|",
    ]
    for moment in MOMENTS:
        of = [kill for kill in killed if kill.moment == moment]
        again = max((kill.step - kill.checkpoint for kill in of), default=0)
        lines.append(f"| {DURING[moment]} | {len(of)} | {len({kill.checkpoint for kill in of})} | {again} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--output", type=Path, default=Path("outputs/kills"))
    args = parser.parse_args()
    if (args.output / "whole").exists():
        print(f"{args.output} holds an earlier result: remove it, or choose another --output", file=sys.stderr)
        return 2
    folders = collect(Collect(worlds=("sokoban-6x6",), episodes=40, max_steps=6), args.output / "data", 0)
    tiny = {"hidden_size": 32, "layers": 2, "vision_hidden_size": 32, "vision_layers": 1}
    train = {"steps": 10 * args.kills, "rows": 2, "micro_rows": 1, "checkpoint_every": 3, "log_every": 1, "workers": 0}
    configs: dict[str, Path] = {}
    for name in ("whole", "killed"):
        configs[name] = args.output / f"{name}.yaml"
        values = {
            "output": str(args.output / name),
            "shards": [str(folder) for folder in folders],
            "model": {"tiny": tiny},
            "clozes": {"explain": False, "imagined": 0, "weights": {"forward_dynamics": 1, "inverse_dynamics": 1}},
            "train": train,
        }
        configs[name].write_text(yaml.safe_dump(values), encoding="utf-8")
    uninterrupted = Fork(["train", "--config", str(configs["whole"])])
    uninterrupted.wait()
    killed = kill_often(Fork, configs["killed"], args.output / "killed", args.kills, random.Random(0))
    print(table(killed))
    runs = [args.output / name for name in ("whole", "killed")]
    losses = [losses_of(run) for run in runs]
    weights = [(latest_model(run) / "model.safetensors").read_bytes() for run in runs]
    same = len(losses[0]) == train["steps"] and losses[0] == losses[1] and weights[0] == weights[1]
    print(f"\n{train['steps']} losses and the final weights are {'equal bit for bit' if same else 'NOT equal'}.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

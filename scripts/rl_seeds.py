"""Reinforcement with several seeds: how far success rises on layouts never trained on, and how much of it is luck.

    python scripts/rl_seeds.py --configs configs/rl_quickstart.yaml configs/rl_sokoban.yaml --output outputs/rl_seeds

Trains each configuration with each seed; what has ended is not trained again, what was stopped goes on. Success on the
test split is measured by greedy play, of the model after its warm-up and of the one after the last step, on the same
episodes for all. Writes ``seeds.json``, ``table.md`` and ``seeds.png`` (success on validation layouts in training),
and prints the path of the first. Intervals are Student's over seeds, 95 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claim import Mean, Point, curve_of, mean, said, train
from matplotlib.figure import Figure

from vagen.config import Config, ConfigError, Rl, load
from vagen.evaluate.agent import Player, evaluate
from vagen.files import atomic_path, write_json, write_text_atomically
from vagen.policy.chat import Chat
from vagen.policy.policy import load as load_policy
from vagen.rollout.agents import RandomAgent
from vagen.rollout.cached import CachedEngine
from vagen.rollout.rollouts import ConversingModel, settings_of
from vagen.train.run import models_of

LANES = 128  # episodes at a time
EVALUATION_SEED = 1


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        minutes: processor time from the beginning to the last step.
        before, after: success on the test split, after the warm-up and in the end.
        random: that of a random agent in the same episodes.
        curve: success on validation layouts.
    """

    world: str
    seed: int
    minutes: float
    before: float
    after: float
    random: float
    curve: tuple[Point, ...]


@dataclass(frozen=True)
class Row:
    """The runs of a configuration together; ``rise`` is ``after`` less ``before``, seed by seed."""

    world: str
    estimator: str
    n: int
    before: Mean
    after: Mean
    rise: Mean
    lowest: float
    random: float
    minutes: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 for bad input; what a training fails with is its own exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, epilog="--section.key=value changes all runs"
    )
    parser.add_argument("--configs", nargs="+", type=Path, required=True, help="each with one world and a warm-up")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--n", type=int, default=400, help="episodes of the test split")
    args, overrides = parser.parse_known_args(arguments)
    try:
        wanted = [
            [configure(path, overrides, args.output, seed) for seed in args.seeds] for path in args.configs
        ]  # all are checked before the first is trained
    except ConfigError as error:
        print(f"rl_seeds: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    rows, runs = [], []
    for configs in wanted:
        for config in configs:
            if not ended(config) and (code := train(config)):
                return code
        own = [measure(config, args.n) for config in configs]
        rows.append(summary(own, reinforced(configs[0]).advantage.estimator, args.n))
        runs.append(own)
    write_text_atomically(args.output / "table.md", table(rows))
    draw(runs, rows, args.output / "seeds.png")
    result = args.output / "seeds.json"
    write_json(result, {"rows": [asdict(row) for row in rows], "runs": [asdict(run) for own in runs for run in own]})
    print(result)
    return 0


def configure(path: Path, overrides: Sequence[str], output: Path, seed: int) -> Config:
    """The configuration of a run.

    Raises:
        ConfigError: it has no warm-up to compare with, no validation, or several worlds.
    """
    config = load(path, [*overrides, f"seed={seed}", f"output={output / path.stem / f'seed-{seed}'}"])
    rl = config.rl
    if rl is None or not rl.warmup.steps or not rl.evaluation.every or len(rl.rollouts.worlds) != 1:
        raise ConfigError(
            f"{path}: a run is compared with its own warm-up, by validation, in one world: "
            "set rl.warmup.steps, rl.evaluation.every and one of rl.rollouts.worlds"
        )
    if config.train.log_every != 1:
        raise ConfigError(f"{path}: train.log_every={config.train.log_every} leaves steps out of what is counted: 1")
    return config


def reinforced(config: Config) -> Rl:
    """The part about reinforcement, which :func:`configure` has checked is there."""
    assert config.rl is not None
    return config.rl


def ended(config: Config) -> bool:
    """Whether a run has made its last step."""
    return last_step(config) in models_of(Path(config.output))


def last_step(config: Config) -> int:
    return reinforced(config).warmup.steps + config.train.steps


def measure(config: Config, n: int) -> Run:
    """What has become of a run that has ended."""
    models = models_of(Path(config.output))
    random, before, after = play(config, [models[reinforced(config).warmup.steps], models[last_step(config)]], n)
    lines = (Path(config.output) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Run(
        world=reinforced(config).rollouts.worlds[0],
        seed=config.seed,
        minutes=sum(json.loads(line)["processor_seconds"] for line in lines) / 60,
        before=before,
        after=after,
        random=random,
        curve=curve_of(Path(config.output), config),
    )


def play(config: Config, models: Sequence[Path], n: int) -> list[float]:
    """Success on the test split in the same episodes: of a random agent, and of models, greedily."""
    rollouts = reinforced(config).rollouts
    agents: list[Player] = [RandomAgent()]
    for model in models:
        chat = Chat(load_policy(str(model)))
        agents.append(ConversingModel(CachedEngine(chat, LANES), settings_of(chat, rollouts, "test", temperature=0.0)))
    most = rollouts.turns * rollouts.actions
    return [row["success"] for row in evaluate(agents, rollouts.worlds, n, EVALUATION_SEED, "test", most)["rows"]]


def summary(runs: Sequence[Run], estimator: str, n: int) -> Row:
    """The line about a configuration."""
    return Row(
        world=runs[0].world,
        estimator=estimator,
        n=n,
        before=mean([run.before for run in runs]),
        after=mean([run.after for run in runs]),
        rise=mean([run.after - run.before for run in runs]),
        lowest=min(run.after for run in runs),
        random=runs[0].random,
        minutes=statistics.fmean(run.minutes for run in runs),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per row."""
    heads = ["world", "estimator", "seeds", "episodes", "before", "after", "rise", "lowest after", "random agent"]
    heads.append("processor minutes")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells: list[Any] = [row.world, row.estimator, row.after.n, row.n, said(row.before), said(row.after)]
        cells += [said(row.rise, "+"), f"{row.lowest:.3f}", f"{row.random:.3f}", f"{row.minutes:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Sequence[Run]], rows: Sequence[Row], output: Path) -> None:
    """Success on validation layouts over processor time: seeds thin, their mean thick; a random agent dashed."""
    figure = Figure(figsize=(4.6 * len(rows), 3.6), layout="constrained", dpi=130)
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for panel, own, row in zip(panels, runs, rows, strict=True):
        for run in own:
            minutes = [point.seconds / 60 for point in run.curve]
            panel.plot(minutes, [point.success for point in run.curve], color="C0", lw=0.7, alpha=0.6)
        points = list(zip(*(run.curve for run in own), strict=True))  # by step: all are validated at the same ones
        over = [np.mean([point.seconds for point in step]) / 60 for step in points]
        panel.plot(over, [np.mean([p.success for p in step]) for step in points], color="C0", lw=2.2)
        panel.axhline(row.random, color="grey", ls="--", lw=1)
        panel.set_title(f"{row.world}, {row.estimator}, {len(own)} seeds", fontsize=10)
        panel.set_xlabel("processor minutes, warm-up included")
        panel.set_ylim(0, 1)
        panel.set_xlim(left=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("success, validation")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    sys.exit(main())

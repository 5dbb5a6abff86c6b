"""Do clozes help reinforcement? Four ways to train, several seeds, two worlds or more, counted two ways.

    python scripts/claim.py --configs lake.yaml sokoban.yaml --output outputs/claim --seeds 0 1 2 \\
        --rl.auxiliary.weight=0.5

Each configuration is for one world, and is that of the arm with everything; the others leave clozes out, and change
nothing else:

=================  =================================================================================
``rl``             no clozes: a warm-up that teaches the form of responses by random actions, then RL
``auxiliary``      the same, with clozes beside each RL step
``pretraining``    clozes in the warm-up too, then RL alone
``both``           clozes in the warm-up, and beside each RL step
=================  =================================================================================

Success on validation layouts is compared as its mean over training (the area under its curve divided by the length),
once over equal numbers of steps of the world and once over equal seconds of one processor. Both count from the very
beginning, where success is 0 until it is first measured: what comes before RL is charged. All runs of a world are
compared up to where the first of them ends. What a policy still knows of its world after the last step is measured by
the same clozes, about validation layouts.

Every run that ends becomes one line of ``runs.jsonl``. The same command goes on where it was stopped, in the middle of
a run too. Then ``claim.json``, ``table.md`` and ``claim.png`` are written, the path of the first printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from vagen.cloze.grammar import ClozeError, named
from vagen.config import Config, ConfigError, load, save
from vagen.data.shards import read_manifest
from vagen.evaluate.worldmodel import evaluate
from vagen.files import atomic_path, ensure_folder, write_text_atomically
from vagen.policy.chat import open_chat
from vagen.train.playing import COLLECTED
from vagen.train.run import latest_model
from worlds import WorldError

Axis = Literal["steps", "seconds"]
AXES: dict[Axis, str] = {"steps": "steps of the world", "seconds": "processor seconds"}

#: What each arm leaves out of the configuration; the first is what the others are compared with.
ARMS: dict[str, tuple[str, ...]] = {
    "rl": ("rl.warmup.clozes=0", "rl.auxiliary.weight=null"),
    "auxiliary": ("rl.warmup.clozes=0",),
    "pretraining": ("rl.auxiliary.weight=null",),
    "both": (),
}
NAMES = {"rl": "RL alone", "auxiliary": "clozes beside", "pretraining": "clozes before", "both": "both"}  # in figures
ASKED, SEED_OF_QUESTIONS = 200, 5  # clozes of each kind that a run is asked in the end, and which
# Quantiles of Student's t for two-sided 95 % intervals, by degrees of freedom from 1 on.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Point:
    """Success measured after so many steps of the world and processor seconds."""

    steps: float
    seconds: float
    success: float


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        settings: digest of its configuration, so that none is mistaken for another.
        known: of each cloze, the share that is answered rightly after the last step.
    """

    world: str
    arm: str
    seed: int
    settings: str
    curve: tuple[Point, ...]
    known: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.world}/{self.arm}/seed-{self.seed}"


_RUN = TypeAdapter(Run)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, with its 95 % interval; none from a single seed."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """An arm on one axis, in a world or in the mean over them.

    Attributes:
        until: where the comparison ends.
        area: mean success over training.
        last: success at the end.
        gain: the area less that of the first arm with the same seed; ``None`` for the first arm itself.
        ahead: the same of the success at the end.
    """

    axis: Axis
    world: str
    arm: str
    until: float
    area: Mean
    last: Mean
    gain: Mean | None
    ahead: Mean | None


@dataclass(frozen=True)
class Knowledge:
    """How many clozes of a kind an arm answers rightly after the last step."""

    world: str
    arm: str
    cloze: str
    right: Mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 for bad input; what a training fails with is its own exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, epilog="--section.key=value changes all arms"
    )
    parser.add_argument("--configs", nargs="+", type=Path, required=True, help="one per world")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    args, overrides = parser.parse_known_args(arguments)
    try:
        wanted = [
            configure(path, overrides, args.output, arm, seed)
            for seed in args.seeds
            for path in args.configs
            for arm in args.arms
        ]
        runs = []
        for run, config in wanted:
            found = finished(args.output, run)
            if found is None:
                if code := train(config):
                    return code
                folder = Path(config.output)
                found = replace(run, curve=curve_of(folder, config), known=known(folder, config))
                with (args.output / "runs.jsonl").open("a", encoding="utf-8") as file:
                    file.write(_RUN.dump_json(found).decode() + "\n")
            runs.append(found)
    except (ConfigError, ClozeError, WorldError) as error:
        print(f"claim: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(write_up(args.output, runs))
    return 0


def write_up(output: Path, runs: Sequence[Run]) -> Path:
    """Write the tables, the figure and, last, everything as JSON; returns the path of that."""
    rows, kept = compare(runs), knowledge(runs)
    write_text_atomically(output / "table.md", f"{table(rows)}\n{table_of_knowledge(kept)}")
    draw(runs, rows, output / "claim.png")
    everything = {"rows": list(map(asdict, rows)), "known": list(map(asdict, kept))}
    write_text_atomically(output / "claim.json", json.dumps(everything, indent=2) + "\n")
    return output / "claim.json"


# ------------------------------------------------------------------------------------------------------------ training


def configure(path: Path, overrides: Sequence[str], output: Path, arm: str, seed: int) -> tuple[Run, Config]:
    """A run that is still to be made, and its configuration.

    Raises:
        ConfigError: arms that would not differ, or that would be taught to act before they reinforce.
    """
    settings = [*overrides, f"seed={seed}", "train.log_every=1"]
    rl = load(path, settings).rl
    if rl is None or not rl.warmup.steps * rl.warmup.clozes or rl.auxiliary.weight is None or not rl.evaluation.every:
        raise ConfigError(
            f"{path}: arms differ in the clozes of the warm-up and in those beside, and are compared by validation: "
            "set rl.warmup.steps, rl.warmup.clozes, rl.auxiliary.weight and rl.evaluation.every"
        )
    if len(rl.rollouts.worlds) != 1:
        raise ConfigError(
            f"{path}: rl.rollouts.worlds names {len(rl.rollouts.worlds)} worlds: give one, and a file each"
        )
    if rl.warmup.behaviour != "random":
        raise ConfigError(
            f"rl.warmup.behaviour={rl.warmup.behaviour} shows how to act, before any arm has tried: random"
        )
    acting = [name for name in load(path, settings).clozes.weights if named(name).task in ("policy", "budget")]
    if acting:
        raise ConfigError(f"clozes.weights: {', '.join(acting)} teach how to act, which is what RL is to do here")
    config = load(path, [*settings, *ARMS[arm]])
    run = Run(rl.rollouts.worlds[0], arm, seed, digest(config), (), {})
    return run, config.model_copy(update={"output": str(output / run.name)})


def digest(config: Config) -> str:
    """Of everything that decides what a run is."""
    values = config.model_dump(mode="json", exclude={"output"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def finished(output: Path, run: Run) -> Run | None:
    """The line of a run that has ended.

    Raises:
        ConfigError: it ran with other settings, or the file is damaged.
    """
    path = output / "runs.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            found = _RUN.validate_json(line)
        except ValidationError:
            raise ConfigError(f"{path}, line {number} is damaged: delete the line, and its run is read anew") from None
        if found.name == run.name:
            if found.settings != run.settings:
                raise ConfigError(f"{path} has {run.name} with other settings: give the same, or another --output")
            return found
    return None


def train(config: Config) -> int:
    """Train to the end, or go on to it; returns the exit code."""
    output = Path(config.output)
    ensure_folder(output.parent)
    path = output.with_suffix(".yaml")
    save(config, path)
    command = [sys.executable, "-m", "vagen.cli", "train", "--config", str(path)]
    print(f"claim: {output}", file=sys.stderr, flush=True)
    return subprocess.run(
        [*command, *(["--resume"] if (output / "run.json").exists() else [])], check=False
    ).returncode


def curve_of(run: Path, config: Config) -> tuple[Point, ...]:
    """Success in validation over what it has cost, from the metrics of a run that reports every step."""
    assert config.rl is not None, "checked in configure"
    world, rollouts = config.rl.rollouts.worlds[0], config.rl.rollouts
    collected = run / COLLECTED / world
    steps = float(read_manifest(collected).transitions) if collected.is_dir() else 0.0
    seconds, curve = 0.0, []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record: Mapping[str, float] = json.loads(line)
        seconds += record["processor_seconds"]
        episodes = rollouts.groups * rollouts.members - record.get("rollout/errors", 0.0)
        steps += record.get("rollout/steps", 0.0) * episodes
        if "eval/success" in record:
            curve.append(Point(steps, seconds, record["eval/success"]))
    return tuple(curve)


def known(run: Path, config: Config) -> dict[str, float]:
    """The share of each of the configuration's clozes that the last checkpoint gets right, on validation layouts."""
    assert config.rl is not None, "checked in configure"
    chat, clozes = open_chat(str(latest_model(run))), list(config.clozes.weights)
    card = evaluate(chat, config.rl.rollouts.worlds, clozes, ASKED, SEED_OF_QUESTIONS, "val")
    return {row["cloze"]: row["accuracy"] for row in card["rows"]}


# ----------------------------------------------------------------------------------------------------------- comparing


def success_at(curve: Sequence[Point], axis: Axis, where: Sequence[float]) -> NDArray[np.float64]:
    """Success at places of an axis: linear between measurements, 0 before the first, level after the last."""
    places = [getattr(point, axis) for point in curve]
    return np.asarray(np.interp(where, places, [point.success for point in curve], left=0.0))


def area(curve: Sequence[Point], axis: Axis, until: float) -> float:
    """Mean success from 0 to ``until``; 0 before it was first measured."""
    first = getattr(curve[0], axis)
    if until <= first:
        return 0.0
    places = [first, *(x for x in (getattr(point, axis) for point in curve) if first < x < until), until]
    return float(np.trapezoid(success_at(curve, axis, places), places)) / until


def mean(values: Sequence[float]) -> Mean:
    """The mean with Student's interval."""
    value, n = statistics.fmean(values), len(values)
    if n < 2:
        return Mean(value, None, None, n)
    quantile = STUDENT[n - 2] if n - 2 < len(STUDENT) else 2.13
    half = quantile * statistics.stdev(values) / math.sqrt(n)
    return Mean(value, value - half, value + half, n)


def compare(runs: Sequence[Run]) -> list[Row]:
    """Every arm in every world and, of several, in their mean, on both axes."""
    worlds, arms = (list(dict.fromkeys(getattr(run, name) for run in runs)) for name in ("world", "arm"))
    rows: list[Row] = []
    for axis in AXES:
        areas: dict[tuple[str, str, int], float] = {}
        lasts: dict[tuple[str, str, int], float] = {}
        until: dict[str, float] = {}
        for world in worlds:
            own = [run for run in runs if run.world == world]
            until[world] = min(getattr(run.curve[-1], axis) for run in own)
            for run in own:
                areas[world, run.arm, run.seed] = area(run.curve, axis, until[world])
                lasts[world, run.arm, run.seed] = float(success_at(run.curve, axis, [until[world]])[0])
        for where in ([world] for world in worlds) if len(worlds) == 1 else (*([w] for w in worlds), worlds):
            rows += [_row(axis, where, arm, arms[0], until, areas, lasts) for arm in arms]
    return rows


def _row(
    axis: Axis,
    worlds: Sequence[str],
    arm: str,
    base: str,
    until: Mapping[str, float],
    areas: Mapping[tuple[str, str, int], float],
    lasts: Mapping[tuple[str, str, int], float],
) -> Row:
    seeds = sorted({seed for _, _, seed in areas})

    def over(values: Mapping[tuple[str, str, int], float], arm: str) -> list[float]:
        return [statistics.fmean(values[world, arm, seed] for world in worlds) for seed in seeds]

    def less_base(values: Mapping[tuple[str, str, int], float]) -> Mean | None:
        pairs = zip(over(values, arm), over(values, base), strict=True)
        return None if arm == base else mean([mine - theirs for mine, theirs in pairs])

    return Row(
        axis,
        worlds[0] if len(worlds) == 1 else "mean",
        arm,
        statistics.fmean(until[world] for world in worlds),
        mean(over(areas, arm)),
        mean(over(lasts, arm)),
        less_base(areas),
        less_base(lasts),
    )


def knowledge(runs: Sequence[Run]) -> list[Knowledge]:
    """What every arm knows in the end, in every world and of every cloze."""
    cells = dict.fromkeys((run.world, run.arm, cloze) for run in runs for cloze in run.known)
    return [
        Knowledge(*cell, mean([run.known[cell[2]] for run in runs if (run.world, run.arm) == cell[:2]]))
        for cell in cells
    ]


# ------------------------------------------------------------------------------------------------------------- showing


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per row; gains are paired by seed."""
    heads = [
        "compared over",
        "world",
        "arm",
        "mean success",
        "at the end",
        "gain of the mean",
        "ahead at the end",
        "seeds",
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        over = f"{row.until:,.0f} {AXES[row.axis]}"
        gains = ["" if gain is None else said(gain, "+") for gain in (row.gain, row.ahead)]
        cells = [over, row.world, row.arm, said(row.area), said(row.last), *gains, str(row.area.n)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_of_knowledge(kept: Sequence[Knowledge]) -> str:
    """Markdown: a line per world and arm, a column per cloze."""
    clozes = list(dict.fromkeys(one.cloze for one in kept))
    lines = [f"| world | arm | {' | '.join(clozes)} |", "|" + "---|" * (2 + len(clozes))]
    for world, arm in dict.fromkeys((one.world, one.arm) for one in kept):
        right = {one.cloze: said(one.right) for one in kept if (one.world, one.arm) == (world, arm)}
        lines.append(f"| {world} | {arm} | {' | '.join(right.get(cloze, '') for cloze in clozes)} |")
    return "\n".join(lines) + "\n"


def said(found: Mean, sign: str = "") -> str:
    """A mean with its interval, where it has one."""
    if found.low is None or found.high is None:
        return f"{found.value:{sign}.3f}"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def draw(runs: Sequence[Run], rows: Sequence[Row], output: Path) -> None:
    """Success over either cost in each world: seeds thin, their mean thick, up to where the arms are compared."""
    worlds = list(dict.fromkeys(run.world for run in runs))
    arms = list(dict.fromkeys(run.arm for run in runs))
    figure = Figure(figsize=(4.4 * len(worlds), 6), layout="constrained", dpi=130)
    panels: Any = figure.subplots(len(AXES), len(worlds), squeeze=False, sharey=True)
    for line, axis in enumerate(AXES):
        for place, world in enumerate(worlds):
            panel = panels[line][place]
            until = next(row.until for row in rows if (row.axis, row.world) == (axis, world))
            grid = np.linspace(0, until, 200).tolist()
            for number, arm in enumerate(arms):
                curves = [success_at(r.curve, axis, grid) for r in runs if (r.world, r.arm) == (world, arm)]
                for own in curves:
                    panel.plot(grid, own, color=f"C{number}", lw=0.6, alpha=0.5)
                panel.plot(grid, np.mean(curves, 0), color=f"C{number}", lw=2, label=NAMES[arm])
            panel.set_title(world, fontsize=10)
            panel.set_xlabel(AXES[axis])
            panel.set_ylim(0, 1)
            panel.locator_params(axis="x", nbins=6)
            panel.spines[["top", "right"]].set_visible(False)
        panels[line][0].set_ylabel("success, validation")
    panels[0][0].legend(frameon=False)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    sys.exit(main())

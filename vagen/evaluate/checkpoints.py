"""``vagen eval checkpoints``: does the agent act better as it understands more?

Every kept checkpoint of a run answers the same clozes and plays the same episodes; for each world and cloze the rank
correlation between accuracy and success over the checkpoints is reported. Few checkpoints prove little, and training
time ties together whatever rises with it: the p-value speaks of order, not of cause.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vagen.evaluate import agent, worldmodel
from vagen.files import atomic_path
from vagen.policy.chat import open_chat
from vagen.policy.policy import ModelError
from vagen.rollout.agents import ModelAgent
from vagen.train.run import models_of
from worlds import Split

PERMUTATIONS = 10_000  # of which the p-value of a correlation is counted


@dataclass(frozen=True)
class Point:
    """One checkpoint in one world: accuracy of each cloze, and success with its 95 % interval."""

    step: int
    world: str
    accuracy: dict[str, float]
    success: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a cloze's accuracy with success over checkpoints.

    ``rho`` and ``p`` are None where one of the two never changes; ``p`` is the share of random pairings whose
    correlation is at least as far from 0.
    """

    world: str
    cloze: str
    checkpoints: int
    rho: float | None
    p: float | None


def evaluate(
    run: Path,
    worlds: Sequence[str],
    clozes: Sequence[str],
    n: int,
    episodes: int,
    seed: int,
    split: Split,
    batch: int,
    max_steps: int,
) -> tuple[list[Point], list[Correlation]]:
    """Measure every checkpoint of a run.

    Args:
        worlds, clozes: what to ask; those of the run where empty.
        n, episodes: samples and episodes per world.

    Raises:
        ModelError: the run has fewer than two checkpoints.
    """
    models = checkpoints_of(run)
    points: list[Point] = []
    for number, (step, folder) in enumerate(models.items(), start=1):
        print(f"checkpoint {number} of {len(models)}: step {step}", file=sys.stderr, flush=True)
        chat = open_chat(str(folder))
        known = chat.policy.format
        chosen, asked = worlds or known.worlds, clozes or known.clozes
        card = worldmodel.evaluate(chat, chosen, asked, n, seed, split, batch)
        played = agent.evaluate([ModelAgent(chat, batch)], chosen, episodes, seed, split, max_steps)
        for row in played["rows"]:
            accuracy = {r["cloze"]: r["accuracy"] for r in card["rows"] if r["world"] == row["world"]}
            points.append(Point(step, row["world"], accuracy, row["success"], row["ci_low"], row["ci_high"]))
    return points, correlations(points)


def checkpoints_of(run: Path) -> dict[int, Path]:
    """The model folders of a run's checkpoints by step."""
    found = models_of(run)
    if len(found) < 2:
        raise ModelError(
            f"{run} has {len(found)} checkpoints, and a correlation takes several: train with "
            "--train.checkpoint_every and --train.keep_checkpoints"
        )
    return found


def correlations(points: Sequence[Point]) -> list[Correlation]:
    """One per world and cloze."""
    found = []
    for world in dict.fromkeys(point.world for point in points):
        own = [point for point in points if point.world == world]
        success = np.array([point.success for point in own])
        for cloze in own[0].accuracy:
            accuracy = np.array([point.accuracy[cloze] for point in own])
            rho, p = spearman(accuracy, success)
            found.append(Correlation(world, cloze, len(own), rho, p))
    return found


def spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], permutations: int = PERMUTATIONS
) -> tuple[float | None, float | None]:
    """Spearman's rho of two (K,) series and its two-sided permutation p-value; ties get their mean rank."""
    ranks_x, ranks_y = _ranks(x), _ranks(y)
    spread = np.linalg.norm(ranks_x) * np.linalg.norm(ranks_y)
    if spread == 0:
        return None, None
    rho = float(ranks_x @ ranks_y / spread)
    generator = np.random.default_rng(0)
    shuffled = np.array([generator.permutation(ranks_y) for _ in range(permutations)])
    extreme = np.abs(shuffled @ ranks_x / spread) >= abs(rho) - 1e-12
    return rho, float((extreme.sum() + 1) / (permutations + 1))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks with mean 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    ranks = mean_rank[inverse]
    return ranks - ranks.mean()


def as_json(points: Sequence[Point], found: Sequence[Correlation]) -> dict[str, Any]:
    """Everything as plain data."""
    return {"points": [asdict(p) for p in points], "correlations": [asdict(c) for c in found]}


def table(found: Sequence[Correlation]) -> str:
    """The correlations as a table for a terminal."""
    width = max(len(c.world) for c in found) + 2
    lines = [f"{'world':<{width}}{'cloze':<24}{'checkpoints':>12}{'rho':>8}{'p':>9}"]
    for c in found:
        numbers = f"{'–':>8}{'–':>9}" if c.rho is None or c.p is None else f"{c.rho:>+8.2f}{c.p:>9.3g}"
        lines.append(f"{c.world:<{width}}{c.cloze:<24}{c.checkpoints:>12}{numbers}")
    return "\n".join(lines)


def picture(points: Sequence[Point], output: Path) -> Path:
    """Success over accuracy, one panel per world, one line per cloze through the checkpoints, as a PNG."""
    worlds = list(dict.fromkeys(point.world for point in points))
    figure = Figure(figsize=(4.2 * len(worlds), 3.6), layout="constrained", dpi=120)
    for number, world in enumerate(worlds, start=1):
        axes = figure.add_subplot(1, len(worlds), number)
        own = [point for point in points if point.world == world]
        for cloze in own[0].accuracy:
            axes.plot([p.accuracy[cloze] for p in own], [p.success for p in own], "o-", ms=4, lw=1, label=cloze)
        axes.set_title(world)
        axes.set_xlabel("cloze accuracy")
        axes.set_ylabel("success" if number == 1 else "")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.legend(fontsize=7, frameon=False)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png")
    return output

"""How a run on questions about images learns: its checkpoints' accuracy, with the right images and with others.

    python scripts/spatial_curve.py outputs/spatial --questions data/spatial/val.jsonl --images data/spatial \
        --prompts configs/spatial_prompts.yaml --task ff_rsn --choose --n 300 --out data/cards/spatial/curve.json

Writes JSON, and a picture beside it (``.png``). Letters are read as ``vagen score mindcube`` reads them; the time is
the processor time that the run's metrics recorded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vagen.cloze.statistics import wilson
from vagen.config import located
from vagen.data.examples import spread
from vagen.evaluate.mindcube.answers import extract_letter
from vagen.evaluate.mindcube.ask import Inquiry, answers, choosing, prepare, shuffled
from vagen.files import atomic_path, write_json
from vagen.mindcube.prompts import TASKS, read_wording
from vagen.mindcube.rows import MindCubeError, setting_of, take_apart
from vagen.policy.chat import Chat
from vagen.policy.policy import load
from vagen.train.run import models_of

BATCH = 100  # questions per forward pass
ALL = "all"


@dataclass(frozen=True)
class Share:
    """Of how many questions which share was answered rightly, with which 95 % interval, and how many are by chance."""

    n: int
    right: float
    low: float
    high: float
    shuffled: float
    chance: float


@dataclass(frozen=True)
class Point:
    """A checkpoint: its step, the processor minutes up to it, and what it gets right of all settings and of each."""

    step: int
    minutes: float
    settings: dict[str, Share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--n", type=int, default=400, help="questions, spread over the file")
    parser.add_argument("--choose", action="store_true", help="take the likeliest option, as in `vagen eval mindcube`")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        inquiry = thinned(prepare(args.questions, args.images, read_wording(located(args.prompts), args.task)), args.n)
        inquiry = choosing(inquiry) if args.choose else inquiry
        others = shuffled(inquiry)
    except MindCubeError as error:
        parser.error(str(error))
    models = models_of(args.run)
    points = []
    for (step, model), minutes in zip(models.items(), processor_minutes(args.run, list(models)), strict=True):
        chat = Chat(load(str(model)))
        points.append(Point(step, minutes, shares(inquiry, correct(chat, inquiry), correct(chat, others))))
        print(points[-1], flush=True)
    write_json(args.out, {"task": args.task, "chosen": args.choose, "points": list(map(asdict, points))})
    draw(points, args.out.with_suffix(".png"))


def thinned(inquiry: Inquiry, n: int) -> Inquiry:
    """So many questions, evenly from all over the file."""
    rows, prompts, images = spread(inquiry.rows, n), spread(inquiry.prompts, n), spread(inquiry.images, n)
    return replace(inquiry, rows=rows, prompts=prompts, images=images)


def correct(chat: Chat, inquiry: Inquiry) -> list[bool]:
    """Of each question, whether its answer has the right letter."""
    found: list[bool] = []
    for start in range(0, len(inquiry.rows), BATCH):
        chosen = range(start, min(start + BATCH, len(inquiry.rows)))
        for number, text in zip(chosen, answers(chat, inquiry, chosen, inquiry.wording.max_new_tokens), strict=True):
            found.append(extract_letter(text) == inquiry.rows[number]["gt_answer"])
    return found


def shares(inquiry: Inquiry, right: Sequence[bool], blind: Sequence[bool]) -> dict[str, Share]:
    """What is right of all questions, and of those of each setting."""
    members: dict[str, list[int]] = {ALL: list(range(len(right)))}
    for number, row in enumerate(inquiry.rows):
        members.setdefault(setting_of(row["id"]), []).append(number)
    return {setting: share(inquiry, right, blind, numbers) for setting, numbers in members.items()}


def share(inquiry: Inquiry, right: Sequence[bool], blind: Sequence[bool], numbers: Sequence[int]) -> Share:
    """What is right of the questions with these numbers."""
    n = len(numbers)
    found = wilson(sum(right[number] for number in numbers), n)
    chance = sum(1 / len(take_apart(inquiry.rows[number]["question"]).options) for number in numbers) / n
    return Share(n, found.value, found.low, found.high, sum(blind[number] for number in numbers) / n, chance)


def processor_minutes(run: Path, steps: Sequence[int]) -> list[float]:
    """The processor time until each of some steps: between those that the metrics know, along straight lines."""
    known, spent = [0], [0.0]
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        spent.append(spent[-1] + record["processor_seconds"] * (record["step"] - known[-1]) / 60)
        known.append(record["step"])
    return np.interp(steps, known, spent).tolist()


def draw(points: Sequence[Point], path: Path) -> None:
    """Accuracy over time beside what is had without the right images: a panel for all settings, and one for each."""
    panels = list(points[0].settings)
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(1 + 2.6 * len(panels), 2.9), dpi=150, layout="constrained")
        for axes, setting in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            panel(axes, [point.minutes for point in points], [point.settings[setting] for point in points])
            axes.set_title(f"{setting}, n = {points[0].settings[setting].n}", fontsize=9)
        figure.axes[0].set(ylabel="questions answered rightly", ylim=(0, 1))
        figure.axes[0].legend(frameon=False, fontsize=8)
        figure.supxlabel("processor minutes of training", fontsize=9)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")


def panel(axes: Axes, minutes: Sequence[float], shares: Sequence[Share]) -> None:
    """One setting's curves."""
    axes.fill_between(minutes, [s.low for s in shares], [s.high for s in shares], color="tab:blue", alpha=0.15, lw=0)
    axes.plot(minutes, [s.right for s in shares], color="tab:blue", marker="o", ms=3, label="the right images")
    axes.plot(
        minutes, [s.shuffled for s in shares], color="tab:orange", marker="o", ms=3, label="another scene's images"
    )
    axes.axhline(shares[0].chance, color="grey", lw=1, ls="--", label="chance")


if __name__ == "__main__":
    main()

"""How a run on questions about images learns: its checkpoints' accuracy, with the right images and with others.

    python scripts/spatial_curve.py outputs/spatial --questions data/spatial/val.jsonl --images data/spatial \
        --prompts configs/spatial_prompts.yaml --task raw_qa --n 400 --out data/cards/spatial/curve.json

Writes JSON, and a picture beside it (``.png``). The time is the processor time that the run's metrics recorded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vagen.cloze.statistics import wilson
from vagen.evaluate.mindcube.ask import Inquiry, answers, choosing, prepare, shuffled
from vagen.files import atomic_path, write_json
from vagen.mindcube.outputs import worth
from vagen.mindcube.prompts import TASKS, read_wording
from vagen.mindcube.rows import take_apart
from vagen.policy.chat import Chat
from vagen.policy.policy import load
from vagen.train.run import models_of

BATCH = 100  # questions per forward pass


@dataclass(frozen=True)
class Point:
    """A checkpoint: its step, the processor minutes up to it, and accuracies with right and with shuffled images."""

    step: int
    minutes: float
    accuracy: float
    low: float
    high: float
    shuffled: float


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
    inquiry = thinned(prepare(args.questions, args.images, read_wording(args.prompts, args.task)), args.n)
    if args.choose:
        inquiry = choosing(inquiry)
    models = models_of(args.run)
    points = []
    for (step, model), minutes in zip(models.items(), processor_minutes(args.run, list(models)), strict=True):
        chat = Chat(load(str(model)))
        right, blind = correct(chat, inquiry), correct(chat, shuffled(inquiry))
        share = wilson(sum(right), len(right))
        points.append(Point(step, minutes, share.value, share.low, share.high, sum(blind) / len(blind)))
        print(points[-1], flush=True)
    chance = sum(1 / len(take_apart(row["question"]).options) for row in inquiry.rows) / len(inquiry.rows)
    found = {"task": args.task, "n": len(inquiry.rows), "chance": chance, "points": list(map(asdict, points))}
    write_json(args.out, found)
    draw(points, chance, args.out.with_suffix(".png"))


def thinned(inquiry: Inquiry, n: int) -> Inquiry:
    """So many questions from all over the file."""
    every = max(1, len(inquiry.rows) // n)
    parts = (inquiry.rows, inquiry.prompts, inquiry.images)
    rows, prompts, images = (list(part)[::every][:n] for part in parts)
    return replace(inquiry, rows=rows, prompts=prompts, images=images)


def correct(chat: Chat, inquiry: Inquiry) -> list[bool]:
    """Of each question, whether it is answered rightly, in the form that is asked for."""
    task, most = inquiry.wording.task, inquiry.wording.max_new_tokens
    found: list[bool] = []
    for start in range(0, len(inquiry.rows), BATCH):
        chosen = range(start, min(start + BATCH, len(inquiry.rows)))
        for number, text in zip(chosen, answers(chat, inquiry, chosen, most), strict=True):
            found.append(worth(text, inquiry.rows[number], task).right)
    return found


def processor_minutes(run: Path, steps: Sequence[int]) -> list[float]:
    """The processor time until each of some steps: between those that the metrics know, along straight lines."""
    known, spent = [0], [0.0]
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        spent.append(spent[-1] + record["processor_seconds"] * (record["step"] - known[-1]) / 60)
        known.append(record["step"])
    return np.interp(steps, known, spent).tolist()


def draw(points: Sequence[Point], chance: float, path: Path) -> None:
    """Accuracy over time, beside what is had without the right images."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 3.2), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        x = [point.minutes for point in points]
        axes.fill_between(x, [p.low for p in points], [p.high for p in points], color="tab:blue", alpha=0.15, lw=0)
        axes.plot(x, [p.accuracy for p in points], color="tab:blue", marker="o", ms=3.5, label="the right images")
        others = [point.shuffled for point in points]
        axes.plot(x, others, color="tab:orange", marker="o", ms=3.5, label="images of another scene")
        axes.axhline(chance, color="grey", lw=1, ls="--", label="chance")
        axes.set(xlabel="processor minutes of training", ylabel="questions answered rightly", ylim=(0, 1))
        axes.legend(frameon=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")


if __name__ == "__main__":
    main()

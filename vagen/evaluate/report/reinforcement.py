"""Curves of reinforcement: what there is to watch while it goes on, one chart for what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from vagen.evaluate.report.charts import Curve, Panel, chart, look
from vagen.evaluate.report.inputs import Record, points

Scale = Literal["share", "linear", "log"]


@dataclass(frozen=True)
class _Chart:
    """Metrics that are drawn together, each with its name; ``bands``: of some of them the metrics of its interval."""

    title: str
    scale: Scale
    unit: str
    lines: dict[str, str]
    bands: dict[str, tuple[str, str]] = field(default_factory=dict)


_MI = {"mi/mi_sequence": "about the prompt", "mi/image": "about its images alone", "mi/text": "about its text alone"}
_QUARTERS = {
    "gradient/task/1": "groups that vary least",
    "gradient/task/2": "second quarter",
    "gradient/task/3": "third quarter",
    "gradient/task/4": "groups that vary most",
}
CHARTS: tuple[_Chart, ...] = (
    _Chart(
        "Reward by part",
        "linear",
        "per episode",
        {
            "reward/task": "task",
            "reward/format": "form",
            "reward/state_estimation": "description",
            "reward/transition": "prediction",
        },
    ),
    _Chart(
        "Form of responses",
        "share",
        "",
        {
            "rollout/formed": "of the form asked for",
            "rollout/cut": "cut at the limit",
            "rollout/truncated": "episodes out of time",
        },
    ),
    _Chart(
        "Groups",
        "share",
        "",
        {"groups/kept": "learned from", "groups/equal": "all alike", "groups/phantom": "differ in form alone"},
    ),
    _Chart("Entropy", "linear", "nats per token", {"entropy": "of the policy"}),
    _Chart(
        "Response length",
        "linear",
        "tokens",
        {"rollout/response_tokens": "of a response", "mi/reasoning_tokens": "of a reasoning"},
    ),
    _Chart("Episode length", "linear", "per episode", {"rollout/turns": "turns", "rollout/steps": "actions"}),
    _Chart(
        "Divergence", "linear", "nats per token", {"kl/update": "within a step", "kl/reference": "from the reference"}
    ),
    _Chart(
        "Clipped tokens",
        "share",
        "",
        {"clip/high": "at the upper bound", "clip/low": "at the lower bound", "clip/dual": "at the dual bound"},
    ),
    _Chart(
        "Sampler against trainer",
        "log",
        "nats per token",
        {"gap/sampler": "mean", "gap/sampler_max": "largest", "ratio/first_gap": "ratios of the first update"},
    ),
    _Chart("Gradient", "log", "norm", {"grad_norm": "before clipping"}),
    _Chart("Gradient of the task, by variance of rewards", "log", "norm", _QUARTERS),
    _Chart("Regularisers in the gradient", "share", "", {"gradient/regularisers": "share of all norms"}),
    _Chart("Critic", "log", "squared error", {"values/error": "before the update"}),
    _Chart("Clozes beside", "log", "loss", {"labels": "weighted"}),
    _Chart("What reasoning tells", "linear", "nats per response", _MI, {"mi/mi_sequence": ("mi/low", "mi/high")}),
    _Chart(
        "Which prompt a reasoning is from",
        "share",
        "",
        {"mi/retrieval@1": "found", "mi/chance@1": "by chance"},
    ),
    _Chart(
        "Perplexity of the true state",
        "log",
        "per token",
        {"state/perplexity_token": "of the policy", "state/guess_token": "of a valid guess"},
    ),
)


def reinforced(metrics: Sequence[Record]) -> list[Record]:
    """The records of steps of reinforcement; a warm-up's are left out."""
    return [record for record in metrics if "success" in record]


def reinforcement_panels(metrics: Sequence[Record]) -> list[Panel]:
    """Success in training and validation by world, and then every chart in which something happens."""
    keys = list(dict.fromkeys(key for record in metrics for key in record))
    trained = {key: key.removeprefix("success/") for key in keys if key.startswith("success/")}
    valued = {
        key: key.removeprefix("eval/").removesuffix("/success")
        for key in keys
        if key.startswith("eval/") and key.endswith("/success") and key.count("/") >= 2
    }
    bands = {key: (f"{key}_low", f"{key}_high") for key in valued}
    charts = (
        _Chart("Success, validation", "share", "95 % intervals", valued, bands),
        _Chart("Success, training", "share", "", trained),
        *CHARTS,
    )
    steps = reinforced(metrics)
    if not steps:
        return []
    span = (steps[0]["step"], metrics[-1]["step"])
    found = ((kind, _curves(metrics if kind.title == "Success, validation" else steps, kind)) for kind in charts)
    return [
        Panel(kind.title, curves, _drawn(f"rl{number}", kind, curves, span))
        for number, (kind, curves) in enumerate(found)
        if curves
    ]


def _curves(metrics: Sequence[Record], kind: _Chart) -> list[Curve]:
    """The lines of a chart; one that is 0 all along, or was never measured, is left out."""
    curves = []
    for number, (key, name) in enumerate(kind.lines.items()):
        line = [(step, value) for step, value in points(metrics, key) if value > 0 or kind.scale != "log"]
        if not any(value for _, value in line):
            continue
        last = f"{100 * line[-1][1]:.1f} %" if kind.scale == "share" else f"{line[-1][1]:.3g}"
        low, high = (dict(points(metrics, bound)) for bound in kind.bands.get(key, ("", "")))
        band = [(step, low[step], high[step]) for step, _ in line if step in low and step in high]
        curves.append(Curve(name, [*line], *look(number), figure=last, band=band))
    return curves


def _drawn(id: str, kind: _Chart, curves: Sequence[Curve], span: tuple[float, float]) -> str:
    def arrange(axes: Axes) -> None:
        if kind.scale == "share":
            axes.set_ylim(-0.04, 1.04)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        elif kind.scale == "log":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if span[0] < span[1]:
            axes.set_xlim(*span)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.set_xlabel("step", color="#020202")
        axes.set_ylabel(kind.unit, color="#020202")

    ends = [f"{curve.name} from {curve.points[0][1]:.3g} to {curve.points[-1][1]:.3g}" for curve in curves]
    return chart(id, f"{kind.title} over training steps: {'; '.join(ends)}", curves, arrange)

"""Learning curves: the loss over training steps, one chart per world."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from vagen.evaluate.report.charts import SERIES_COLOURS, Curve, Panel, chart, look
from vagen.evaluate.report.inputs import Points, Record, points


def loss_panels(metrics: Sequence[Record]) -> list[Panel]:
    """The total loss, then one panel per world; a cloze looks the same in all of them."""
    total = _points(metrics, "loss")
    keys = list(dict.fromkeys(key for record in metrics for key in record if key.count("/") >= 2))
    cells = [tuple(key.removeprefix("loss/").rsplit("/", 1)) for key in keys if key.startswith("loss/")]
    clozes = list(dict.fromkeys(cloze for _, cloze in cells))
    panels = {"All worlds": [_curve("total loss", total, (len(clozes) % SERIES_COLOURS, ()))]} if total else {}
    for world, cloze in cells:
        if line := _points(metrics, f"loss/{world}/{cloze}"):
            panels.setdefault(world, []).append(_curve(cloze, line, look(clozes.index(cloze))))
    losses = [loss for curves in panels.values() for curve in curves for _, loss in curve.points]
    return [
        Panel(title, curves, _chart(f"chart{number}", title, curves, (min(losses), max(losses))))
        for number, (title, curves) in enumerate(panels.items())
    ]


def _points(metrics: Sequence[Record], key: str) -> Points:
    """What a logarithmic axis can show of a metric: a diverged run's NaN and infinities are left out, as is 0."""
    return [(step, value) for step, value in points(metrics, key) if value > 0]


def _curve(name: str, points: list[tuple[float, float]], drawn: tuple[int, tuple[float, ...]]) -> Curve:
    return Curve(name, points, *drawn, figure=f"{points[-1][1]:.2g}")


def _chart(id: str, title: str, curves: Sequence[Curve], losses: tuple[float, float]) -> str:
    """Loss over steps; all charts share the range of ``losses``."""

    def arrange(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.set_ylim(losses[0] / 1.4, losses[1] * 1.4)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("step", color="#020202")

    ends = [f"{curve.name} from {curve.points[0][1]:.3g} to {curve.points[-1][1]:.3g}" for curve in curves]
    return chart(id, f"Loss over training steps, {title}: {'; '.join(ends)}", curves, arrange)

"""Accuracy over horizon, and over confidence: one chart per world, from the rows of a report card."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

from vagen.cloze.grammar import FAMILIES, LONGEST
from vagen.evaluate.report.charts import Curve, Panel, chart, look
from vagen.evaluate.report.inputs import Row, by_world
from vagen.evaluate.report.wording import percent


def horizon_panels(rows: Sequence[Row]) -> list[Panel]:
    """Families of clozes that a card has at several lengths (``rollout@1``, ``rollout@3`` …), over their length.

    A cloze belongs to a family by its pattern: ``forward_dynamics`` is ``rollout@1``.
    """
    patterns = {make(k): (family, k) for family, make in FAMILIES.items() for k in range(1, LONGEST + 1)}
    families = list(dict.fromkeys(patterns[row.pattern][0] for row in rows if row.pattern in patterns))
    panels = []
    for world, own in by_world(rows, lambda row: row.world).items():
        points = {family: dict[float, float]() for family in families}
        for row in own:
            if row.pattern in patterns:
                family, k = patterns[row.pattern]
                points[family].setdefault(k, row.accuracy)
        curves = [
            _line(family, sorted(found.items()), families.index(family), f"{percent(found[max(found)])} %")
            for family, found in points.items()
            if len(found) > 1
        ]
        if curves:
            drawing = _chart(f"horizon{len(panels)}", f"Accuracy over transitions, {world}", curves, "transitions")
            panels.append(Panel(world, curves, drawing))
    return panels


def calibration_panels(rows: Sequence[Row]) -> list[Panel]:
    """Reliability diagrams: the accuracy of answers over the probability that the model gave them."""
    clozes = list(dict.fromkeys(row.cloze for row in rows))
    panels = []
    for world, own in by_world([row for row in rows if row.calibration], lambda row: row.world).items():
        curves = [
            _line(
                row.cloze,
                [(b.confidence, b.accuracy) for b in row.calibration.bins],
                clozes.index(row.cloze),
                f"{percent(row.calibration.ece)} %",
            )
            for row in own
            if row.calibration
        ]
        drawing = _chart(f"calibration{len(panels)}", f"Accuracy over confidence, {world}", curves, "confidence")
        panels.append(Panel(world, curves, drawing))
    return panels


def _line(name: str, points: list[tuple[float, float]], number: int, figure: str) -> Curve:
    return Curve(name, points, *look(number), figure=figure)


def _chart(id: str, title: str, curves: Sequence[Curve], over: str) -> str:
    """Accuracies from 0 to 1, over transitions, or over confidence with the diagonal that is perfect."""

    def arrange(axes: Axes) -> None:
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.set_xlabel(over, color="#020202")
        if over == "confidence":
            axes.plot([0, 1], [0, 1], color="#020202", lw=0.8, zorder=0)
            axes.set_xlim(-0.02, 1.02)
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    texts = [f"{c.name} " + ", ".join(f"{x:.3g}: {percent(y)} %" for x, y in c.points) for c in curves]
    return chart(id, f"{title}: {'; '.join(texts)}", curves, arrange, markers=True)

"""Learning curves: the loss over training steps, one chart per world, as SVG in the page's colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from vagen.evaluate.report.inputs import Record

DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.6, 1.1), (6, 1.4, 1.2, 1.4))
SERIES_COLOURS = 6  # --series-0 … in the page's style sheet
# Matplotlib draws in stand-in colours, which then become the page's own: they follow light and dark.
STAND_INS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)"} | {
    f"#0400{i:02x}": f"var(--series-{i})" for i in range(SERIES_COLOURS)
}
CHART_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vagen",
    "font.size": 8,
    "text.color": "#010101",
    "axes.edgecolor": "#030303",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#030303",
    "grid.linewidth": 0.6,
    "xtick.color": "#020202",
    "ytick.color": "#020202",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Curve:
    """One line: (step, loss) pairs, and how it is drawn."""

    name: str
    points: list[tuple[float, float]]
    colour: int
    dash: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One chart; ``chart`` is SVG markup, to go into the page as it is."""

    title: str
    curves: list[Curve]
    chart: str


def loss_panels(metrics: Sequence[Record]) -> list[Panel]:
    """The total loss, then one panel per world; a cloze looks the same in all of them."""
    total = _points(metrics, "loss")
    keys = list(dict.fromkeys(key for record in metrics for key in record if key.count("/") >= 2))
    cells = [tuple(key.split("/", 2)[1:]) for key in keys if key.startswith("loss/")]
    clozes = list(dict.fromkeys(cloze for _, cloze in cells))
    panels = {"All worlds": [Curve("total loss", total, len(clozes) % SERIES_COLOURS, ())]} if total else {}
    for world, cloze in cells:
        if points := _points(metrics, f"loss/{world}/{cloze}"):
            number = clozes.index(cloze)
            dash = DASHES[(number + number // SERIES_COLOURS) % len(DASHES)]
            panels.setdefault(world, []).append(Curve(cloze, points, number % SERIES_COLOURS, dash))
    losses = [loss for curves in panels.values() for curve in curves for _, loss in curve.points]
    return [
        Panel(title, curves, _chart(f"chart{number}", title, curves, (min(losses), max(losses))))
        for number, (title, curves) in enumerate(panels.items())
    ]


def _points(metrics: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """What a logarithmic axis can show of a metric: a diverged run's NaN and infinities are left out, as is 0."""
    pairs = ((record["step"], record.get(key, math.nan)) for record in metrics)
    return [(step, value) for step, value in pairs if math.isfinite(value) and value > 0]


def _chart(id: str, title: str, curves: Sequence[Curve], losses: tuple[float, float]) -> str:
    """Loss over steps as inline SVG in the page's colours; all charts share the range of ``losses``."""
    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        for curve in curves:
            style = (0, curve.dash) if curve.dash else "-"
            marker = "o" if len(curve.points) == 1 else None
            axes.plot(
                *zip(*curve.points, strict=True), color=f"#0400{curve.colour:02x}", ls=style, lw=1.6, marker=marker
            )
        axes.set_yscale("log")
        axes.set_ylim(losses[0] / 1.4, losses[1] * 1.4)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("step", color="#020202")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inlined(file.getvalue(), id, _chart_text(title, curves))


def _chart_text(title: str, curves: Sequence[Curve]) -> str:
    ends = [f"{curve.name} from {curve.points[0][1]:.3g} to {curve.points[-1][1]:.3g}" for curve in curves]
    return f"Loss over training steps, {title}: {'; '.join(ends)}"


def _inlined(svg: str, id: str, label: str) -> str:
    """A drawing of Matplotlib's as a part of the page: no namespaces, no style sheet, its own ids, themed colours."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _own(name, value, id) for name, value in attributes.items()})
    size = {"viewBox": root.attrib["viewBox"]}
    root.attrib.clear()
    root.attrib.update({"class": "chart", "role": "img", "aria-label": label, **size})
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _own(name: str, value: str, id: str) -> str:
    """An attribute's value, with ids made unique to a drawing and stand-in colours replaced."""
    if name == "id":
        return f"{id}-{value}"
    if name == "href":
        return f"#{id}-{value.removeprefix('#')}"
    value = re.sub(r"font: [^;]*;? ?", "", value.replace("url(#", f"url(#{id}-"))
    return re.sub(r"#0[0-9a-f]{5}", lambda match: STAND_INS.get(match[0], match[0]), value)

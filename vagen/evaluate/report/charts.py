"""Charts of lines, as SVG in the page's colours: what learning curves, horizons and calibration have in common."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    """One line: its (x, y) points, how it is drawn, the number beside its name, and (x, low, high) of an interval."""

    name: str
    points: list[tuple[float, float]]
    colour: int
    dash: tuple[float, ...]
    figure: str
    band: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One chart; ``chart`` is SVG markup, to go into the page as it is."""

    title: str
    curves: list[Curve]
    chart: str


def look(number: int) -> tuple[int, tuple[float, ...]]:
    """Colour and dash of the ``number``-th line; the first two dozen differ."""
    return number % SERIES_COLOURS, DASHES[(number + number // SERIES_COLOURS) % len(DASHES)]


def chart(id: str, label: str, curves: Sequence[Curve], arrange: Callable[[Axes], None], markers: bool = False) -> str:
    """Lines as inline SVG in the page's colours.

    Args:
        id: begins the ids of the drawing's parts.
        label: what it shows, for those who do not see it.
        arrange: sets up the axes.
        markers: mark the points; a line of one point is always marked.
    """
    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        for curve in curves:
            style = (0, curve.dash) if curve.dash else "-"
            marker = "o" if markers or len(curve.points) == 1 else None
            colour = f"#0400{curve.colour:02x}"
            if curve.band:
                x, low, high = zip(*curve.band, strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
            axes.plot(*zip(*curve.points, strict=True), color=colour, ls=style, lw=1.6, marker=marker, ms=3.5)
        arrange(axes)
        axes.grid(axis="x", visible=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inlined(file.getvalue(), id, label)


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

"""One self-contained HTML page about a run: report card, learning curves, sample clozes, agents, how it was made.

Everything the page shows is prepared here; ``report.html.jinja`` only lays it out. The page loads nothing from
elsewhere, and the same run gives the same bytes. This module knows nothing about models: it reads what runs leave.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, TypeVar
from xml.etree import ElementTree

import jinja2
import matplotlib
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

import vagen
from vagen.cloze.sample import simulator
from vagen.files import write_text_atomically
from worlds import Snapshot, WorldError, registered

PAGE = "report.html"
CONFIG, METRICS, CARD, AGENTS, SEEDS = "config.yaml", "metrics.jsonl", "report_card.json", "agents.json", "seeds.json"
MADE_BY = {
    CONFIG: "vagen train",
    METRICS: "vagen train",
    CARD: "vagen eval worldmodel",
    AGENTS: "vagen eval agent",
}
SAMPLES_SHOWN = 2  # per world and cloze
FRAMES_SHOWN = 24  # of an episode
SAMPLE_PIXELS, FRAME_PIXELS = 144, 96  # images are enlarged by a whole factor to about this width


class ReportError(ValueError):
    """A run that no page can be made of; the message names the file and what is wrong with it."""


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder, from whatever results lie there, and return its path.

    Raises:
        ReportError: the folder has no results, or one of them is damaged.
    """
    page = _page(run)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vagen", "evaluate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": _percent, "count": "{:,}".format, "loss": "{:.3g}".format}
    output = run / PAGE
    write_text_atomically(output, environment.get_template("report.html.jinja").render(page=page) + "\n")
    return output


# ------------------------------------------------------------------------------------------------ what runs leave behind

Share = Annotated[float, Field(ge=0, le=1)]


class _Input(BaseModel):
    """A part of a result file: what the page needs of it. Other keys are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class _Example(_Input):
    images: list[dict[str, Any]]
    question: str
    truth: str
    answer: str
    correct: bool


class _Row(_Input):
    world: str
    cloze: str
    pattern: str
    input: str
    representation: str
    horizon: int
    n: int
    accuracy: Share
    ci_low: Share
    ci_high: Share
    ceiling: Share | None
    floors: dict[str, Share | None]
    floor_intervals: dict[str, tuple[Share, Share] | None] = {}
    skill: float | None
    field_f1: dict[str, Share]
    parsed: Share | None = None
    effective: Share | None = None
    seen_in_training: Share | None = None
    examples: list[_Example] = []


class _Card(_Input):
    rows: list[_Row] = Field(min_length=1)
    split: str
    model: str = ""
    seed: int
    parameters: int | None = None
    versions: dict[str, str] = {}


class _Episode(_Input):
    snapshots: list[dict[str, Any]]
    actions: list[int]


class _AgentRow(_Input):
    world: str
    agent: str
    n: int
    success: Share
    ci_low: Share
    ci_high: Share
    mean_steps: float | None = None
    example: _Episode | None = None


class _Agents(_Input):
    rows: list[_AgentRow] = Field(min_length=1)
    split: str | None = None
    seed: int | None = None


class _SeedRow(_Input):
    world: str
    cloze: str
    accuracy: Share


class _SeedRun(_Input):
    seed: int
    mean_accuracy: Share
    rows: list[_SeedRow] = []


Record = dict[str, float]  # one line of metrics.jsonl
T = TypeVar("T")


@dataclass(frozen=True)
class _Results:
    """What lies in a run's folder; ``None`` or empty where it does not."""

    run: Path
    config: dict[str, Any] | None
    config_text: str
    metrics: list[Record]
    card: _Card | None
    agents: _Agents | None
    seeds: list[_SeedRun]


def _read(run: Path) -> _Results:
    if not run.is_dir():
        raise ReportError(f"{run} is no folder; give the folder of a run")
    if not any((run / name).is_file() for name in (*MADE_BY, SEEDS)):
        raise ReportError(f"{run} holds no results; a report needs one of {', '.join(MADE_BY)}")
    config_text = _text(run / CONFIG) or ""
    return _Results(
        run,
        config=_parse_yaml(run / CONFIG, config_text) if config_text else None,
        config_text=config_text,
        metrics=_read_metrics(run / METRICS),
        card=_read_json(run / CARD, TypeAdapter(_Card)),
        agents=_read_json(run / AGENTS, TypeAdapter(_Agents)),
        seeds=_read_json(run / SEEDS, TypeAdapter(list[_SeedRun])) or [],
    )


def _text(path: Path) -> str | None:
    """The text of a file, or ``None`` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is damaged: not UTF-8 at byte {error.start}") from None


def _read_json(path: Path, kind: TypeAdapter[T]) -> T | None:
    text = _text(path)
    return None if text is None else _parse_json(text, kind, str(path))


def _read_metrics(path: Path) -> list[Record]:
    """The records of all steps. A resumed run repeats steps: what it wrote last is what counts."""
    records: list[Record] = []
    for number, line in enumerate((_text(path) or "").splitlines(), start=1):
        record = _parse_json(line, TypeAdapter(Record), f"{path}, line {number}")
        if "step" not in record:
            raise ReportError(f"{path}, line {number} is damaged: it has no step")
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return records


def _parse_json(text: str, kind: TypeAdapter[T], where: str) -> T:
    try:
        return kind.validate_python(json.loads(text))
    except json.JSONDecodeError as error:
        line = "" if ", line " in where else f", line {error.lineno}"
        raise ReportError(f"{where}{line} is damaged: {error.msg} at column {error.colno}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ReportError(f"{where} is damaged: {key}: {first['msg']}") from None


def _parse_yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ReportError(f"{where} is damaged: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(config, dict):
        raise ReportError(f"{path}, line 1 is damaged: a configuration is a mapping of keys to values")
    return config


# ------------------------------------------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Stat:
    """A headline number."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Page:
    """Everything the template lays out. ``None`` and empty parts are left out."""

    title: str
    model: str
    summary: str
    stats: list[Stat]
    card: CardView | None
    seeds: SeedsView | None
    panels: list[Panel]
    samples: list[WorldSamples]
    agents: AgentsView | None
    facts: list[tuple[str, str]]
    versions: dict[str, str]
    config: str
    missing: list[tuple[str, str]]


def _page(run: Path) -> Page:
    results = _read(run)
    card, config = results.card, results.config or {}
    model = (card.model if card else "") or (config.get("model") or {}).get("path") or ""
    return Page(
        title=run.resolve().name,
        model=model,
        summary=_summary(results),
        stats=_stats(results),
        card=_card_view(card, results.seeds) if card else None,
        seeds=_seeds_view(card, config, results.seeds) if results.seeds else None,
        panels=_panels(results.metrics),
        samples=_samples(card.rows, run / CARD) if card else [],
        agents=_agents_view(results.agents, run / AGENTS) if results.agents else None,
        facts=_facts(results),
        versions={"vagen (this page)": vagen.__version__, **(card.versions if card else {})},
        config=results.config_text,
        missing=[(name, command) for name, command in MADE_BY.items() if not (run / name).is_file()],
    )


def _summary(results: _Results) -> str:
    names = [row.world for row in results.card.rows] if results.card else []
    names = names or [row.world for row in results.agents.rows] if results.agents else names
    worlds = f" of {_listed(list(dict.fromkeys(names)))}" if names else ""
    return (
        "How well a vision-language model understands the worlds it acts in: it is shown images and actions"
        f"{worlds}, and asked to fill in the missing link of the Markov decision process, exactly."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _stats(results: _Results) -> list[Stat]:
    stats = []
    if results.card:
        stats += _card_stats(results.card)
    if results.agents:
        stats.append(_success_stat(results.agents))
    stats += _training_stats(results.metrics)
    if results.card and results.card.parameters:
        stats.append(Stat("Parameters", _brief(results.card.parameters), f"{results.card.parameters:,}"))
    return stats


def _card_stats(card: _Card) -> list[Stat]:
    rows = _headline_rows(card)
    accuracies = [row.accuracy for row in rows]
    floors = [_best_floor(row.floors) for row in rows]
    each = {row.n for row in rows}
    n = f"{min(each):,} per row" if len(each) == 1 else f"{min(each):,} – {max(each):,} per row"
    return [
        Stat(
            "Mean accuracy",
            f"{_percent(fmean(accuracies))} %",
            f"{_range(accuracies)} over {_plural(len(rows), 'row')}",
        ),
        Stat("Mean best floor", f"{_percent(fmean(floors))} %", f"{_range(floors)}; without understanding"),
        Stat("Test samples", f"{sum(row.n for row in rows):,}", n),
    ]


def _headline_rows(card: _Card) -> list[_Row]:
    """The rows about images; all rows where there is no such row."""
    return [row for row in card.rows if row.input == "image"] or card.rows


def _success_stat(agents: _Agents) -> Stat:
    acting = _acting_agent(agents)
    means = {name: fmean(r.success for r in agents.rows if r.agent == name) for name in _agent_names(agents)}
    others = ", ".join(f"{name} {_percent(mean)}" for name, mean in means.items() if name != acting)
    return Stat("Task success", f"{_percent(means[acting])} %", others or acting)


def _training_stats(metrics: Sequence[Record]) -> list[Stat]:
    if not metrics:
        return []
    spans = zip([0.0, *(record["step"] for record in metrics)], metrics, strict=False)
    lengths = [(record["step"] - before, record) for before, record in spans]
    steps = f"{metrics[-1]['step']:,.0f} steps"
    if not all("seconds_per_step" in record for record in metrics):
        return [Stat("Training", steps, "duration not recorded")]
    times = [(n * record["seconds_per_step"], record) for n, record in lengths]
    seconds = sum(time for time, _ in times)
    stats = [Stat("Training time", _duration(seconds), steps)]
    if seconds > 0 and all("clozes_per_second" in record for record in metrics):
        seen = sum(time * record["clozes_per_second"] for time, record in times)
        stats.append(Stat("Clozes seen", _brief(seen), f"{seen / seconds:,.0f} per second"))
    return stats


def _facts(results: _Results) -> list[tuple[str, str]]:
    """Seeds, splits and sizes, as (what, value)."""
    facts = []
    if results.config is not None and "seed" in results.config:
        facts.append(("Training seed", str(results.config["seed"])))
    if results.card:
        facts += [("Test split", results.card.split), ("Test seed", str(results.card.seed))]
    if results.agents and results.agents.split is not None:
        facts += [("Episodes’ split", results.agents.split), ("Episodes’ seed", str(results.agents.seed))]
    if results.metrics and "sharing" in results.metrics[-1]:
        facts.append(("Tokens saved by packing", f"× {results.metrics[-1]['sharing']:.2f}"))
    return facts


# ---------------------------------------------------------------------------------------------------------- report card


@dataclass(frozen=True)
class FloorKind:
    """A way to answer without understanding."""

    name: str
    letter: str
    meaning: str


FLOORS = {
    "majority": FloorKind("majority", "M", "always the answer that is right most often for the same text"),
    "copy": FloorKind("copy", "C", "the last state shown, as if the action had changed nothing"),
    "random": FloorKind("random", "R", "a valid answer drawn at random"),
    "shuffled_image": FloorKind("shuffled image", "S", "this model, shown the image of another sample"),
}


@dataclass(frozen=True)
class Floor:
    """A floor of one row; ``value`` is None where it does not apply. ``letter_at`` is where its letter has room."""

    kind: FloorKind
    value: float | None
    interval: tuple[float, float] | None
    best: bool
    letter_at: float


@dataclass(frozen=True)
class CardRow:
    """One row of the table; ``other_seeds`` are the accuracies of models trained with other seeds."""

    row: _Row
    floors: list[Floor]
    best_floor: float
    other_seeds: list[tuple[int, float]]


@dataclass(frozen=True)
class CardView:
    worlds: list[tuple[str, list[CardRow]]]
    kinds: list[FloorKind]
    split: str
    has_seeds: bool


def _card_view(card: _Card, seeds: Sequence[_SeedRun]) -> CardView:
    kinds = {name: FLOORS.get(name) or _unknown_floor(name) for row in card.rows for name in row.floors}
    rows = [_card_row(row, kinds, seeds) for row in card.rows]
    return CardView(
        worlds=[(world, list(group)) for world, group in groupby(rows, key=lambda r: r.row.world)],
        kinds=list(kinds.values()),
        split=card.split,
        has_seeds=any(row.other_seeds for row in rows),
    )


def _unknown_floor(name: str) -> FloorKind:
    return FloorKind(name.replace("_", " "), name[:1].upper(), "a floor newer than this page")


def _card_row(row: _Row, kinds: Mapping[str, FloorKind], seeds: Sequence[_SeedRun]) -> CardRow:
    best = max((name for name in kinds if row.floors.get(name) is not None), key=lambda n: row.floors[n], default=None)
    values = {name: value for name, value in row.floors.items() if value is not None}
    places = dict(zip(sorted(values, key=values.__getitem__), _spread(sorted(values.values())), strict=True))
    return CardRow(
        row=row,
        floors=[
            Floor(kind, row.floors.get(name), row.floor_intervals.get(name), name == best, places.get(name, 0.0))
            for name, kind in kinds.items()
        ],
        best_floor=_best_floor(row.floors),
        other_seeds=[
            (run.seed, r.accuracy) for run in seeds for r in run.rows if (r.world, r.cloze) == (row.world, row.cloze)
        ],
    )


def _best_floor(floors: Mapping[str, float | None]) -> float:
    return max((value for value in floors.values() if value is not None), default=0.0)


def _spread(places: Sequence[float], gap: float = 0.042) -> list[float]:
    """Ascending places in [0, 1], moved as little as needed to stand at least ``gap`` apart, within [0, 1]."""
    spread = list(places)
    for i in range(1, len(spread)):
        spread[i] = max(spread[i], spread[i - 1] + gap)
    limit = 1.0
    for i in reversed(range(len(spread))):
        spread[i] = min(spread[i], limit)
        limit = spread[i] - gap
    return spread


@dataclass(frozen=True)
class SeedsView:
    """Mean accuracy per training seed; ``spread`` is (mean, standard deviation) over all of them."""

    rows: list[tuple[str, float]]
    spread: tuple[float, float] | None


def _seeds_view(card: _Card | None, config: Mapping[str, Any], seeds: Sequence[_SeedRun]) -> SeedsView:
    rows = [(str(run.seed), run.mean_accuracy) for run in seeds]
    if card:
        rows.insert(0, (f"{config.get('seed', '?')} (this page)", fmean(r.accuracy for r in _headline_rows(card))))
    values = [accuracy for _, accuracy in rows]
    return SeedsView(rows, (fmean(values), stdev(values)) if len(values) > 1 else None)


# ------------------------------------------------------------------------------------------------------- learning curves

DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.6, 1.1), (6, 1.4, 1.2, 1.4))
SERIES_COLOURS = 6  # --series-0 … in the page's style sheet
# Matplotlib draws in stand-in colours, which then become the page's own: they follow light and dark.
STAND_INS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)"} | {
    f"#0400{i:02x}": f"var(--series-{i})" for i in range(SERIES_COLOURS)
}
CHART_STYLE = {
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
    title: str
    curves: list[Curve]
    chart: Markup


def _panels(metrics: Sequence[Record]) -> list[Panel]:
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


def _chart(id: str, title: str, curves: Sequence[Curve], losses: tuple[float, float]) -> Markup:
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


def _inlined(svg: str, id: str, label: str) -> Markup:
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
    return Markup(ElementTree.tostring(root, encoding="unicode"))


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


# -------------------------------------------------------------------------------------------------------- sample clozes


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Token:
    """A word of an answer, or the white space between two; ``wrong``: it differs from the truth where it should not."""

    text: str
    wrong: bool


@dataclass(frozen=True)
class SampleView:
    """``equivalent``: the answer is another than the truth given, and right as well."""

    pictures: list[Picture]
    question: str
    truth: list[Token]
    answer: list[Token]
    correct: bool
    equivalent: bool


@dataclass(frozen=True)
class ClozeSamples:
    cloze: str
    pattern: str
    samples: list[SampleView]


@dataclass(frozen=True)
class WorldSamples:
    """``drawn`` is off where the world is not registered here, so that its images cannot be drawn."""

    world: str
    drawn: bool
    clozes: list[ClozeSamples]


def _samples(rows: Sequence[_Row], file: Path) -> list[WorldSamples]:
    groups = groupby((row for row in rows if row.examples), key=lambda row: row.world)
    return [
        WorldSamples(
            world,
            world in registered(),
            [
                ClozeSamples(
                    row.cloze, row.pattern, [_sample(example, world, file) for example in _chosen(row.examples)]
                )
                for row in group
            ],
        )
        for world, group in groups
    ]


def _chosen(examples: Sequence[_Example]) -> list[_Example]:
    """A few examples, a wrong one among them wherever there is one; right ones first."""
    right = [example for example in examples if example.correct]
    wrong = [example for example in examples if not example.correct]
    return [*right[: SAMPLES_SHOWN - 1], *wrong, *right[SAMPLES_SHOWN - 1 :]][:SAMPLES_SHOWN]


def _sample(example: _Example, world: str, file: Path) -> SampleView:
    truth, answer = compare(_printable(example.truth), _printable(example.answer))
    equivalent = example.correct and any(token.wrong for token in answer)
    return SampleView(
        pictures=_pictures(world, example.images, SAMPLE_PIXELS, file),
        question=_printable(example.question),
        truth=[Token(token.text, token.wrong and not example.correct) for token in truth],
        answer=[Token(token.text, token.wrong and not example.correct) for token in answer],
        correct=example.correct,
        equivalent=equivalent,
    )


def compare(truth: str, answer: str) -> tuple[list[Token], list[Token]]:
    """Both texts word by word, with the words marked that are not the same in both.

    Texts of the same shape (equally many words on each line) are compared word for word, so that one wrong cell of
    a board marks one cell; others are aligned first.
    """
    left, right = truth.split(), answer.split()
    if [len(line.split()) for line in truth.splitlines()] == [len(line.split()) for line in answer.splitlines()]:
        same = [a == b for a, b in zip(left, right, strict=True)]
        return _marked(truth, same), _marked(answer, same)
    same_left, same_right = [False] * len(left), [False] * len(right)
    for i, j, size in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        same_left[i : i + size] = same_right[j : j + size] = [True] * size
    return _marked(truth, same_left), _marked(answer, same_right)


def _marked(text: str, same: Iterable[bool]) -> list[Token]:
    flags = iter(same)
    return [Token(part, not part.isspace() and not next(flags)) for part in re.findall(r"\s+|\S+", text)]


def _printable(text: str) -> str:
    """Text whose control characters show as the symbols for them."""
    return text.translate({code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"})


def _pictures(world: str, snapshots: Sequence[Snapshot], pixels: int, file: Path) -> list[Picture]:
    """Images of states, enlarged without smoothing; none where the world is unknown here."""
    if not snapshots or world not in registered():
        return []
    try:
        frames = simulator(world).render_states(snapshots)
    except (WorldError, LookupError, TypeError, ValueError) as error:
        raise ReportError(f"{file} is damaged: a state of world {world!r} cannot be drawn: {error!r}") from None
    factor = max(1, round(pixels / frames.shape[2]))
    return [
        _picture(
            Image.fromarray(frame).resize((frame.shape[1] * factor, frame.shape[0] * factor), Image.Resampling.NEAREST)
        )
        for frame in frames
    ]


def _picture(image: Image.Image) -> Picture:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return Picture(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", *image.size)


# --------------------------------------------------------------------------------------------------------------- agents


@dataclass(frozen=True)
class Strip:
    """An episode as frames; ``steps`` pairs each frame with the action that led to it ("start" for the first)."""

    world: str
    steps: list[tuple[str, Picture]]
    left_out: int


@dataclass(frozen=True)
class AgentsView:
    """``rows`` are (world, one entry per agent, None where it did not play); ``acting`` is whose episodes are shown."""

    names: list[str]
    rows: list[tuple[str, list[_AgentRow | None]]]
    acting: str
    strips: list[Strip]


def _agents_view(agents: _Agents, file: Path) -> AgentsView:
    names, acting = _agent_names(agents), _acting_agent(agents)
    cells = {(row.world, row.agent): row for row in agents.rows}
    worlds = list(dict.fromkeys(row.world for row in agents.rows))
    strips = [_strip(row.world, row.example, file) for row in agents.rows if row.agent == acting and row.example]
    return AgentsView(
        names=names,
        rows=[(world, [cells.get((world, name)) for name in names]) for world in worlds],
        acting=acting,
        strips=[strip for strip in strips if strip.steps],
    )


def _agent_names(agents: _Agents) -> list[str]:
    return list(dict.fromkeys(row.agent for row in agents.rows))


def _acting_agent(agents: _Agents) -> str:
    """The agent the page is about: the first that is no baseline, or else the last."""
    names = _agent_names(agents)
    return next((name for name in names if not re.fullmatch(r"random|expert|mixture\(.*\)", name)), names[-1])


def _strip(world: str, episode: _Episode, file: Path) -> Strip:
    if len(episode.snapshots) != len(episode.actions) + 1:
        raise ReportError(f"{file} is damaged: an episode of world {world!r} needs one state more than actions")
    pictures = _pictures(world, episode.snapshots[:FRAMES_SHOWN], FRAME_PIXELS, file)
    if not pictures:
        return Strip(world, [], 0)
    words = simulator(world).actions
    if any(not 0 <= action < len(words) for action in episode.actions):
        raise ReportError(
            f"{file} is damaged: an episode of world {world!r} has an action that is not in 0 … {len(words) - 1}"
        )
    taken = ["start", *(words[action] for action in episode.actions)]
    return Strip(world, list(zip(taken, pictures, strict=False)), len(episode.snapshots) - len(pictures))


# -------------------------------------------------------------------------------------------------------------- wording


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}".replace("-", "−")


def _range(shares: Sequence[float]) -> str:
    return f"{_percent(min(shares))} – {_percent(max(shares))}"


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _brief(number: float) -> str:
    """A large number in three digits: 161 k, 0.52 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size * 0.1 and number >= 1e4:
            return f"{number / size:.3g}{letter}"
    return f"{number:,.0f}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.0f} s"

"""What runs leave in their folder: read, and checked as far as the page needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

CONFIG, METRICS, CARD, AGENTS, SEEDS = "config.yaml", "metrics.jsonl", "report_card.json", "agents.json", "seeds.json"
MADE_BY = {
    CONFIG: "vagen train",
    METRICS: "vagen train",
    CARD: "vagen eval worldmodel",
    AGENTS: "vagen eval agent",
}

T = TypeVar("T")
Record = dict[str, float]  # one line of metrics.jsonl
Points = list[tuple[float, float]]
Share = Annotated[float, Field(ge=0, le=1)]


class ReportError(ValueError):
    """A run that no page can be made of; the message names the file and what is wrong with it."""


def points(metrics: Sequence[Record], key: str) -> Points:
    """(step, value) of a metric where it was measured and is finite."""
    pairs = ((record["step"], record.get(key, math.nan)) for record in metrics)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


class _Input(BaseModel):
    """A part of a result file: what the page needs of it. Other keys are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Example(_Input):
    images: list[dict[str, Any]]
    question: str
    truth: str
    answer: str
    correct: bool


class Bin(_Input):
    confidence: Share
    accuracy: Share
    n: int


class Calibration(_Input):
    ece: Share
    bins: list[Bin] = Field(min_length=1)


class Row(_Input):
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
    calibration: Calibration | None = None
    yes: Share | None = None
    parsed: Share | None = None
    effective: Share | None = None
    seen_in_training: Share | None = None
    examples: list[Example] = []


class Card(_Input):
    rows: list[Row] = Field(min_length=1)
    split: str
    model: str = ""
    seed: int
    parameters: int | None = None
    versions: dict[str, str] = {}


class Episode(_Input):
    snapshots: list[dict[str, Any]]
    actions: list[int]


class AgentRow(_Input):
    world: str
    agent: str
    n: int
    success: Share
    ci_low: Share
    ci_high: Share
    mean_steps: float | None = None
    example: Episode | None = None


class Agents(_Input):
    rows: list[AgentRow] = Field(min_length=1)
    split: str | None = None
    seed: int | None = None


class SeedRow(_Input):
    world: str
    cloze: str
    accuracy: Share


class SeedRun(_Input):
    seed: int
    mean_accuracy: Share
    rows: list[SeedRow] = []


@dataclass(frozen=True)
class Results:
    """What lies in a run's folder; ``None`` or empty where it does not."""

    run: Path
    config: dict[str, Any] | None
    config_text: str
    metrics: list[Record]
    card: Card | None
    agents: Agents | None
    seeds: list[SeedRun]


def read_results(run: Path) -> Results:
    """All results in a run's folder; each may be missing, but not all of them, and none may be damaged."""
    if not run.is_dir():
        raise ReportError(f"{run} is no folder; give the folder of a run")
    if not any((run / name).is_file() for name in (*MADE_BY, SEEDS)):
        raise ReportError(f"{run} holds no results; a report needs one of {', '.join(MADE_BY)}")
    config_text = _text(run / CONFIG) or ""
    return Results(
        run,
        config=_parse_yaml(run / CONFIG, config_text) if config_text else None,
        config_text=config_text,
        metrics=_read_metrics(run / METRICS),
        card=_read_json(run / CARD, TypeAdapter(Card)),
        agents=_read_json(run / AGENTS, TypeAdapter(Agents)),
        seeds=_read_json(run / SEEDS, TypeAdapter(list[SeedRun])) or [],
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
    return None if text is None else _parse_json(text, kind, path)


def _read_metrics(path: Path) -> list[Record]:
    """The records of all steps. A resumed run repeats steps: what it wrote last is what counts."""
    records: list[Record] = []
    for number, line in enumerate((_text(path) or "").splitlines(), start=1):
        record = _parse_json(line, TypeAdapter(Record), path, number)
        if "step" not in record:
            raise ReportError(f"{path}, line {number} is damaged: it has no step")
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return records


def _parse_json(text: str, kind: TypeAdapter[T], path: Path, line: int | None = None) -> T:
    """Checked JSON; ``line`` is where the text stands in its file, if it is not the whole of it."""
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason, _, place = first.get("ctx", {})["error"].rpartition(" at line ")
        within, _, column = place.partition(" column ")
        raise ReportError(f"{path}, line {line or within} is damaged: {reason} at column {column}")
    where = path if line is None else f"{path}, line {line}"
    key = ".".join(str(part) for part in first["loc"]) or "the whole"
    raise ReportError(f"{where} is damaged: {key}: {first['msg']}")


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


def by_world(things: Iterable[T], world: Callable[[T], str]) -> dict[str, list[T]]:
    """Things grouped by their world, in the order in which the worlds first appear."""
    groups: dict[str, list[T]] = {}
    for thing in things:
        groups.setdefault(world(thing), []).append(thing)
    return groups

"""The report card as the page draws it: accuracies among their floors, and the luck of other training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from vagen.evaluate.report.inputs import Card, Row, SeedRun, by_world


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

    row: Row
    floors: list[Floor]
    best_floor: float
    other_seeds: list[tuple[int, float]]


@dataclass(frozen=True)
class CardView:
    worlds: list[tuple[str, list[CardRow]]]
    kinds: list[FloorKind]
    split: str
    has_seeds: bool


def card_view(card: Card, seeds: Sequence[SeedRun]) -> CardView:
    kinds = {name: FLOORS.get(name) or _unknown_floor(name) for row in card.rows for name in row.floors}
    rows = [_card_row(row, kinds, seeds) for row in card.rows]
    return CardView(
        worlds=list(by_world(rows, lambda entry: entry.row.world).items()),
        kinds=list(kinds.values()),
        split=card.split,
        has_seeds=any(row.other_seeds for row in rows),
    )


def _unknown_floor(name: str) -> FloorKind:
    return FloorKind(name.replace("_", " "), name[:1].upper(), "a floor newer than this page")


def _card_row(row: Row, kinds: Mapping[str, FloorKind], seeds: Sequence[SeedRun]) -> CardRow:
    values = {name: value for name, value in row.floors.items() if value is not None}
    best = max(values, key=values.__getitem__, default=None)
    places = dict(zip(sorted(values, key=values.__getitem__), _spread(sorted(values.values())), strict=True))
    return CardRow(
        row=row,
        floors=[
            Floor(kind, row.floors.get(name), row.floor_intervals.get(name), name == best, places.get(name, 0.0))
            for name, kind in kinds.items()
        ],
        best_floor=best_floor(row.floors),
        other_seeds=[
            (run.seed, r.accuracy) for run in seeds for r in run.rows if (r.world, r.cloze) == (row.world, row.cloze)
        ],
    )


def best_floor(floors: Mapping[str, float | None]) -> float:
    """The highest floor of a row; 0 where it has none."""
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


def seeds_view(card: Card | None, config: Mapping[str, Any], seeds: Sequence[SeedRun]) -> SeedsView:
    rows = [(str(run.seed), run.mean_accuracy) for run in seeds]
    if card:
        rows.insert(0, (f"{config.get('seed', '?')} (this page)", fmean(r.accuracy for r in headline_rows(card))))
    values = [accuracy for _, accuracy in rows]
    return SeedsView(rows, (fmean(values), stdev(values)) if len(values) > 1 else None)


def headline_rows(card: Card) -> list[Row]:
    """The rows about images; all rows where there is no such row."""
    return [row for row in card.rows if row.input == "image"] or card.rows

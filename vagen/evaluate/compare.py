"""``vagen compare``: two report cards side by side, row by row, with tests where both answered the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vagen.evaluate.significance import Difference, holm, mean_difference, paired, unpaired
from vagen.files import atomic_path

LEVEL = 0.05  # adjusted p-values below this are called a difference


class CompareError(ValueError):
    """Report cards that cannot be compared; the message names the file and the reason."""


class CardRow(BaseModel):
    """What a comparison needs of a report card's row."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    world: str
    cloze: str
    pattern: str
    representation: str
    n: Annotated[int, Field(gt=0)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    outcomes: Annotated[str, Field(pattern="^[01]*$")] = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.world, self.cloze, self.representation


class Card(BaseModel):
    """What a comparison needs of a report card. The first cards did not say how windows were drawn."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rows: Annotated[list[CardRow], Field(min_length=1)]
    model: str = ""
    seed: int
    split: str
    sampling: dict[str, float | bool] | None = None
    history: int | None = None


@dataclass(frozen=True)
class RowComparison:
    """One row of both cards.

    Attributes:
        world, cloze, representation: what was asked.
        n: samples of the first and of the second card.
        first, second: the accuracies.
        paired: both answered the same questions, so that a test is made.
        unpaired: what made their questions different, such as "seed"; empty where they are paired.
        difference, low, high: second minus first, with its 95 % interval.
        p: McNemar's exact p-value, and ``p_adjusted`` the same adjusted for the number of rows; None where unpaired.
        p_adjusted: see ``p``.
    """

    world: str
    cloze: str
    representation: str
    n: tuple[int, int]
    first: float
    second: float
    paired: bool
    unpaired: tuple[str, ...]
    difference: float
    low: float
    high: float
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class Comparison:
    """Two cards compared: the rows that both have, their mean difference, and the rows that only one has."""

    models: tuple[str, str]
    rows: tuple[RowComparison, ...]
    mean: Difference
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two report cards made by ``vagen eval worldmodel``.

    Raises:
        CompareError: a file cannot be read or is no report card, or the cards share no row.
    """
    one, other = read_card(first), read_card(second)
    left, right = ({row.key: row for row in card.rows} for card in (one, other))
    shared = [key for key in left if key in right]
    if not shared:
        raise CompareError(f"{first} and {second} share no row: evaluate both in the same worlds with the same clozes")
    reasons = [_apart((one, other), (left[key], right[key])) for key in shared]
    differences = [_difference(left[key], right[key], not why) for key, why in zip(shared, reasons, strict=True)]
    adjusted = iter(holm([d.p for d in differences if d.p is not None]))
    rows = [
        _row(left[key], right[key], why, d, None if d.p is None else next(adjusted))
        for key, why, d in zip(shared, reasons, differences, strict=True)
    ]
    named_alike = one.model == other.model
    return Comparison(
        (str(first), str(second)) if named_alike else (one.model or str(first), other.model or str(second)),
        tuple(rows),
        mean_difference(differences),
        tuple(" ".join(key) for key in left if key not in right),
        tuple(" ".join(key) for key in right if key not in left),
    )


def read_card(path: Path) -> Card:
    """A report card, as far as a comparison needs it."""
    try:
        card = TypeAdapter(Card).validate_json(path.read_bytes())
    except OSError as error:
        raise CompareError(f"cannot read report card {path}: {error.strerror}") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise CompareError(f"{path} is no report card ({where}); `vagen eval worldmodel` makes one") from None
    for row in card.rows:
        if row.outcomes and len(row.outcomes) != row.n:
            raise CompareError(f"{path} is damaged: {len(row.outcomes)} outcomes for n={row.n} in {' '.join(row.key)}")
    return card


def _apart(cards: tuple[Card, Card], rows: tuple[CardRow, CardRow]) -> tuple[str, ...]:
    """What makes the questions of two rows different, or keeps them from being paired."""
    found = [name for name in ("seed", "split", "sampling", "history") if _differ(cards, name)]
    found += [name for name in ("pattern", "n") if _differ(rows, name)]
    say_all = all(card.sampling is not None for card in cards) and all(row.outcomes for row in rows)
    return tuple(found if say_all else [*found, "version of the card"])


def _differ(pair: tuple[BaseModel, BaseModel], name: str) -> bool:
    one, other = (getattr(each, name) for each in pair)
    return one is not None and other is not None and one != other


def _difference(one: CardRow, other: CardRow, same_questions: bool) -> Difference:
    if same_questions:
        return paired([c == "1" for c in one.outcomes], [c == "1" for c in other.outcomes])
    return unpaired((one.accuracy, one.n), (other.accuracy, other.n))


def _row(
    one: CardRow, other: CardRow, unpaired: tuple[str, ...], difference: Difference, adjusted: float | None
) -> RowComparison:
    return RowComparison(
        one.world,
        one.cloze,
        one.representation,
        (one.n, other.n),
        one.accuracy,
        other.accuracy,
        not unpaired,
        unpaired,
        difference.value,
        difference.low,
        difference.high,
        difference.p,
        adjusted,
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain data."""
    return asdict(comparison)


def table(comparison: Comparison) -> str:
    """A comparison as a table for a terminal."""
    width = max(len(row.world) for row in comparison.rows) + 2
    lines = [
        f"A: {comparison.models[0]}   B: {comparison.models[1]}",
        f"{'world':<{width}}{'cloze':<24}{'A':>7}{'B':>7}{'B - A':>8}{'95 % interval':>19}  {'p (Holm)':<10}",
    ]
    for row in comparison.rows:
        p = f"unpaired: other {' and '.join(row.unpaired)}"
        if row.p_adjusted is not None:
            p = f"{row.p_adjusted:.3g}{' *' if row.p_adjusted < LEVEL else ''}"
        interval = f"{row.low:+.3f} … {row.high:+.3f}"
        lines.append(
            f"{row.world:<{width}}{row.cloze:<24}{row.first:>7.3f}{row.second:>7.3f}{row.difference:>+8.3f}"
            f"{interval:>19}  {p}"
        )
    mean = comparison.mean
    lines.append(f"{'mean':<{width + 38}}{mean.value:>+8.3f}{f'{mean.low:+.3f} … {mean.high:+.3f}':>19}")
    for name, only in (("A", comparison.only_first), ("B", comparison.only_second)):
        if only:
            lines.append(f"only in {name}: {'; '.join(only)}")
    return "\n".join(lines)


def picture(comparison: Comparison, output: Path) -> Path:
    """Draw the differences with their intervals, one line per row, as a PNG."""
    rows = comparison.rows
    figure = Figure(figsize=(7.5, 0.9 + 0.32 * (len(rows) + 1)), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    labels = [f"{row.world}  {row.cloze}" for row in rows]
    _points(axes, [_Line(r.difference, r.low, r.high, _colour(r)) for r in rows])
    mean = comparison.mean
    axes.errorbar(
        mean.value, len(rows), xerr=[[mean.value - mean.low], [mean.high - mean.value]], fmt="D", color="black"
    )
    axes.axvline(0, color="0.6", lw=1, zorder=0)
    axes.set_yticks(range(len(rows) + 1), [*labels, "mean"])
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"accuracy of {comparison.models[1]} minus {comparison.models[0]}, 95 % intervals")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png")
    return output


@dataclass(frozen=True)
class _Line:
    value: float
    low: float
    high: float
    colour: str


def _points(axes: Any, lines: Sequence[_Line]) -> None:
    for place, line in enumerate(lines):
        # An interval need not be centred on the difference, nor even hold it where n is tiny.
        reach = [[max(0.0, line.value - line.low)], [max(0.0, line.high - line.value)]]
        axes.errorbar(line.value, place, xerr=reach, fmt="o", color=line.colour, ms=5)


def _colour(row: RowComparison) -> str:
    """Blue where the second is better beyond chance, red where worse, grey where nothing can be said."""
    sure = row.p_adjusted < LEVEL if row.p_adjusted is not None else row.low > 0 or row.high < 0
    return ("tab:blue" if row.difference > 0 else "tab:red") if sure else "0.55"

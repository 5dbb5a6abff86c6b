"""The map of a scene: a grid of 10 × 10 cells seen from above, with directions, turns and the settings' geometry.

Cells are (x, y) from the top left, x to the right and y downwards; "up" is towards smaller y. Settings and cells are
those of MindCube (Yin et al. 2025). Knows nothing about metres, names or words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Literal, get_args

Cell = tuple[int, int]
Setting = Literal["among", "around", "rotation", "translation"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


class Heading(IntEnum):
    """A direction on the map, counted clockwise as one looks at it."""

    UP = 0
    RIGHT = 1
    DOWN = 2
    LEFT = 3

    def __str__(self) -> str:
        return self.name.lower()

    @property
    def step(self) -> Cell:
        """One cell this way."""
        return ((0, -1), (1, 0), (0, 1), (-1, 0))[self]

    @property
    def yaw(self) -> float:
        """The same in the room: degrees counter-clockwise from east, up being north."""
        return (90.0, 0.0, 270.0, 180.0)[self]

    def turned(self, quarters: int) -> Heading:
        """After so many quarter turns to the right (clockwise)."""
        return Heading((self + quarters) % 4)


# Where something is for somebody who faces ahead, in quarter turns to the right.
AHEAD, TO_RIGHT, BEHIND, TO_LEFT = range(4)


@dataclass(frozen=True)
class View:
    """Where a picture is taken.

    Attributes:
        side: what the view is called, such as "front".
        cell: of the camera.
        heading: which way it looks.
    """

    side: str
    cell: Cell
    heading: Heading


@dataclass(frozen=True)
class Arrangement:
    """Where the objects and the cameras of a scene are.

    Attributes:
        setting: which of the four.
        name: of the arrangement; a setting may have several.
        cells: of the objects, in order.
        views: in order.
        shown: for each view, the objects (numbers) that it must show.
        hidden: for each view, the objects that it must not show, for the question to be one.
    """

    setting: Setting
    name: str
    cells: tuple[Cell, ...]
    views: tuple[View, ...]
    shown: tuple[tuple[int, ...], ...]
    hidden: tuple[tuple[int, ...], ...]


def direction(start: Cell, end: Cell) -> Heading:
    """Which way one cell lies from another: that of the longer side, up or down where both are equal."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    if abs(dx) > abs(dy):
        return Heading.RIGHT if dx > 0 else Heading.LEFT
    return Heading.DOWN if dy > 0 else Heading.UP


def square_distance(start: Cell, end: Cell) -> int:
    """The square of the distance between two cells, in cells."""
    return (end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2


def moved(cell: Cell, heading: Heading, cells: int = 1) -> Cell:
    """The cell so many cells further."""
    dx, dy = heading.step
    return cell[0] + cells * dx, cell[1] + cells * dy


CENTRE: Cell = (5, 5)


def _among() -> Arrangement:
    """A thing in the middle (number 0) and four around it; number 1 + v is behind the camera of view v."""
    sides = ("front", "left", "back", "right")
    headings = [Heading(number) for number in range(4)]
    views = tuple(
        View(side, moved(CENTRE, heading.turned(BEHIND)), heading)
        for side, heading in zip(sides, headings, strict=True)
    )
    cells = (CENTRE, *(moved(CENTRE, heading.turned(BEHIND), 3) for heading in headings))
    shown = tuple((0, 1 + (number + 2) % 4) for number in range(4))
    hidden = tuple((1 + number,) for number in range(4))
    return Arrangement("among", "four_around_one", cells, views, shown, hidden)


def _rotation(name: str, headings: tuple[Heading, ...]) -> Arrangement:
    """A camera that turns on the spot; number k is ahead in view k."""
    views = tuple(View(str(number), CENTRE, heading) for number, heading in enumerate(headings, start=1))
    cells = tuple(moved(CENTRE, heading, 2) for heading in headings)
    numbers = range(len(headings))
    hidden = tuple(
        tuple(other for other in numbers if headings[other] == headings[number].turned(BEHIND)) for number in numbers
    )
    return Arrangement("rotation", name, cells, views, tuple((number,) for number in numbers), hidden)


def _around(count: int) -> Arrangement:
    """A row of two to four things, from left to right as the front sees them, and a camera on each of its sides."""
    first = 3 if count == 4 else 4
    last = first + count - 1
    views = (
        View("front", (5, 6), Heading.UP),
        View("left", (first - 1, 5), Heading.RIGHT),
        View("right", (last + 1, 5), Heading.LEFT),
        View("back", (5, 4), Heading.DOWN),
    )
    every = tuple(range(count))
    return Arrangement(
        "around",
        f"row_of_{count}",
        tuple((x, 5) for x in range(first, last + 1)),
        views,
        (every, (0,), (count - 1,), every),
        ((), (), (), ()),
    )


def _translation() -> Arrangement:
    """A row of three of which each view shows two, the one in the middle both times."""
    views = (View("right", (6, 6), Heading.UP), View("left", (4, 6), Heading.UP))
    return Arrangement("translation", "sideways", ((3, 5), (5, 5), (7, 5)), views, ((1, 2), (0, 1)), ((0,), (2,)))


_UP, _RIGHT, _DOWN, _LEFT = Heading
ARRANGEMENTS: Mapping[Setting, tuple[Arrangement, ...]] = MappingProxyType(
    {
        "among": (_among(),),
        "around": tuple(_around(count) for count in (2, 3, 4)),
        "rotation": (
            _rotation("three_view", (_LEFT, _UP, _RIGHT)),
            _rotation("two_view_clockwise", (_UP, _RIGHT)),
            _rotation("two_view_counterclockwise", (_UP, _LEFT)),
            _rotation("two_view_opposite", (_UP, _DOWN)),
            _rotation("four_view", (_LEFT, _UP, _RIGHT, _DOWN)),
        ),
        "translation": (_translation(),),
    }
)

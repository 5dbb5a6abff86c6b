"""Rooms with furniture as plain data: what stands where, in which colour, and from where it is looked at.

Lengths are metres, angles degrees counter-clockwise as seen from above, 0 = east. The origin is the middle of the
floor: x points east, y north, z up. Knows nothing about how rooms are drawn (see ``worlds.scene`` and
``worlds.furniture``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from worlds.core import WorldError

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]

MAX_RADIUS = 0.42  # of any kind: things one metre apart never touch
WALL_HEIGHT = 2.6
SIDES = ("east", "north", "west", "south")  # of a room, in the order of ``Room.walls``


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can stand in a room.

    Attributes:
        name: an English noun, one lower-case word.
        radius: of the circle around its middle that holds all of it, seen from above.
        height: of its highest point.
        has_front: whether pictures from all sides show which way it faces; not where two of them look nearly the same.
        all_round: whether a person can name it from every side; else only from where its front is seen.
    """

    name: str
    radius: float
    height: float
    has_front: bool
    all_round: bool = True


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("airplane", 0.42, 0.45, True),
        Kind("armchair", 0.42, 0.74, True),
        Kind("barrel", 0.34, 0.91, False),
        Kind("bathtub", 0.40, 0.50, False),
        Kind("bed", 0.42, 0.54, True),
        Kind("bookcase", 0.42, 1.20, False),
        Kind("bucket", 0.29, 0.66, False),
        Kind("cake", 0.33, 0.61, False),
        Kind("car", 0.42, 0.39, True),
        Kind("chair", 0.36, 0.99, True),
        Kind("clock", 0.30, 1.25, False),
        Kind("cone", 0.36, 0.85, False),
        Kind("desk", 0.42, 0.72, False, False),
        Kind("dog", 0.42, 0.68, True),
        Kind("dresser", 0.42, 0.85, False, False),
        Kind("drum", 0.35, 0.60, False),
        Kind("duck", 0.42, 0.70, True),
        Kind("fan", 0.33, 1.16, True),
        Kind("flower", 0.25, 0.94, False),
        Kind("fridge", 0.40, 1.25, True, False),
        Kind("gift", 0.40, 0.63, False),
        Kind("hydrant", 0.32, 0.80, False),
        Kind("ladder", 0.42, 1.17, True),
        Kind("lamp", 0.30, 1.25, False),
        Kind("mailbox", 0.35, 0.98, False),
        Kind("mug", 0.37, 0.72, False),
        Kind("mushroom", 0.42, 0.77, False),
        Kind("piano", 0.42, 0.86, True, False),
        Kind("robot", 0.34, 1.05, True),
        Kind("rocket", 0.33, 1.22, False),
        Kind("sailboat", 0.40, 1.14, True),
        Kind("sofa", 0.42, 0.44, True),
        Kind("stool", 0.27, 0.61, False),
        Kind("suitcase", 0.31, 0.80, False),
        Kind("table", 0.42, 0.62, False),
        Kind("teddy", 0.41, 0.92, True),
        Kind("television", 0.42, 0.83, True, False),
        Kind("tent", 0.42, 0.62, False),
        Kind("toilet", 0.41, 0.85, True),
        Kind("umbrella", 0.42, 1.10, False),
    )
}

COLOURS: Mapping[str, Colour] = {
    "red": (0.80, 0.07, 0.07),
    "orange": (1.00, 0.47, 0.05),
    "yellow": (0.98, 0.84, 0.08),
    "green": (0.10, 0.55, 0.15),
    "blue": (0.10, 0.25, 0.85),
    "purple": (0.47, 0.14, 0.66),
    "pink": (1.00, 0.50, 0.72),
    "white": (0.95, 0.95, 0.95),
    "black": (0.06, 0.06, 0.07),
}

WALL_COLOURS: Mapping[str, Colour] = {
    "cream": (0.93, 0.87, 0.70),
    "mint": (0.66, 0.85, 0.73),
    "sky": (0.64, 0.79, 0.93),
    "rose": (0.92, 0.72, 0.72),
    "lilac": (0.78, 0.72, 0.90),
    "grey": (0.68, 0.69, 0.71),
    "olive": (0.66, 0.68, 0.46),
    "clay": (0.77, 0.55, 0.42),
}
FLOORS: Mapping[str, Colour] = {
    "oak": (0.55, 0.44, 0.33),
    "walnut": (0.36, 0.26, 0.19),
    "slate": (0.42, 0.45, 0.49),
    "sand": (0.68, 0.63, 0.54),
}
CEILINGS: Mapping[str, Colour] = {"white": (0.93, 0.93, 0.92), "ivory": (0.92, 0.89, 0.80)}
FIXTURES = ("window", "door", "picture", "shelves", "blackboard", "radiator")  # what can be on a wall


@dataclass(frozen=True)
class Item:
    """A thing that stands on the floor.

    Attributes:
        kind: one of ``KINDS``.
        colour: one of ``COLOURS``, that of its largest part; some parts have colours of their own.
        x, y: the place of its middle.
        yaw: the way its front faces.
    """

    kind: str
    colour: str
    x: float
    y: float
    yaw: float = 0.0

    def __post_init__(self) -> None:
        _check_word("kind of item", self.kind, KINDS)
        _check_word("colour of an item", self.colour, COLOURS)
        _check_numbers(name(self), x=self.x, y=self.y, yaw=self.yaw)


@dataclass(frozen=True)
class Camera:
    """A square view into a room.

    Attributes:
        x, y, height: where it is.
        yaw: the way it looks.
        pitch: how far it looks up from the horizontal; negative looks down.
        fov: the angle between its upper and lower edge, which is also that between its left and right edge.
    """

    x: float
    y: float
    yaw: float
    height: float = 1.3
    pitch: float = -15.0
    fov: float = 70.0

    def __post_init__(self) -> None:
        _check_numbers("camera", x=self.x, y=self.y, yaw=self.yaw, height=self.height, pitch=self.pitch, fov=self.fov)
        if not -90 < self.pitch < 90:
            raise WorldError(f"camera: pitch is {self.pitch}; it must lie between -90 and 90 degrees")
        if not 1 <= self.fov <= 150:
            raise WorldError(f"camera: fov is {self.fov}; it must lie between 1 and 150 degrees")


@dataclass(frozen=True)
class Room:
    """A room with four walls.

    Attributes:
        width: from the west wall to the east wall.
        depth: from the south wall to the north wall.
        items: what stands in it, each wholly inside; that no two overlap is up to who builds the room.
        walls: colours of the walls, in the order of ``SIDES``; keys of ``WALL_COLOURS``.
        fixtures: what is on each wall, in the same order; of ``FIXTURES``.
        floor: a key of ``FLOORS``.
        ceiling: a key of ``CEILINGS``.
    """

    width: float
    depth: float
    items: tuple[Item, ...]
    walls: tuple[str, ...] = ("cream", "mint", "sky", "rose")
    fixtures: tuple[str, ...] = ("window", "door", "picture", "shelves")
    floor: str = "oak"
    ceiling: str = "white"

    def __post_init__(self) -> None:
        _check_numbers("room", width=self.width, depth=self.depth)
        if min(self.width, self.depth) < 1:
            raise WorldError(f"room: it is {self.width} m x {self.depth} m; at least 1 m x 1 m is needed")
        for what, words, known in (
            ("wall colour", self.walls, tuple(WALL_COLOURS)),
            ("fixture", self.fixtures, FIXTURES),
        ):
            if len(words) != len(SIDES):
                raise WorldError(f"room: {len(words)} {what}s; four are needed, one for each of {SIDES}")
            for word in words:
                _check_word(what, word, known)
        _check_word("floor", self.floor, FLOORS)
        _check_word("ceiling", self.ceiling, CEILINGS)
        for item in self.items:
            radius = KINDS[item.kind].radius
            if abs(item.x) + radius > self.width / 2 + 1e-9 or abs(item.y) + radius > self.depth / 2 + 1e-9:
                raise WorldError(
                    f"room: the {name(item)} at ({item.x}, {item.y}) reaches {radius} m around, which is beyond the "
                    f"walls of a room of {self.width} m x {self.depth} m around (0, 0)"
                )


def name(item: Item) -> str:
    """What a person calls an item: "red chair"."""
    return f"{item.colour} {item.kind}"


def distance(one: Item, other: Item) -> float:
    """From middle to middle, in metres."""
    return math.hypot(one.x - other.x, one.y - other.y)


def overlap(one: Item, other: Item) -> bool:
    """Whether the circles around two items meet."""
    return distance(one, other) < KINDS[one.kind].radius + KINDS[other.kind].radius


def _check_word(what: str, word: str, known: Collection[str]) -> None:
    if word not in known:
        raise WorldError(f"unknown {what} {word!r}: choose one of {', '.join(known)}")


def _check_numbers(what: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise WorldError(f"{what}: {name} is {number}; it must be a number")

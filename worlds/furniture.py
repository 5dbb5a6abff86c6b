"""The shapes of things that stand in rooms: each kind of ``worlds.rooms`` as a few boxes, cylinders and balls.

Parts are given in the thing's own coordinates: x points out of its front, y to its left, z up; the origin is the floor
below its middle; metres. Knows nothing about rooms, cameras or how parts are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worlds.rooms import COLOURS, MAX_RADIUS, Colour

Shape = Literal["box", "ellipsoid", "cylinder", "capsule"]
Vector = tuple[float, float, float]

MAIN = "main"  # the colour of the thing
SHADE = "shade"  # one that stands out a little from it
PAINTS: Mapping[str, Colour] = {
    "wood": (0.58, 0.39, 0.22),
    "dark wood": (0.33, 0.20, 0.11),
    "steel": (0.62, 0.64, 0.67),
    "dark": (0.10, 0.10, 0.11),
    "light": (0.95, 0.95, 0.93),
    "tan": (0.87, 0.72, 0.53),
    "gold": (0.93, 0.76, 0.26),
    "clay": (0.75, 0.38, 0.25),
    "leaf": (0.20, 0.48, 0.17),
    "glass": (0.62, 0.83, 0.93),
    "screen": (0.16, 0.26, 0.36),
    "water": (0.55, 0.80, 0.93),
    "flame": (1.00, 0.72, 0.15),
    "beak": (1.00, 0.55, 0.05),
}


@dataclass(frozen=True)
class Part:
    """One solid of a thing.

    Attributes:
        shape: a box, an ellipsoid, a cylinder, or a capsule (a cylinder with round ends).
        size: half its extents along its own axes; the third is the axis of a cylinder or capsule. A capsule's ends
            reach beyond it by the radius.
        at: the place of its middle.
        axes: (3, 3), its own axes as columns.
        paint: ``MAIN``, ``SHADE`` or one of ``PAINTS``.
    """

    shape: Shape
    size: Vector
    at: Vector
    axes: NDArray[np.float64]
    paint: str


def paint(name: str, colour: str) -> Colour:
    """The colour of a part painted ``name`` on a thing of one of ``rooms.COLOURS``."""
    if name in PAINTS:
        return PAINTS[name]
    main = COLOURS[colour]
    if name == MAIN:
        return main
    if max(main) < 0.2:
        return (0.30, 0.30, 0.32)
    red, green, blue = (0.58 * part for part in main)
    return red, green, blue


# --------------------------------------------------------------------------------------------------------- solids


def _box(x: float, y: float, z: float, at: Vector, paint: str = MAIN, tilt: float = 0.0) -> Part:
    """A box of these full extents, tilted forward (its top towards the front) by degrees."""
    return Part("box", (x / 2, y / 2, z / 2), at, _tilted(tilt), paint)


def _ball(x: float, y: float, z: float, at: Vector, paint: str = MAIN, tilt: float = 0.0) -> Part:
    """An ellipsoid of these full extents."""
    return Part("ellipsoid", (x / 2, y / 2, z / 2), at, _tilted(tilt), paint)


def _disc(diameter: float, length: float, at: Vector, paint: str = MAIN, along: Vector = (0, 0, 1)) -> Part:
    """A cylinder whose axis points ``along``."""
    return Part("cylinder", (diameter / 2, diameter / 2, length / 2), at, _along(along), paint)


def _rod(start: Vector, end: Vector, diameter: float, paint: str = MAIN) -> Part:
    """A capsule between two points."""
    along = np.subtract(end, start)
    middle = tuple(float(v) for v in np.add(start, end) / 2)
    half = float(np.linalg.norm(along)) / 2
    return Part("capsule", (diameter / 2, diameter / 2, half), middle, _along(along), paint)  # type: ignore[arg-type]


def _cone(bottom: float, top: float, low: float, high: float, paint: str = MAIN, steps: int = 12) -> Iterator[Part]:
    """A stack of discs from one diameter at one height to another at another."""
    thickness = (high - low) / steps
    for step in range(steps):
        share = (step + 0.5) / steps
        yield _disc(bottom + (top - bottom) * share, thickness, (0, 0, low + (high - low) * share), paint)


def _ring(diameter: float, thickness: float, at: Vector, paint: str, along: Vector, steps: int = 14) -> Iterator[Part]:
    """Rods around a circle whose axis points ``along``."""
    axes = _along(along)
    angles = np.linspace(0, 2 * math.pi, steps + 1)
    points = [np.add(at, diameter / 2 * (axes[:, 0] * math.cos(a) + axes[:, 1] * math.sin(a))) for a in angles]
    for start, end in pairwise(points):
        yield _rod(tuple(start), tuple(end), thickness, paint)  # type: ignore[arg-type]


def _legs(x: float, y: float, height: float, diameter: float, paint: str = MAIN) -> Iterator[Part]:
    """Four upright legs with middles at (±x, ±y)."""
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            yield _disc(diameter, height, (sign_x * x, sign_y * y, height / 2), paint)


def _tilted(degrees: float) -> NDArray[np.float64]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _along(direction: Vector | NDArray[np.float64]) -> NDArray[np.float64]:
    """Right-handed axes whose third points in a direction."""
    third = np.asarray(direction, float) / np.linalg.norm(direction)
    helper = np.array([1.0, 0, 0]) if abs(third[0]) < 0.9 else np.array([0, 1.0, 0])
    first = np.cross(helper, third)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


# ------------------------------------------------------------------------------------------------------ seats, beds


def _chair() -> Iterator[Part]:
    yield from _legs(0.20, 0.20, 0.46, 0.06, "wood")
    yield _box(0.50, 0.50, 0.07, (0, 0, 0.48))
    for y in (-0.21, 0.21):
        yield _box(0.05, 0.06, 0.50, (-0.22, y, 0.74), "wood")
    for z in (0.64, 0.78, 0.92):
        yield _box(0.04, 0.42, 0.09, (-0.22, 0, z))


def _armchair() -> Iterator[Part]:
    yield _box(0.48, 0.44, 0.28, (0.04, 0, 0.20), SHADE)
    yield _box(0.44, 0.40, 0.12, (0.07, 0, 0.38))
    yield _box(0.14, 0.42, 0.58, (-0.22, 0, 0.45), tilt=-8)
    yield _rod((-0.26, -0.15, 0.76), (-0.26, 0.15, 0.76), 0.15)
    for y in (-0.28, 0.28):  # arms that stand out behind the back, with round ends, so that it shows what this is
        yield _box(0.54, 0.12, 0.42, (0.01, y, 0.29))
        yield _disc(0.19, 0.56, (0.01, y, 0.51), MAIN, (1, 0, 0))
        for x in (-0.28, 0.30):
            yield _disc(0.13, 0.02, (x, y, 0.51), SHADE, (1, 0, 0))
    yield from _legs(0.22, 0.26, 0.08, 0.05, "dark wood")


def _sofa() -> Iterator[Part]:
    yield _box(0.40, 0.64, 0.14, (0.02, 0, 0.14), SHADE)
    for y in (-0.145, 0.145):
        yield _box(0.34, 0.28, 0.08, (0.05, y, 0.25), SHADE)
        yield _box(0.08, 0.28, 0.20, (-0.15, y, 0.32), tilt=-10)
        yield _rod((-0.18, y - 0.095, 0.43), (-0.18, y + 0.095, 0.43), 0.10)  # seen from behind: two rolls
        yield _box(0.06, 0.17, 0.17, (-0.06, 1.15 * y, 0.39), "light", tilt=-20)
    for y in (-0.345, 0.345):
        yield _box(0.44, 0.08, 0.26, (0.0, y, 0.20))
        yield _disc(0.12, 0.46, (0.0, y, 0.35), MAIN, (1, 0, 0))
        for x in (-0.235, 0.235):
            yield _disc(0.08, 0.02, (x, y, 0.35), SHADE, (1, 0, 0))
    yield from _legs(0.16, 0.32, 0.09, 0.04, "dark wood")


def _stool() -> Iterator[Part]:
    for angle in range(45, 405, 90):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield _rod((0.24 * x, 0.24 * y, 0.02), (0.14 * x, 0.14 * y, 0.54), 0.045, "wood")
    yield from _ring(0.40, 0.03, (0, 0, 0.22), "wood", (0, 0, 1), 8)
    yield _disc(0.44, 0.08, (0, 0, 0.57))


def _bed() -> Iterator[Part]:
    yield _box(0.74, 0.48, 0.10, (0.0, 0, 0.17), "wood")
    yield _box(0.70, 0.46, 0.12, (0.0, 0, 0.27), "light")
    yield _box(0.46, 0.50, 0.12, (0.12, 0, 0.285))
    for y in (-0.115, 0.115):
        yield _box(0.16, 0.20, 0.08, (-0.24, y, 0.37), "light")
    for x, height in ((-0.37, 0.54), (0.37, 0.36)):  # posts and rails, through which the bed is seen from behind
        for y in (-0.23, 0.23):
            yield _box(0.05, 0.05, height, (x, y, height / 2), "wood")
            yield _ball(0.07, 0.07, 0.07, (x, y, height + 0.02), "wood")
        yield _box(0.04, 0.48, 0.05, (x, 0, height - 0.05), "wood")
        yield _box(0.04, 0.48, 0.08, (x, 0, 0.18), "wood")


def _toilet() -> Iterator[Part]:
    yield _box(0.16, 0.36, 0.38, (-0.26, 0, 0.62))
    yield _box(0.19, 0.39, 0.04, (-0.26, 0, 0.83), SHADE)
    yield _disc(0.05, 0.04, (-0.17, 0.10, 0.74), "steel", (1, 0, 0))
    yield from _cone(0.24, 0.30, 0.0, 0.26, steps=4)
    yield _box(0.20, 0.16, 0.40, (-0.20, 0, 0.22))
    yield _ball(0.60, 0.50, 0.30, (0.05, 0, 0.32))  # wider than the cistern: seen from behind, too
    yield _ball(0.58, 0.50, 0.06, (0.05, 0, 0.43), SHADE)
    yield _ball(0.38, 0.30, 0.06, (0.08, 0, 0.445), "water")


# --------------------------------------------------------------------------------------------- tables and cupboards


def _table() -> Iterator[Part]:
    yield _disc(0.84, 0.06, (0, 0, 0.59))
    yield _disc(0.10, 0.50, (0, 0, 0.31), "wood")
    yield _disc(0.44, 0.05, (0, 0, 0.025), "wood")


def _desk() -> Iterator[Part]:
    yield _box(0.46, 0.68, 0.05, (0, 0, 0.695), "wood")
    yield _box(0.42, 0.24, 0.67, (0, 0.20, 0.335))
    for z in (0.14, 0.34, 0.54):
        yield _box(0.02, 0.20, 0.17, (0.215, 0.20, z), SHADE)
        yield _ball(0.03, 0.05, 0.03, (0.23, 0.20, z), "gold")
    yield _box(0.42, 0.05, 0.67, (0, -0.30, 0.335))
    yield _box(0.03, 0.60, 0.40, (-0.20, 0, 0.48))


def _dresser() -> Iterator[Part]:
    yield _box(0.40, 0.70, 0.75, (0, 0, 0.435))
    yield _box(0.44, 0.72, 0.04, (0, 0, 0.83), "wood")
    for z in (0.19, 0.43, 0.67):
        yield _box(0.02, 0.62, 0.20, (0.205, 0, z), SHADE)
        for y in (-0.16, 0.16):
            yield _ball(0.05, 0.06, 0.06, (0.23, y, z), "gold")
    yield from _legs(0.16, 0.31, 0.08, 0.05, "wood")


def _bookcase() -> Iterator[Part]:
    for x in (-0.13, 0.13):
        for y in (-0.36, 0.36):
            yield _box(0.05, 0.05, 1.18, (x, y, 0.59))
    for z in (0.06, 0.44, 0.82, 1.18):
        yield _box(0.31, 0.77, 0.04, (0, 0, z))
    spines = ("clay", "leaf", "gold", "screen", "light", "dark wood", "glass")
    for shelf in range(3):
        for book in range(8 - shelf):
            height = 0.22 + 0.04 * ((book * 5 + shelf * 3) % 3)
            at = (0, -0.29 + 0.078 * book, 0.08 + 0.38 * shelf + height / 2)
            yield _box(0.22, 0.065, height, at, spines[(book * 3 + shelf) % len(spines)])


def _fridge() -> Iterator[Part]:
    yield _box(0.50, 0.56, 1.21, (-0.02, 0, 0.645))
    yield _box(0.46, 0.52, 0.05, (-0.02, 0, 0.025), "dark")
    yield _box(0.51, 0.57, 0.03, (-0.02, 0, 0.80), "dark")
    yield _box(0.02, 0.57, 1.21, (0.19, 0, 0.645), "dark")
    for z in (0.15, 0.28, 0.41, 0.54, 0.67):
        yield _rod((-0.28, -0.20, z), (-0.28, 0.20, z), 0.03, "dark")
    for low, high in ((0.34, 0.72), (0.88, 1.14)):
        yield _rod((0.28, -0.21, low), (0.28, -0.21, high), 0.04, "steel")
    yield _box(0.02, 0.14, 0.10, (0.23, 0.10, 1.02), "screen")


def _television() -> Iterator[Part]:
    yield _box(0.28, 0.74, 0.28, (-0.04, 0, 0.18))
    for y in (-0.18, 0.18):
        yield _box(0.02, 0.34, 0.22, (0.105, y, 0.18), SHADE)
    yield from _legs(0.08, 0.32, 0.05, 0.04, "dark wood")
    yield _box(0.12, 0.24, 0.03, (-0.03, 0, 0.335), "dark")
    yield _box(0.05, 0.74, 0.46, (-0.03, 0, 0.60))
    yield _box(0.02, 0.66, 0.38, (-0.005, 0, 0.60), "screen")
    yield _box(0.005, 0.20, 0.04, (0.008, 0.16, 0.72), "glass", tilt=0)


def _piano() -> Iterator[Part]:
    yield _box(0.24, 0.74, 0.90, (-0.13, 0, 0.46))
    yield _box(0.28, 0.76, 0.04, (-0.13, 0, 0.93), SHADE)
    yield _box(0.26, 0.74, 0.10, (0.08, 0, 0.50))
    yield _box(0.16, 0.66, 0.02, (0.12, 0, 0.56), "light")
    for key in range(9):
        if key % 7 not in (2, 6):
            yield _box(0.09, 0.035, 0.03, (0.09, -0.26 + 0.065 * key, 0.575), "dark")
    for y in (-0.33, 0.33):
        yield _box(0.06, 0.06, 0.46, (0.17, y, 0.23))
    yield _box(0.02, 0.40, 0.20, (0.02, 0, 0.72), "light", tilt=-12)
    for y in (-0.06, 0.06):
        yield _box(0.10, 0.05, 0.03, (0.04, y, 0.05), "gold")


def _bathtub() -> Iterator[Part]:
    yield _box(0.66, 0.38, 0.30, (0, 0, 0.25))
    for y in (-0.20, 0.20):
        yield _rod((-0.28, y, 0.44), (0.28, y, 0.44), 0.09)
        yield _box(0.60, 0.06, 0.20, (0, y, 0.33))
    for x in (-0.30, 0.30):
        yield _rod((x, -0.18, 0.44), (x, 0.18, 0.44), 0.09)
        yield _box(0.06, 0.38, 0.20, (x, 0, 0.33))
    yield _box(0.54, 0.34, 0.01, (0, 0, 0.41), "water")
    for x in (-0.22, 0.22):
        for y in (-0.14, 0.14):
            yield _ball(0.10, 0.10, 0.14, (x, y, 0.07), "gold")
    for x, y in ((-0.10, 0.05), (0.0, -0.06), (0.08, 0.07), (-0.02, 0.10), (0.16, -0.04)):
        yield _ball(0.12, 0.12, 0.10, (x, y, 0.42), "light")
    yield _rod((-0.35, 0, 0.44), (-0.35, 0, 0.48), 0.04, "steel")
    yield _rod((-0.35, 0, 0.48), (-0.24, 0, 0.48), 0.04, "steel")


# ------------------------------------------------------------------------------------------------- household things


def _lamp() -> Iterator[Part]:
    yield _disc(0.36, 0.05, (0, 0, 0.025), "dark")
    yield _disc(0.05, 0.86, (0, 0, 0.45), "steel")
    yield from _cone(0.60, 0.30, 0.86, 1.23)
    yield _ball(0.10, 0.10, 0.06, (0, 0, 1.22), "flame")


def _clock() -> Iterator[Part]:
    yield _box(0.36, 0.42, 0.20, (0, 0, 0.10))
    yield _box(0.26, 0.32, 0.60, (0, 0, 0.50))
    yield _box(0.02, 0.20, 0.48, (0.13, 0, 0.50), "dark")
    yield _rod((0.145, 0, 0.40), (0.145, 0, 0.70), 0.02, "gold")
    yield _disc(0.12, 0.02, (0.15, 0, 0.38), "gold", (1, 0, 0))
    yield _box(0.38, 0.42, 0.40, (0, 0, 0.98))
    for angle, out in ((0, 0.19), (90, 0.21), (180, 0.19), (270, 0.21)):  # a face on each side
        cos, sin = round(math.cos(math.radians(angle))), round(math.sin(math.radians(angle)))
        middle = ((out + 0.005) * cos, (out + 0.005) * sin, 0.98)
        yield _disc(0.34, 0.02, middle, "light", (cos, sin, 0))
        x, y = (out + 0.018) * cos, (out + 0.018) * sin
        yield _rod((x, y, 0.98), (x, y, 1.11), 0.022, "dark")
        yield _rod((x, y, 0.98), (x + 0.08 * sin, y - 0.08 * cos, 0.96), 0.026, "dark")
    yield _box(0.38, 0.44, 0.07, (0, 0, 1.215), SHADE)


def _fan() -> Iterator[Part]:
    yield _disc(0.42, 0.05, (0, 0, 0.025))
    yield _disc(0.06, 0.76, (0, 0, 0.42), "steel")
    yield _disc(0.16, 0.20, (-0.05, 0, 0.84), along=(1, 0, 0))
    yield from _ring(0.60, 0.035, (0.10, 0, 0.84), MAIN, (1, 0, 0))
    for angle in (90, 210, 330):
        y, z = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield _ball(0.04, 0.24, 0.26, (0.09, 0.15 * y, 0.84 + 0.15 * z))
    yield _disc(0.12, 0.08, (0.12, 0, 0.84), "dark", (1, 0, 0))


def _bucket() -> Iterator[Part]:
    yield from _cone(0.36, 0.52, 0.0, 0.46)
    yield _disc(0.46, 0.02, (0, 0, 0.456), "dark")
    yield from _ring(0.53, 0.04, (0, 0, 0.45), SHADE, (0, 0, 1))
    points = [(0, 0.26 * math.cos(a), 0.44 + 0.20 * math.sin(a)) for a in np.linspace(0, math.pi, 9)]
    for start, end in pairwise(points):
        yield _rod(start, end, 0.025, "steel")


def _barrel() -> Iterator[Part]:
    for step in range(14):
        z = -1 + (step + 0.5) / 7
        yield _disc(0.66 - 0.16 * z * z, 0.90 / 14, (0, 0, 0.45 + 0.45 * z))
    for z, diameter in ((0.12, 0.60), (0.32, 0.67), (0.58, 0.67), (0.78, 0.60)):
        yield _disc(diameter, 0.05, (0, 0, z), "dark")
    yield _disc(0.42, 0.01, (0, 0, 0.90), SHADE)


def _mug() -> Iterator[Part]:
    yield _disc(0.74, 0.03, (0, 0, 0.015), SHADE)  # a saucer and a spoon, which are seen where the handle is not
    yield _disc(0.46, 0.52, (-0.06, 0, 0.29))
    yield _disc(0.40, 0.02, (-0.06, 0, 0.545), "dark wood")
    yield from _ring(0.47, 0.035, (-0.06, 0, 0.55), MAIN, (0, 0, 1))
    yield _rod((-0.08, 0.04, 0.50), (-0.20, 0.12, 0.70), 0.035, "steel")
    points = [(0.15 + 0.18 * math.sin(a), 0, 0.30 - 0.16 * math.cos(a)) for a in np.linspace(0, math.pi, 8)]
    for start, end in pairwise(points):
        yield _rod(start, end, 0.08)


def _suitcase() -> Iterator[Part]:
    yield _box(0.24, 0.56, 0.54, (0, 0, 0.34))
    for y in (-0.16, 0.0, 0.16):
        yield _box(0.26, 0.04, 0.54, (0, y, 0.34), SHADE)
    for y in (-0.10, 0.10):
        yield _rod((-0.06, y, 0.60), (-0.06, y, 0.77), 0.025, "dark")
    yield _rod((-0.06, -0.10, 0.77), (-0.06, 0.10, 0.77), 0.045, "dark")
    for x in (-0.08, 0.08):
        for y in (-0.22, 0.22):
            yield _disc(0.08, 0.05, (x, y, 0.04), "dark", (0, 1, 0))
    yield _box(0.03, 0.12, 0.08, (0.125, 0, 0.52), "gold")


def _umbrella() -> Iterator[Part]:
    for step in range(10):
        low = step / 10
        yield _disc(0.84 * math.sqrt(1 - low * low), 0.034, (0, 0, 0.70 + 0.33 * low), SHADE if step == 0 else MAIN)
    yield _disc(0.035, 1.02, (0, 0, 0.58), "dark")
    yield _rod((0, 0, 1.03), (0, 0, 1.09), 0.02, "dark")
    points = [(0, 0.08 * math.cos(a) - 0.08, 0.10 - 0.08 * math.sin(a)) for a in np.linspace(0, math.pi, 7)]
    for start, end in pairwise(points):
        yield _rod(start, end, 0.035, "wood")


def _ladder() -> Iterator[Part]:
    for y in (-0.22, 0.22):
        yield _rod((0.32, y * 1.2, 0.03), (0.0, y, 1.2), 0.06)
        yield _rod((-0.32, y * 1.2, 0.03), (-0.03, y, 1.18), 0.05, SHADE)
    for step in range(1, 5):
        share = step / 5
        yield _box(0.13, 0.46, 0.04, (0.32 * (1 - share), 0, 0.03 + 1.17 * share), "steel")
    yield _box(0.16, 0.48, 0.05, (0, 0, 1.21))


def _mailbox() -> Iterator[Part]:
    yield _box(0.10, 0.10, 0.62, (0, 0, 0.31), "wood")
    yield _box(0.60, 0.34, 0.20, (0, 0, 0.70))
    yield _disc(0.34, 0.60, (0, 0, 0.80), along=(1, 0, 0))
    yield _box(0.02, 0.30, 0.18, (0.305, 0, 0.71), SHADE)
    yield _disc(0.30, 0.02, (0.305, 0, 0.80), SHADE, (1, 0, 0))
    yield _ball(0.05, 0.06, 0.06, (0.325, 0, 0.86), "gold")
    yield _rod((0.02, -0.19, 0.76), (0.02, -0.19, 0.94), 0.025, "light")
    yield _box(0.14, 0.025, 0.09, (0.09, -0.19, 0.93), "clay")


def _hydrant() -> Iterator[Part]:
    yield _disc(0.44, 0.06, (0, 0, 0.03))
    yield _disc(0.32, 0.50, (0, 0, 0.30))
    yield _disc(0.40, 0.06, (0, 0, 0.54), SHADE)
    yield _ball(0.34, 0.34, 0.36, (0, 0, 0.56))
    yield _disc(0.10, 0.08, (0, 0, 0.76), SHADE)
    for y in (-1, 1):
        yield _disc(0.16, 0.16, (0, 0.20 * y, 0.38), MAIN, (0, 1, 0))
        yield _disc(0.19, 0.05, (0, 0.27 * y, 0.38), SHADE, (0, 1, 0))
    yield _disc(0.20, 0.14, (0.20, 0, 0.34), MAIN, (1, 0, 0))
    yield _disc(0.23, 0.05, (0.27, 0, 0.34), SHADE, (1, 0, 0))


def _cone_parts() -> Iterator[Part]:
    yield _box(0.50, 0.50, 0.06, (0, 0, 0.03))
    for low, high, name in ((0.0, 0.3, MAIN), (0.3, 0.5, "light"), (0.5, 0.7, MAIN), (0.7, 1.0, MAIN)):
        yield from _cone(0.40 - 0.32 * low, 0.40 - 0.32 * high, 0.06 + 0.79 * low, 0.06 + 0.79 * high, name, steps=5)


def _tent() -> Iterator[Part]:
    height, steps = 0.58, 14
    bottom, ridge = (0.30, 0.28), 0.16  # half the length and half the width on the floor; half the length of the ridge
    for away in (-1, 1):
        side = _along((0, -away * bottom[1], height))
        end = _along((away * (ridge - bottom[0]), 0, height))
        up = [math.hypot(lean, height) / steps / 2 for lean in (bottom[1], bottom[0] - ridge)]
        for step in range(steps):
            share = (step + 0.5) / steps
            length, width, z = bottom[0] + (ridge - bottom[0]) * share, bottom[1] * (1 - share), height * share
            yield Part("box", (0.008, length, up[0]), (0, away * width, z), side, MAIN)
            yield Part("box", (width, 0.008, up[1]), (away * length, 0, z), end, SHADE)
            if away > 0 and share < 0.75:  # the opening
                yield Part("box", (0.14 * (1 - share / 0.75), 0.008, up[1]), (length + 0.012, 0, z), end, "dark")
        yield _rod((ridge * away, 0, height - 0.03), (ridge * away, 0, height + 0.03), 0.03, "wood")
        for y in (-0.18, 0.18):  # ropes and pegs
            yield _rod((ridge * away, 0, height), (0.37 * away, y, 0.02), 0.016, "light")
            yield _disc(0.03, 0.05, (0.37 * away, y, 0.025), "wood")


def _gift() -> Iterator[Part]:
    yield _box(0.52, 0.52, 0.42, (0, 0, 0.21))
    yield _box(0.56, 0.56, 0.10, (0, 0, 0.43))
    yield _box(0.57, 0.10, 0.482, (0, 0, 0.242), "gold")
    yield _box(0.10, 0.57, 0.482, (0, 0, 0.242), "gold")
    for side in (-1, 1):
        yield from _ring(0.13, 0.05, (0, 0.09 * side, 0.54), "gold", (1, 0, 0), 8)
    yield _ball(0.08, 0.08, 0.08, (0, 0, 0.51), "gold")


def _cake() -> Iterator[Part]:
    yield _disc(0.66, 0.03, (0, 0, 0.015), "light")
    yield _disc(0.56, 0.20, (0, 0, 0.13))
    yield from _ring(0.56, 0.05, (0, 0, 0.225), "light", (0, 0, 1))
    yield _disc(0.36, 0.18, (0, 0, 0.32))
    yield from _ring(0.36, 0.05, (0, 0, 0.41), "light", (0, 0, 1))
    for angle in range(0, 360, 72):
        x, y = 0.11 * math.cos(math.radians(angle)), 0.11 * math.sin(math.radians(angle))
        yield _disc(0.03, 0.13, (x, y, 0.475), "glass")
        yield _ball(0.035, 0.035, 0.07, (x, y, 0.575), "flame")


def _drum() -> Iterator[Part]:
    yield _disc(0.66, 0.52, (0, 0, 0.26))
    yield _disc(0.68, 0.05, (0, 0, 0.08), "gold")
    yield _disc(0.68, 0.05, (0, 0, 0.50), "gold")
    yield _disc(0.60, 0.02, (0, 0, 0.525), "light")
    for step in range(8):
        angle, following = (math.radians(a) for a in (45 * step, 45 * step + 22.5))
        low = (0.335 * math.cos(angle), 0.335 * math.sin(angle), 0.10)
        high = (0.335 * math.cos(following), 0.335 * math.sin(following), 0.48)
        yield _rod(low, high, 0.025, "light")
    yield _rod((-0.20, -0.22, 0.555), (0.16, 0.14, 0.575), 0.035, "wood")
    yield _rod((-0.20, 0.22, 0.555), (0.16, -0.06, 0.575), 0.035, "wood")


# ------------------------------------------------------------------------------------------------ plants and animals


def _flower() -> Iterator[Part]:
    yield from _cone(0.26, 0.38, 0.0, 0.28, "clay", 8)
    yield _disc(0.34, 0.02, (0, 0, 0.275), "dark wood")
    yield _disc(0.04, 0.42, (0, 0, 0.48), "leaf")
    for side in (-1, 1):
        yield _ball(0.06, 0.24, 0.10, (0, 0.13 * side, 0.42), "leaf")
    for angle in range(0, 360, 60):
        y, z = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield _ball(0.06, 0.18, 0.18, (0.02, 0.14 * y, 0.72 + 0.14 * z))
    yield _ball(0.10, 0.16, 0.16, (0.04, 0, 0.72), "gold")


def _mushroom() -> Iterator[Part]:
    yield from _cone(0.34, 0.24, 0.0, 0.42, "light", 8)
    for step in range(10):
        low = step / 10
        yield _disc(0.78 * math.sqrt(1 - low * low), 0.042, (0, 0, 0.40 + 0.36 * low))
    for angle, low in ((0, 0.35), (75, 0.62), (140, 0.30), (200, 0.65), (270, 0.32), (320, 0.7), (30, 0.93)):
        radius = 0.39 * math.sqrt(1 - low * low)
        at = (radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle)), 0.41 + 0.36 * low)
        yield _ball(0.13, 0.13, 0.10, at, "tan")


def _dog() -> Iterator[Part]:
    yield _rod((-0.20, 0, 0.36), (0.12, 0, 0.36), 0.24)
    for x in (-0.20, 0.14):
        for y in (-0.08, 0.08):
            yield _rod((x, y, 0.04), (x, y, 0.34), 0.08)
    yield _rod((0.14, 0, 0.40), (0.20, 0, 0.54), 0.15)
    yield _ball(0.24, 0.24, 0.24, (0.22, 0, 0.58))
    yield _ball(0.18, 0.13, 0.12, (0.33, 0, 0.54), SHADE)
    yield _ball(0.05, 0.06, 0.05, (0.41, 0, 0.56), "dark")
    for y in (-1, 1):
        yield _ball(0.10, 0.06, 0.20, (0.18, 0.13 * y, 0.56), SHADE)
        yield _ball(0.04, 0.05, 0.05, (0.32, 0.06 * y, 0.63), "light")
        yield _ball(0.03, 0.03, 0.03, (0.34, 0.06 * y, 0.63), "dark")
    yield _rod((-0.28, 0, 0.44), (-0.37, 0, 0.62), 0.06)
    yield from _ring(0.18, 0.04, (0.165, 0, 0.45), "gold", (0.4, 0, 1), 8)


def _duck() -> Iterator[Part]:
    yield _ball(0.64, 0.46, 0.40, (-0.02, 0, 0.24))
    yield _ball(0.30, 0.28, 0.06, (-0.30, 0, 0.38), SHADE, tilt=45)  # the tail, up and spread
    yield _rod((0.14, 0, 0.36), (0.16, 0, 0.52), 0.20)
    yield _ball(0.32, 0.29, 0.30, (0.17, 0, 0.60))
    yield _ball(0.24, 0.20, 0.05, (0.33, 0, 0.57), "beak")
    yield _ball(0.22, 0.18, 0.04, (0.31, 0, 0.54), "beak")
    for y in (-1, 1):
        yield _ball(0.36, 0.10, 0.20, (-0.08, 0.22 * y, 0.30), SHADE, tilt=20)
        yield _ball(0.05, 0.05, 0.08, (0.29, 0.09 * y, 0.65), "light")
        yield _ball(0.04, 0.04, 0.05, (0.31, 0.09 * y, 0.65), "dark")
        yield _ball(0.26, 0.15, 0.05, (0.02, 0.16 * y, 0.025), "beak")


def _teddy() -> Iterator[Part]:
    yield _ball(0.38, 0.42, 0.46, (-0.04, 0, 0.28))
    yield _ball(0.16, 0.28, 0.32, (0.10, 0, 0.28), "tan")
    yield _ball(0.34, 0.40, 0.36, (-0.02, 0, 0.65))
    yield _ball(0.16, 0.18, 0.14, (0.14, 0, 0.61), "tan")
    yield _ball(0.05, 0.07, 0.05, (0.22, 0, 0.64), "dark")
    for y in (-1, 1):
        yield _ball(0.10, 0.17, 0.17, (-0.04, 0.17 * y, 0.83))
        yield _ball(0.06, 0.10, 0.10, (0.0, 0.17 * y, 0.83), "tan")
        yield _ball(0.04, 0.05, 0.05, (0.14, 0.08 * y, 0.71), "dark")
        yield _rod((0.0, 0.19 * y, 0.44), (0.16, 0.25 * y, 0.30), 0.13)
        yield _rod((0.06, 0.14 * y, 0.09), (0.24, 0.19 * y, 0.09), 0.16)
        yield _ball(0.04, 0.12, 0.12, (0.32, 0.19 * y, 0.09), "tan")


# --------------------------------------------------------------------------------------------------------- vehicles


def _car() -> Iterator[Part]:
    yield _box(0.78, 0.34, 0.15, (0, 0, 0.18))
    yield _box(0.40, 0.30, 0.15, (-0.05, 0, 0.33))
    yield _box(0.02, 0.26, 0.11, (0.15, 0, 0.33), "glass")
    yield _box(0.02, 0.26, 0.11, (-0.25, 0, 0.33), "glass")
    for x in (-0.145, 0.045):
        yield _box(0.15, 0.31, 0.10, (x, 0, 0.335), "glass")
    for x in (-0.24, 0.24):
        for y in (-1, 1):
            yield _disc(0.20, 0.07, (x, 0.165 * y, 0.10), "dark", (0, 1, 0))
            yield _disc(0.10, 0.08, (x, 0.167 * y, 0.10), "steel", (0, 1, 0))
    for y in (-0.11, 0.11):
        yield _ball(0.05, 0.08, 0.07, (0.39, y, 0.20), "flame")
        yield _box(0.02, 0.07, 0.05, (-0.39, y, 0.20), "clay")
    yield _box(0.03, 0.32, 0.04, (0.395, 0, 0.12), "steel")


def _airplane() -> Iterator[Part]:
    yield _rod((-0.24, 0, 0.24), (0.22, 0, 0.24), 0.17)
    yield _ball(0.14, 0.12, 0.10, (0.20, 0, 0.31), "glass")
    yield _box(0.18, 0.78, 0.03, (0.05, 0, 0.22), SHADE)
    yield _box(0.12, 0.30, 0.03, (-0.31, 0, 0.26), SHADE)
    yield _box(0.12, 0.03, 0.18, (-0.31, 0, 0.36), SHADE)
    yield _disc(0.08, 0.05, (0.32, 0, 0.24), "dark", (1, 0, 0))
    yield _box(0.02, 0.05, 0.34, (0.345, 0, 0.24), "steel")
    yield _box(0.02, 0.34, 0.05, (0.345, 0, 0.24), "steel")
    for y in (-0.12, 0.12):
        yield _rod((0.08, y * 0.7, 0.16), (0.08, y, 0.06), 0.025, "steel")
        yield _disc(0.12, 0.04, (0.08, y, 0.06), "dark", (0, 1, 0))
    for x in (-0.16, -0.06, 0.04):
        yield _disc(0.06, 0.176, (x, 0, 0.28), "glass", (0, 1, 0))


def _sailboat() -> Iterator[Part]:
    for step, (length, width) in enumerate(((0.56, 0.20), (0.66, 0.26), (0.74, 0.30), (0.80, 0.32))):
        yield _ball(length, width, 0.16, (0, 0, 0.08 + 0.045 * step), "dark wood" if step == 3 else "wood")
    yield _rod((0.04, 0, 0.20), (0.04, 0, 1.12), 0.035, "dark wood")
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    jib = turn.T  # the sails, trimmed to both sides so that one of them is wide from everywhere
    for step in range(14):
        share = (step + 0.5) / 14
        half = 0.17 * (1 - share)
        yield Part("box", (half, 0.01, 0.027), (0.03 - half * cos, -half * sin, 0.34 + 0.74 * share), turn, MAIN)
        at = (0.06 + 0.75 * half * cos, -0.75 * half * sin, 0.34 + 0.62 * share)
        yield Part("box", (0.75 * half, 0.01, 0.023), at, jib, "light")


def _rocket() -> Iterator[Part]:
    yield _disc(0.30, 0.62, (0, 0, 0.51))
    yield from _cone(0.30, 0.03, 0.82, 1.22, "light")
    yield _disc(0.31, 0.05, (0, 0, 0.80), "steel")
    yield from _cone(0.26, 0.16, 0.06, 0.20, "dark", 5)
    for angle in range(0, 360, 90):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        for step in range(5):
            reach = 0.17 * (1 - step / 5)
            axes = np.array([[x, -y, 0], [y, x, 0], [0, 0, 1]], float)
            at = ((0.14 + reach / 2) * x, (0.14 + reach / 2) * y, 0.09 + 0.08 * step)
            yield Part("box", (reach / 2 + 0.01, 0.02, 0.04), at, axes, SHADE)
    for angle in range(45, 405, 90):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield _disc(0.13, 0.02, (0.148 * x, 0.148 * y, 0.62), "glass", (x, y, 0))


def _robot() -> Iterator[Part]:
    for y in (-0.11, 0.11):
        yield _box(0.22, 0.14, 0.07, (0.03, y, 0.035), "dark")
        yield _disc(0.09, 0.26, (0, y, 0.17), "steel")
    yield _box(0.26, 0.40, 0.38, (0, 0, 0.48))
    yield _box(0.02, 0.24, 0.20, (0.135, 0, 0.50), "steel")
    for y, name in ((-0.06, "clay"), (0.0, "flame"), (0.06, "leaf")):
        yield _ball(0.03, 0.04, 0.04, (0.15, y, 0.54), name)
    yield _disc(0.10, 0.05, (0, 0, 0.69), "steel")
    yield _box(0.24, 0.30, 0.22, (0, 0, 0.82))
    for y in (-0.07, 0.07):
        yield _disc(0.09, 0.03, (0.125, y, 0.85), "flame", (1, 0, 0))
        yield _ball(0.03, 0.04, 0.04, (0.145, y, 0.85), "dark")
    yield _box(0.02, 0.16, 0.03, (0.12, 0, 0.76), "dark")
    yield _rod((0, 0, 0.93), (0, 0, 1.00), 0.02, "steel")
    yield _ball(0.06, 0.06, 0.06, (0, 0, 1.02), "clay")
    for y in (-1, 1):
        yield _ball(0.12, 0.10, 0.12, (0, 0.23 * y, 0.60), "steel")
        yield _rod((0, 0.26 * y, 0.58), (0.06, 0.28 * y, 0.38), 0.07)
        yield _ball(0.10, 0.09, 0.10, (0.07, 0.28 * y, 0.33), "steel")


# ------------------------------------------------------------------------------------------------------- every kind

_BUILDERS: Mapping[str, Callable[[], Iterator[Part]]] = {
    "airplane": _airplane,
    "armchair": _armchair,
    "barrel": _barrel,
    "bathtub": _bathtub,
    "bed": _bed,
    "bookcase": _bookcase,
    "bucket": _bucket,
    "cake": _cake,
    "car": _car,
    "chair": _chair,
    "clock": _clock,
    "cone": _cone_parts,
    "desk": _desk,
    "dog": _dog,
    "dresser": _dresser,
    "drum": _drum,
    "duck": _duck,
    "fan": _fan,
    "flower": _flower,
    "fridge": _fridge,
    "gift": _gift,
    "hydrant": _hydrant,
    "ladder": _ladder,
    "lamp": _lamp,
    "mailbox": _mailbox,
    "mug": _mug,
    "mushroom": _mushroom,
    "piano": _piano,
    "robot": _robot,
    "rocket": _rocket,
    "sailboat": _sailboat,
    "sofa": _sofa,
    "stool": _stool,
    "suitcase": _suitcase,
    "table": _table,
    "teddy": _teddy,
    "television": _television,
    "tent": _tent,
    "toilet": _toilet,
    "umbrella": _umbrella,
}


def parts(kind: str) -> tuple[Part, ...]:
    """The solids of a kind of thing, at the size that ``rooms.KINDS`` gives it."""
    return _fitted(kind)


@cache
def _fitted(kind: str) -> tuple[Part, ...]:
    built = tuple(_BUILDERS[kind]())
    radius, _ = _extent(built)
    scale = min(1.0, MAX_RADIUS / radius)
    return tuple(
        replace(part, size=tuple(scale * s for s in part.size), at=tuple(scale * a for a in part.at)) for part in built
    )


def extent(kind: str) -> tuple[float, float]:
    """The radius around its middle and the height that hold all of a kind, in metres (a bound within a centimetre)."""
    return _extent(parts(kind))


def _extent(solids: Sequence[Part]) -> tuple[float, float]:
    points = np.concatenate([_outline(part) for part in solids])
    return float(np.hypot(points[:, 0], points[:, 1]).max()), float(points[:, 2].max())


def _outline(part: Part) -> NDArray[np.float64]:
    """Points on the hull of a part, (P, 3): the corners of a box, rings of the round shapes."""
    if part.shape == "box":
        local = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T * part.size
    else:
        around = np.linspace(0, 2 * math.pi, 49)[:-1]
        up = np.linspace(-math.pi / 2, math.pi / 2, 25)
        radius, height = np.cos(up), np.sin(up)
        if part.shape == "cylinder":
            radius, height = np.ones(2), np.array([-1.0, 1.0])
        local = np.stack(
            [np.outer(radius, np.cos(around)), np.outer(radius, np.sin(around)), np.outer(height, np.ones(48))], -1
        ).reshape(-1, 3)
        if part.shape == "capsule":
            local = local * part.size[0] + np.outer(np.sign(local[:, 2]), [0, 0, part.size[2]])
        else:
            local = local * part.size
    return local @ part.axes.T + part.at

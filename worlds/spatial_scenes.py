"""Scenes: a room with objects and cameras whose map is known, and which objects each camera sees.

The map has whole cells. In the room, in metres, distances are stretched so that cameras have what they must show in
view, things are a little out of place, and the whole is turned by some quarters, so that no wall is always "up". None
of this changes what is left or right of what. What a camera sees is for a :class:`Visibility` to say, which counts
pixels or computes. Knows nothing about questions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worlds.rooms import CEILINGS, COLOURS, FIXTURES, FLOORS, KINDS, WALL_COLOURS, Camera, Item, Room, name
from worlds.spatial_grid import CENTRE, Arrangement, Heading, direction

SEEN = 0.5  # share of an object's pixels from which on it counts as seen
UNSEEN = 0.02  # and up to which it counts as not seen
JITTER = 0.08  # how far things are out of place, at most, to either side

_SMALL = 0.75  # height of what may stand in the middle, in front of others
_TOWARDS = 0.5  # share of things around a middle, of those with a front, that face it
_HEIGHT, _PITCH = 1.35, -20.0
_FOV = {"among": 82.0, "around": 80.0, "rotation": 70.0, "translation": 78.0}
_TO_CAMERA, _TO_OTHERS = 1.1, 1.8  # among: from the middle to the cameras, and to what stands around it
_TO_OBJECT = 2.0  # rotation: from the camera to the things around it
_STEP, _BESIDE = 1.05, 1.5  # around: from one thing to the next, and from the end of the row to the camera there
_SIDEWAYS, _BEFORE = 1.6, 1.8  # translation: from one thing to the next, and from the row to the cameras
_BODY = 0.5  # around: half the width that a thing at the end of a row takes
_MARGIN, _NARROWEST = 0.8, 4.0  # from the outermost thing or camera to the wall behind it; and width of a room

_Point = tuple[float, float]  # metres east and north of the middle of the room


class Visibility(Protocol):
    """Says what cameras see."""

    def visible(self, room: Room, cameras: Sequence[Camera]) -> NDArray[np.floating]:
        """(N, items) for each camera, the share of each item's own pixels that is seen; 0: hidden, or out of view."""
        ...


@dataclass(frozen=True)
class Scene:
    """A room with a map.

    Attributes:
        arrangement: the map: cells of the objects, and views.
        room: the same in metres; its items are the objects, in the same order.
        cameras: of each view of the arrangement.
        facings: which way each object faces; ``None`` for what has no front.
        seen: for each view, whether it shows each object; empty as long as nobody has looked.
    """

    arrangement: Arrangement
    room: Room
    cameras: tuple[Camera, ...]
    facings: tuple[Heading | None, ...]
    seen: tuple[tuple[bool, ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objects, all different."""
        return tuple(map(name, self.room.items))

    @property
    def key(self) -> str:
        """A digest of the room and everything in it: names the scene and decides its split."""
        text = json.dumps([self.arrangement.setting, self.arrangement.name, asdict(self.room)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw_scene(arrangement: Arrangement, generator: np.random.Generator) -> Scene:
    """A scene nobody has looked at: a function of its arguments alone."""
    kinds = _kinds(arrangement, generator)
    facings = tuple(_facing(arrangement, number, kind, generator) for number, kind in enumerate(kinds))
    turn = int(generator.integers(4))
    places = [_turned(place, turn) for place in _places(arrangement)]
    cameras = tuple(_camera(arrangement, view, point, turn) for view, point in enumerate(_standpoints(arrangement)))
    shifts = generator.uniform(-JITTER, JITTER, size=(len(kinds), 2)).round(3).tolist()
    yaws = generator.integers(360, size=len(kinds)).tolist()
    items = tuple(
        Item(kind, _one_of(list(COLOURS), generator), x + dx, y + dy, _yaw(float(yaw), facing, turn))
        for kind, (x, y), (dx, dy), facing, yaw in zip(kinds, places, shifts, facings, yaws, strict=True)
    )
    points = [*places, *((camera.x, camera.y) for camera in cameras)]
    room = Room(
        width=_size([x for x, _ in points]),
        depth=_size([y for _, y in points]),
        items=items,
        walls=tuple(generator.permutation(list(WALL_COLOURS))[:4].tolist()),
        fixtures=tuple(generator.permutation(FIXTURES)[:4].tolist()),
        floor=_one_of(list(FLOORS), generator),
        ceiling=_one_of(list(CEILINGS), generator),
    )
    return Scene(arrangement, room, cameras, facings)


def look(scene: Scene, visibility: Visibility) -> Scene | None:
    """The scene with what its cameras see; ``None`` where one misses what it must see, or sees what it must not."""
    shares = visibility.visible(scene.room, scene.cameras).tolist()  # (N, items)
    for row, shown, hidden in zip(shares, scene.arrangement.shown, scene.arrangement.hidden, strict=True):
        if any(row[item] < SEEN for item in shown) or any(row[item] > UNSEEN for item in hidden):
            return None
    return replace(scene, seen=tuple(tuple(share >= SEEN for share in row) for row in shares))


def _kinds(arrangement: Arrangement, generator: np.random.Generator) -> list[str]:
    """A kind for each object, all different; each can be named from every side, and none hides what is beyond it."""
    kinds: list[str] = []
    for number in range(len(arrangement.cells)):
        low = arrangement.setting == "among" and number == 0
        fitting = [
            name
            for name, kind in KINDS.items()
            if kind.all_round and name not in kinds and not (low and kind.height > _SMALL)
        ]
        kinds.append(_one_of(fitting, generator))
    return kinds


def _facing(arrangement: Arrangement, number: int, kind: str, generator: np.random.Generator) -> Heading | None:
    """Which way an object faces; of those around a middle some face it."""
    towards, any_way = generator.random() < _TOWARDS, Heading(int(generator.integers(4)))
    if not KINDS[kind].has_front:
        return None
    if arrangement.setting == "among" and number > 0 and towards:
        return direction(arrangement.cells[number], CENTRE)
    return any_way


def _places(arrangement: Arrangement) -> list[_Point]:
    """Where the objects stand, before they are put a little out of place."""
    if arrangement.setting == "among":
        return [(0.0, 0.0), *(_away(direction(CENTRE, cell), _TO_OTHERS) for cell in arrangement.cells[1:])]
    if arrangement.setting == "rotation":
        return [_away(direction(CENTRE, cell), _TO_OBJECT) for cell in arrangement.cells]
    step = _STEP if arrangement.setting == "around" else _SIDEWAYS
    middle = (len(arrangement.cells) - 1) / 2
    return [(step * (number - middle), 0.0) for number in range(len(arrangement.cells))]


def _standpoints(arrangement: Arrangement) -> list[_Point]:
    """Where the camera of each view is."""
    if arrangement.setting == "among":
        return [_away(direction(CENTRE, view.cell), _TO_CAMERA) for view in arrangement.views]
    if arrangement.setting == "rotation":
        return [(0.0, 0.0)] * len(arrangement.views)
    if arrangement.setting == "translation":
        return [(_SIDEWAYS * (view.cell[0] - CENTRE[0]) / 2, -_BEFORE) for view in arrangement.views]
    half = _STEP * (len(arrangement.cells) - 1) / 2
    before = (half + _BODY) / math.tan(math.radians(_FOV["around"] / 2)) + _BODY
    return [(0.0, -before), (-half - _BESIDE, 0.0), (half + _BESIDE, 0.0), (0.0, before)]


def _camera(arrangement: Arrangement, view: int, point: _Point, turn: int) -> Camera:
    x, y = _turned(point, turn)
    yaw = _yaw(0.0, arrangement.views[view].heading, turn)
    return Camera(x, y, yaw, _HEIGHT, _PITCH, _FOV[arrangement.setting])


def _yaw(any_way: float, heading: Heading | None, turn: int) -> float:
    """That of a heading after the room's quarter turns; ``any_way`` without one."""
    return any_way if heading is None else (heading.yaw + 90.0 * turn) % 360


def _turned(point: _Point, turn: int) -> _Point:
    """A point after quarter turns to the left about the middle of the room."""
    x, y = point
    return ((x, y), (-y, x), (-x, -y), (y, -x))[turn]


def _size(coordinates: Sequence[float]) -> float:
    """Metres from wall to wall."""
    return max(_NARROWEST, 2 * (max(map(abs, coordinates)) + _MARGIN))


def _away(heading: Heading, metres: float) -> _Point:
    """So far from the middle of the room."""
    dx, dy = heading.step
    return metres * dx, -metres * dy


def _one_of(words: Sequence[str], generator: np.random.Generator) -> str:
    return words[int(generator.integers(len(words)))]

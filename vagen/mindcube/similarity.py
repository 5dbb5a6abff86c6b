"""How alike two cognitive maps are, by the official rules in float64. Knows nothing about files.

The generated map is tried under six rotations, as floating-point matrices about the origin: the noise this leaves
decides ties between vertical and horizontal, and is part of the official result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any, Literal

from vagen.mindcube.maps import CognitiveMap, MapError, Place, check_map

Relation = Literal["up", "down", "left", "right", "inner", "outer"]

NEAR, TOUCHING = 0.5, 0.2  # distances below which two things are in front of, or at, each other
DIRECTIONAL, FACING = 0.7, 0.3  # weights of the overall similarity

CLOCKWISE = {"up": "right", "right": "down", "down": "left", "left": "up", "inner": "inner", "outer": "outer"}
_TILT_X = {"up": "inner", "down": "outer", "inner": "down", "outer": "up", "left": "left", "right": "right"}
_TILT_Y = {"left": "inner", "right": "outer", "inner": "right", "outer": "left", "up": "up", "down": "down"}


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation of a map: what is left in the plane of a 3 × 3 matrix, and where facings go."""

    name: str
    matrix: tuple[float, float, float, float]  # xx, xy, yx, yy
    facings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Similarity:
    """The official comparison of a generated with a true map.

    Attributes:
        isomorphic: every relation of the true map holds in the generated one, at ``best_rotation``.
        facing, directional, overall: shares of facings and of relations that agree, and their weighted mean.
        valid_graph: both maps are valid and not empty; otherwise all figures are 0.
        parsable, valid_format: both are JSON objects; both are maps.
        coverage: share of the compared names that the generated map has.
        best_rotation: the first that reaches the best ``overall``; ``None`` if that is 0.
    """

    isomorphic: bool = False
    facing: float = 0.0
    directional: float = 0.0
    overall: float = 0.0
    valid_graph: bool = False
    parsable: bool = False
    valid_format: bool = False
    coverage: float = 0.0
    best_rotation: str | None = None


def _rotations() -> tuple[Rotation, ...]:
    turns, facings = [], dict(zip(CLOCKWISE, CLOCKWISE, strict=True))
    for angle in (90, 180, 270):
        facings = {facing: CLOCKWISE[to] for facing, to in facings.items()}
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turns.append(Rotation(f"z_rot_{angle}", (cos, -sin, sin, cos), facings))
    return (
        Rotation("identity", (1.0, 0.0, 0.0, 1.0), dict(zip(CLOCKWISE, CLOCKWISE, strict=True))),
        *turns,
        Rotation("x_rot_90", (1.0, 0.0, 0.0, 0.0), _TILT_X),
        Rotation("y_rot_90", (0.0, 0.0, 0.0, 1.0), _TILT_Y),
    )


ROTATIONS = _rotations()


def compare_json(generated: Any, grounded: Any) -> Similarity:
    """Compare two maps as JSON, whatever they are."""
    if not isinstance(generated, dict) or not isinstance(grounded, dict):
        return Similarity()
    try:
        maps = check_map(generated, generated=True), check_map(grounded, generated=False)
    except MapError:
        return Similarity(parsable=True)
    return compare(*maps)


def compare(generated: CognitiveMap, grounded: CognitiveMap) -> Similarity:
    """Compare two valid maps."""
    ours, truth = generated.places, grounded.places
    if not ours or not truth:
        return Similarity(parsable=True, valid_format=True)
    names = compared_names(generated, grounded)
    common = [name for name in names if name in ours]
    if not common:
        return Similarity(parsable=True, valid_format=True, valid_graph=True)
    complete = len(common) == len(names)
    true_places = [truth[name] for name in common]
    true_relations = relations(true_places)
    pairs = len(true_relations) - true_relations.count(None)
    facings = [place.facing for place in true_places]
    places = [ours[name] for name in common]
    best, best_rotation = (0.0, 0.0, 0.0, False), None
    for rotation in ROTATIONS:
        turned = [rotate(place, rotation) for place in places]
        found = relations(turned)
        directional = _hits(found, true_relations) / pairs if pairs else 0.0
        facing = _facings(turned, facings)
        overall = DIRECTIONAL * directional + FACING * facing
        if overall > best[0]:
            best, best_rotation = (overall, directional, facing, complete and found == true_relations), rotation.name
        if overall == DIRECTIONAL + FACING:
            break  # nothing is better
    overall, directional, facing, isomorphic = best
    coverage = len(common) / len(names)
    return Similarity(isomorphic, facing, directional, overall, True, True, True, coverage, best_rotation)


def compared_names(generated: CognitiveMap, grounded: CognitiveMap) -> list[Any]:
    """The names of the true map that count: its views only where the generated map speaks of views."""
    return list(grounded.places if generated.has_views else grounded.objects)


def rotate(place: Place, rotation: Rotation) -> Place:
    """A place on the rotated map. All terms are added, zero times infinity as well."""
    xx, xy, yx, yy = rotation.matrix
    facing = place.facing and rotation.facings[place.facing]
    return Place(xx * place.x + xy * place.y, yx * place.x + yy * place.y, facing)


def relations(places: Sequence[Place]) -> list[Relation | None]:
    """The relation of every ordered pair of different places, in an order that depends on their number alone."""
    found: list[Relation | None] = []
    for i, a in enumerate(places):
        for b in places[:i]:
            found += relation(a, b)
    return found


def relation(a: Place, b: Place) -> tuple[Relation | None, Relation | None]:
    """Where ``b`` is, seen from ``a``, and the other way round; ties are vertical, and not-a-number is up."""
    dx, dy = b.x - a.x, b.y - a.y
    distance = math.sqrt(dx * dx + dy * dy)
    if distance < NEAR:
        return _depth(a.facing, b.facing, distance), _depth(b.facing, a.facing, distance)
    if abs(dx) > abs(dy):
        return ("right", "left") if dx > 0 else ("left", "right")
    return "down" if dy > 0 else "up", "down" if dy < 0 else "up"


def _depth(own: str | None, other: str | None, distance: float) -> Relation | None:
    """Which of two things in the same spot is in front."""
    if own == "inner" or other == "outer":
        return "inner"
    if own == "outer" or other == "inner":
        return "outer"
    return "inner" if distance < TOUCHING else None


def _hits(found: Sequence[Relation | None], true: Sequence[Relation | None]) -> int:
    """How many of the true relations, as far as there are any, were found."""
    return sum(map(eq, found, true)) - [*zip(found, true, strict=True)].count((None, None))


def _facings(found: Sequence[Place], true: Sequence[str | None]) -> float:
    """Share of the true facings that were found; 1 where nothing faces anywhere."""
    wanted = [place.facing == facing for place, facing in zip(found, true, strict=True) if facing]
    return sum(wanted) / len(wanted) if wanted else 1.0

"""How alike two cognitive maps are, exactly: the relations of ``similarity`` without floats, and nothing for free.

It differs from the official comparison in six ways.

* Turns are the four quarter turns about the grid's centre, on whole numbers or fractions, so none is lost to noise.
  Relations depend on differences of positions only, and a quarter turn permutes them: (dx, dy) becomes (-dy, dx). The
  official tilts, which squash a map into a line, are no turns of it and are not tried.
* A missing name counts as wrong in every figure: shares are of all the relations and facings of the true map.
* An invented name counts as wrong, too: agreement is multiplied by the share of the names in the generated map that
  are true. So naming a thing in every colour does not help.
* No map, or one that cannot be read, has the figures of a map without names.
* Where the true direction is exactly diagonal, either of its quadrants is right (and so is the diagonal). Not the
  other way round: a generated diagonal is right only where the true one is the same. Were it to stand for both its
  quadrants, a map drawn along one diagonal line would agree with most true maps.
* Views are matched by their number: "View 1" is "Image 1". Facings weigh in only where the true map has any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import Any

from vagen.mindcube.maps import CognitiveMap, MapError, Place, check_map
from vagen.mindcube.similarity import CLOCKWISE, DIRECTIONAL, FACING, compared_names

TURNS = range(4)  # quarter turns, clockwise as one looks at the map

# A relation is the set of directions it may be read as; a quarter turn shifts the four planar bits.
RIGHT, DOWN, LEFT, UP, INNER, OUTER, APART = (1 << bit for bit in range(7))
_PLANAR = RIGHT | DOWN | LEFT | UP

_VIEW = re.compile(r"(?:image|view)\s*(\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in the numbers that were written: 0.1 is a tenth."""

    x: int | Fraction
    y: int | Fraction
    facing: str | None

    @classmethod
    def of(cls, place: Place) -> Spot:
        x, y = (int(value) if value.is_integer() else Fraction(repr(value)) for value in (place.x, place.y))
        return cls(x, y, place.facing)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The exact comparison of a generated with a true map, at the turn that suits it best.

    Attributes:
        directional: share of the ordered pairs of the true map whose relation the generated map has.
        facing: share of the facings of the true map that the generated map has; ``None`` where it has none.
        overall: 0.7 directional + 0.3 facing, or directional alone where nothing faces anywhere; times the precision.
        isomorphic: every pair agrees, and no name is missing or invented.
        coverage: share of the compared names that the generated map has.
        precision: share of the names in the generated map that the true map has; 1 for a map without names.
        turns: quarter turns applied to the generated map.
    """

    directional: float
    facing: float | None
    overall: float
    isomorphic: bool
    coverage: float
    precision: float
    turns: int


def finite_map(raw: Any, generated: bool) -> CognitiveMap | None:
    """A map from its JSON; ``None`` if it is no map, see :func:`check_map`, or a position is not finite."""
    try:
        found = check_map(raw, generated)
    except MapError:
        return None
    return found if all(isfinite(place.x) and isfinite(place.y) for place in found.places.values()) else None


def agree(generated: CognitiveMap | None, grounded: CognitiveMap) -> Agreement:
    """Compare a generated map, or its absence, with a true one."""
    generated = generated or CognitiveMap({}, {}, False)
    places, truth = _by_key(generated), _by_key(grounded)
    keys = [_key(name, name in grounded.views) for name in compared_names(generated, grounded)]
    true_places = [truth[key] for key in keys]
    found_places = [places.get(key) for key in keys]
    pairs = _pairs(found_places, true_places)
    facings = [(f and f.facing, t.facing) for f, t in zip(found_places, true_places, strict=True) if t.facing]
    present = sum(place is not None for place in found_places)
    coverage = present / len(keys) if keys else 0.0
    overall, directional, facing, turns = max(
        (_at(turns, pairs, facings, coverage) for turns in TURNS), key=lambda at: at[0]
    )
    precision = _precision(generated, grounded)
    isomorphic = coverage == precision == directional == 1
    return Agreement(directional, facing, overall * precision, isomorphic, coverage, precision, turns)


def relation(a: Spot, b: Spot) -> tuple[int, int]:
    """Where ``b`` is, seen from ``a``, and the other way round: sets of bits, one direction or both of a diagonal.

    Nearer than half a cell one is in front of the other, as in the official relations.
    """
    dx, dy = b.x - a.x, b.y - a.y
    square = dx * dx + dy * dy
    if 4 * square < 1:
        touching = 25 * square < 1
        return _depth(a.facing, b.facing, touching), _depth(b.facing, a.facing, touching)
    wide, high = abs(dx), abs(dy)
    there = 0
    if wide >= high:
        there |= RIGHT if dx > 0 else LEFT
    if high >= wide:
        there |= DOWN if dy > 0 else UP
    return there, turned(there, 2)


def turned(relation: int, turns: int) -> int:
    """A relation after quarter turns of the map."""
    planar = (relation & _PLANAR) << turns
    return planar & _PLANAR | planar >> 4 | relation & ~_PLANAR


_TURNED = tuple(tuple(turned(relation, turns) for relation in range(1 << 7)) for turns in TURNS)


def _at(
    turns: int, pairs: Sequence[tuple[int, int]], facings: Sequence[tuple[str | None, str]], coverage: float
) -> tuple[float, float, float | None, int]:
    """Overall, directional and facing agreement after some quarter turns; a lone thing is right if it is there."""
    after = _TURNED[turns]
    right = sum(found > 0 and not after[found] & ~true for found, true in pairs)
    directional = right / len(pairs) if pairs else coverage
    if not facings:
        return directional, directional, None, turns
    facing = sum(_turned_facing(found, turns) == true for found, true in facings) / len(facings)
    return DIRECTIONAL * directional + FACING * facing, directional, facing, turns


def _precision(generated: CognitiveMap, grounded: CognitiveMap) -> float:
    """The share of generated names that are true; views count where both maps have them, and never as things."""
    names = {_key(name, False) for name in generated.objects if not _view(name)}
    true = {_key(name, False) for name in grounded.objects}
    if generated.has_views and grounded.views:
        names |= {_key(name, True) for name in generated.views}
        true |= {_key(name, True) for name in grounded.views}
    return len(names & true) / len(names) if names else 1.0


def _depth(own: str | None, other: str | None, touching: bool) -> int:
    """Which of two things in the same spot is in front."""
    if own == "inner" or other == "outer":
        return INNER
    if own == "outer" or other == "inner":
        return OUTER
    return INNER if touching else APART


def _pairs(found: Sequence[Spot | None], true: Sequence[Spot]) -> list[tuple[int, int]]:
    """The (found, true) relation of every ordered pair; found is 0 where a name is missing."""
    pairs: list[tuple[int, int]] = []
    for i, place in enumerate(true):
        for j in range(i):
            a, b = found[i], found[j]
            pairs += zip(relation(a, b) if a and b else (0, 0), relation(place, true[j]), strict=True)
    return pairs


def _turned_facing(facing: str | None, turns: int) -> str | None:
    for _ in range(turns):
        facing = facing and CLOCKWISE[facing]
    return facing


def _by_key(found: CognitiveMap) -> dict[Any, Spot]:
    """The places by what they are matched by."""
    objects = {_key(name, False): Spot.of(place) for name, place in found.objects.items()}
    return objects | {_key(name, True): Spot.of(place) for name, place in found.views.items()}


def _key(name: Any, is_view: bool) -> tuple[str, Any]:
    """What a name is matched by."""
    match = _view(name) if is_view else None
    return ("view", int(match.group(1))) if match else ("name", name)


def _view(name: Any) -> re.Match[str] | None:
    """``Image 2``."""
    return _VIEW.fullmatch(name.strip()) if isinstance(name, str) else None

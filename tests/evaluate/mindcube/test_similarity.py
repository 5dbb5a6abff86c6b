"""The official comparison: each rule on small maps, and all of it against matrices in numpy."""

import math
import random

import numpy as np
import pytest

from vagen.mindcube.maps import CognitiveMap, Place
from vagen.mindcube.similarity import (
    ROTATIONS,
    Similarity,
    compare,
    compare_json,
    relation,
    relations,
    rotate,
)


def flat(places: dict) -> CognitiveMap:
    """A plain map of ``{name: (x, y)}`` or ``{name: (x, y, facing)}``."""
    places = {name: Place(*map(float, at[:2]), *(at[2:] or [None])) for name, at in places.items()}
    return CognitiveMap(places, {}, False)


# ----------------------------------------------------------------------------------------------------------- relations


@pytest.mark.parametrize(
    ("dx", "dy", "there", "back"),
    [
        (3, 1, "right", "left"),
        (-3, 1, "left", "right"),
        (1, 3, "down", "up"),
        (1, -3, "up", "down"),
        (2, 2, "down", "up"),
        (-2, 2, "down", "up"),
        (2, -2, "up", "down"),
        (0.5, 0, "right", "left"),
        (0, 0.5, "down", "up"),
        (0.3, 0.4, "down", "up"),
        (0.4, 0, None, None),
        (0.2, 0, None, None),
        (0.19, 0, "inner", "inner"),
        (0, 0, "inner", "inner"),
        (math.nan, 1, "down", "up"),
        (1, math.nan, "up", "up"),
        (math.inf, 1, "right", "left"),
        (1, -math.inf, "up", "down"),
    ],
)
def test_relations_of_two_places(dx, dy, there, back):
    assert relation(Place(0.0, 0.0, "up"), Place(dx, dy, None)) == (there, back)


@pytest.mark.parametrize(
    ("own", "other", "there", "back"),
    [
        ("inner", None, "inner", "outer"),
        (None, "inner", "outer", "inner"),
        ("outer", None, "outer", "inner"),
        ("inner", "inner", "inner", "inner"),
        ("outer", "outer", "inner", "inner"),
        ("inner", "outer", "inner", "outer"),
        ("outer", "inner", "outer", "inner"),
        ("up", "left", None, None),
    ],
)
def test_facings_decide_which_of_two_near_things_is_in_front(own, other, there, back):
    assert relation(Place(1, 1, own), Place(1.3, 1.3, other)) == (there, back)


# ------------------------------------------------------------------------------------------------------------- figures


def test_equal_maps_are_isomorphic_as_they_are(true_map):
    assert compare_json(true_map, true_map) == Similarity(True, 1.0, 1.0, 1.0, True, True, True, 1.0, "identity")


@pytest.mark.parametrize("turn", [lambda x, y: (10 - y, x), lambda x, y: (-y, x), lambda x, y: (y, -x)])
def test_rounding_spoils_turned_maps(turn, true_map):
    """The known defect: a true map turned about the centre or the origin is not isomorphic: its diagonals tip."""
    turned = {o["name"]: {"position": list(turn(*o["position"]))} for o in true_map["objects"]}
    plain = {o["name"]: {"position": o["position"]} for o in true_map["objects"]}
    found = compare_json(turned, plain)
    assert not found.isomorphic
    assert found.overall > 0.8


def test_missing_names_cost_nothing_but_the_isomorphism():
    """The other known defect."""
    truth = flat({"a": (1, 1), "b": (5, 1), "c": (5, 9), "d": (1, 9)})
    found = compare(flat({"a": (1, 1), "b": (5, 1)}), truth)
    assert (found.overall, found.isomorphic, found.coverage) == (1.0, False, 0.5)


def test_the_first_of_equally_good_rotations_is_kept():
    truth = flat({"a": (1, 1), "b": (5, 1)})
    assert compare(flat({"a": (1, 1), "b": (1, 5)}), truth).best_rotation == "z_rot_270"
    assert compare(flat({"a": (1, 5), "b": (1, 1)}), truth).best_rotation == "z_rot_90"
    assert compare(flat({"a": (5, 1), "b": (1, 1)}), truth).best_rotation == "z_rot_180"
    one = flat({"a": (1, 1)})
    assert compare(one, one) == Similarity(True, 1.0, 0.0, 0.3, True, True, True, 1.0, "identity")


def test_squashed_maps():
    """Along one axis all is level: the tilts keep only x, or only y."""
    truth = flat({"a": (1, 5), "b": (3, 5), "c": (6, 5)})
    assert compare(flat({"a": (1, 0), "b": (2, 9), "c": (3, 4)}), truth).best_rotation == "x_rot_90"
    upright = flat({"a": (5, 1), "b": (5, 3), "c": (5, 6)})
    assert compare(flat({"a": (0, 1), "b": (9, 2), "c": (4, 3)}), upright).best_rotation == "y_rot_90"


def test_facings_turn_along():
    truth = flat({"a": (1, 1, "up"), "b": (5, 1, "inner"), "c": (9, 1)})
    turned = flat({"a": (1, 1, "left"), "b": (1, -3, "inner"), "c": (1, -7, "down")})
    assert compare(turned, truth).facing == 1.0
    assert compare(turned, truth).best_rotation == "z_rot_90"
    assert compare(flat({"a": (1, 1), "b": (5, 1), "c": (9, 1)}), truth).facing == 0.0
    assert compare(flat({"a": (1, 1), "c": (5, 1)}), truth).facing == 0.0
    assert compare(flat({"c": (1, 1, "left")}), truth).facing == 1.0, "nothing that is there ought to face anywhere"


def test_nothing_right_is_no_rotation():
    truth = flat({"a": (1, 1, "inner"), "b": (1, 1.3, "inner")})
    found = compare(flat({"a": (1, 1, "outer")}), truth)
    assert (found.overall, found.facing, found.best_rotation, found.valid_graph) == (0.0, 0.0, None, True)


def test_relations_that_the_true_map_has_not_are_not_asked_for():
    truth = flat({"a": (0, 0), "b": (0.3, 0), "c": (5, 0)})
    found = compare(flat({"a": (0, 0), "b": (3, 0), "c": (5, 0)}), truth)
    assert (found.directional, found.isomorphic) == (1.0, False), "four of the six pairs have a relation"
    assert compare(truth, truth).isomorphic, "having none is also to be matched"


def test_views_count_where_the_generated_map_speaks_of_views(true_map):
    objects_only = {"objects": true_map["objects"]}
    assert compare_json(objects_only, true_map).coverage == 1.0
    assert compare_json(objects_only, true_map).isomorphic
    empty = objects_only | {"views": []}
    assert compare_json(empty, true_map).coverage == pytest.approx(5 / 7)
    assert not compare_json(empty, true_map).isomorphic
    plain = {o["name"]: {"position": o["position"]} for o in true_map["objects"]}
    assert compare_json(plain | {"views": {"position": [0, 0]}}, true_map).coverage == pytest.approx(5 / 7)
    other_names = objects_only | {"views": [{"name": "View 1", "position": [5, 6]}]}
    assert compare_json(other_names, true_map).coverage == pytest.approx(5 / 7), "names are exact"
    assert compare_json({**plain, "Image 1": {"position": [5, 6]}}, plain).coverage == 1.0


PLACE = {"position": [1, 2]}


@pytest.mark.parametrize(
    ("generated", "grounded", "expected"),
    [
        ([1], {"a": PLACE}, Similarity()),
        ({"a": PLACE}, [1], Similarity()),
        ({"a": 1}, {"a": PLACE}, Similarity(parsable=True)),
        ({"a": PLACE}, {"a": 1}, Similarity(parsable=True)),
        ({"a": PLACE}, {"a": [PLACE]}, Similarity(parsable=True)),
        ({"objects": []}, {"a": PLACE}, Similarity(parsable=True, valid_format=True)),
        ({"a": PLACE}, {"objects": []}, Similarity(parsable=True, valid_format=True)),
        ({"a": PLACE}, {"b": PLACE}, Similarity(parsable=True, valid_format=True, valid_graph=True)),
        (
            {"a": PLACE},
            {"objects": [], "views": [{"name": "a", **PLACE}]},
            Similarity(parsable=True, valid_format=True, valid_graph=True),
        ),
        ({"A": PLACE}, {"a": PLACE}, Similarity(parsable=True, valid_format=True, valid_graph=True)),
    ],
)
def test_how_far_a_comparison_gets(generated, grounded, expected):
    assert compare_json(generated, grounded) == expected


# --------------------------------------------------------------------------------------------------------- in matrices

MATRICES = {"identity": np.eye(3)}
for _angle in (90, 180, 270):
    _c, _s = np.cos(np.radians(_angle)), np.sin(np.radians(_angle))
    MATRICES[f"z_rot_{_angle}"] = np.array([[_c, -_s, 0], [_s, _c, 0], [0, 0, 1]])
MATRICES["x_rot_90"] = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
MATRICES["y_rot_90"] = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])

ODD = (math.nan, math.inf, -math.inf, 1e200, -1e-200, 5e-324, 1e16)


def coordinate(generator: random.Random) -> float:
    draws = (
        lambda: float(generator.randint(0, 10)),
        lambda: generator.randint(0, 100) / 10,
        lambda: generator.randint(0, 40) / 4,
        lambda: generator.uniform(-5, 15),
        lambda: generator.choice(ODD),
    )
    return generator.choices(draws, (10, 4, 2, 2, 1))[0]()


def related(a: np.ndarray, b: np.ndarray, own: str | None, other: str | None) -> str | None:
    """The relation as the specification has it, on numpy's numbers."""
    dx, dy = b - a
    distance = np.sqrt(dx**2 + dy**2)
    if distance < 0.5:
        if own == "inner" or other == "outer":
            return "inner"
        if own == "outer" or other == "inner":
            return "outer"
        return "inner" if np.linalg.norm(a - b) < 0.2 else None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def test_turned_places_are_related_as_numpy_has_them():
    assert [rotation.name for rotation in ROTATIONS] == list(MATRICES)
    generator = random.Random(3)
    facings = ["up", "down", "left", "right", "inner", "outer", None]
    with np.errstate(all="ignore"):
        for _ in range(1500):
            places = [Place(coordinate(generator), coordinate(generator), generator.choice(facings)) for _ in range(3)]
            for rotation in ROTATIONS:
                turned = [rotate(place, rotation) for place in places]
                points = [(MATRICES[rotation.name] @ np.array([p.x, p.y, 0.0]))[:2] for p in places]
                expected = []
                for i in range(3):
                    for j in range(i):
                        for a, b in ((i, j), (j, i)):
                            expected.append(related(points[a], points[b], turned[a].facing, turned[b].facing))
                assert relations(turned) == expected, (rotation.name, places)


@pytest.mark.parametrize(
    ("name", "facings"),
    [
        ("identity", "up right down left inner outer"),
        ("z_rot_90", "right down left up inner outer"),
        ("z_rot_180", "down left up right inner outer"),
        ("z_rot_270", "left up right down inner outer"),
        ("x_rot_90", "inner right outer left down up"),
        ("y_rot_90", "up outer down inner right left"),
    ],
)
def test_where_facings_go(name, facings):
    rotation = next(rotation for rotation in ROTATIONS if rotation.name == name)
    before = ["up", "right", "down", "left", "inner", "outer"]
    assert [rotate(Place(0, 0, facing), rotation).facing for facing in before] == facings.split()
    assert rotate(Place(0, 0, None), rotation).facing is None

"""The exact comparison, against a brute force that turns maps about the grid's centre in fractions."""

import json
import random
from fractions import Fraction

import pytest

from vagen.evaluate.mindcube.floor import DRAWS, random_map, random_scores
from vagen.mindcube import exact
from vagen.mindcube.exact import Agreement, Spot, agree, finite_map, relation
from vagen.mindcube.maps import CognitiveMap, Place, check_map

CENTRE = Fraction(5)
FACINGS = ("up", "right", "down", "left")


def flat(places: dict) -> CognitiveMap:
    places = {name: Place(*map(float, at[:2]), *(at[2:] or [None])) for name, at in places.items()}
    return CognitiveMap(places, {}, False)


# --------------------------------------------------------------------------------------------------------- brute force


def turned(places: dict, turns: int) -> dict:
    """A map ``{name: (x, y, facing)}`` after quarter turns about the centre, right becoming down."""
    for _ in range(turns):
        places = {
            name: (CENTRE - (y - CENTRE), CENTRE + (x - CENTRE), facing if facing not in FACINGS else next_of(facing))
            for name, (x, y, facing) in places.items()
        }
    return places


def next_of(facing: str) -> str:
    return FACINGS[(FACINGS.index(facing) + 1) % 4]


def readings(a: tuple, b: tuple) -> set[str]:
    """The directions that the way from ``a`` to ``b`` may be read as."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    if dx**2 + dy**2 < Fraction(1, 4):
        if a[2] == "inner" or b[2] == "outer":
            return {"inner"}
        if a[2] == "outer" or b[2] == "inner":
            return {"outer"}
        return {"inner"} if dx**2 + dy**2 < Fraction(1, 25) else {"apart"}
    found = set()
    if abs(dx) >= abs(dy):
        found.add("right" if dx > 0 else "left")
    if abs(dy) >= abs(dx):
        found.add("down" if dy > 0 else "up")
    return found


def brute_force(generated: dict, true: dict) -> Agreement:
    best = None
    for turns in range(4):
        places = turned(generated, turns)
        pairs = [(a, b) for a in true for b in true if a != b]
        right = [
            a in places and b in places and readings(places[a], places[b]) <= readings(true[a], true[b])
            for a, b in pairs
        ]
        facing = [name in places and places[name][2] == true[name][2] for name in true if true[name][2]]
        coverage = sum(name in places for name in true) / len(true)
        directional = sum(right) / len(right) if right else coverage
        share = sum(facing) / len(facing) if facing else None
        precision = sum(name in true for name in places) / len(places) if places else 1.0
        overall = (directional if share is None else 0.7 * directional + 0.3 * share) * precision
        if best is None or overall > best.overall:
            best = Agreement(
                directional, share, overall, directional == coverage == precision == 1, coverage, precision, turns
            )
    return best


def some_map(generator: random.Random, names: str) -> dict:
    scale = generator.choice([1, 1, 1, 2, 10])
    return {
        name: (
            Fraction(generator.randint(0, 9), scale),
            Fraction(generator.randint(0, 9), scale),
            generator.choice([None, None, *FACINGS, "inner", "outer"]),
        )
        for name in names
    }


def some_change(generator: random.Random, places: dict) -> dict:
    """The same map turned, with things moved, lost and faced elsewhere."""
    changed = dict(turned(places, generator.randrange(4)))
    for name in list(changed):
        if generator.random() < 0.15:
            changed |= some_map(generator, name)
        if generator.random() < 0.1:
            del changed[name]
    return changed


def test_against_the_brute_force():
    generator = random.Random(11)
    isomorphic = 0
    for _ in range(1500):
        true = some_map(generator, "abcde"[: generator.randint(1, 5)])
        generated = generator.choice([some_change, lambda g, _: some_map(g, "abcdef")])(generator, true)
        found, expected = agree(flat(generated), flat(true)), brute_force(generated, true)
        assert found == expected, (generated, true)
        isomorphic += found.isomorphic
    assert 200 < isomorphic < 1200, "the maps are too like, or too unlike, to say much"


# --------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("turns", range(4))
def test_turned_true_maps_are_isomorphic(turns, true_map):
    """What officially fails for every map with exact diagonals. The views turn along."""
    truth = finite_map(true_map, generated=False)
    for group in (true_map["objects"], true_map["views"]):
        for entry in group:
            ((x, y, facing),) = turned({0: (*entry["position"], entry.get("facing"))}, turns).values()
            entry["position"] = [float(x), float(y)]
            if facing:
                entry["facing"] = facing
    found = agree(finite_map(true_map, generated=True), truth)
    assert found == Agreement(1.0, 1.0, 1.0, True, 1.0, 1.0, (4 - turns) % 4)


def test_mirrored_maps_are_not(true_map):
    truth = finite_map(true_map, generated=False)
    for entry in true_map["objects"] + true_map["views"]:
        entry["position"][0] = 10 - entry["position"][0]
    assert not agree(finite_map(true_map, generated=True), truth).isomorphic


def test_missing_names_count_as_wrong():
    truth = flat({"a": (1, 1, "up"), "b": (5, 1), "c": (5, 9, "up"), "d": (1, 9)})
    found = agree(flat({"a": (1, 1, "up"), "b": (5, 1)}), truth)
    assert (found.directional, found.facing, found.coverage) == (pytest.approx(2 / 12), 0.5, 0.5)
    assert not found.isomorphic


@pytest.mark.parametrize("nothing", [None, CognitiveMap({}, {}, False), flat({"other": (1, 1, "up")})])
def test_no_map_and_no_names_score_nothing(nothing):
    truth = flat({"a": (1, 1, "up"), "b": (5, 1)})
    precision = 0.0 if nothing and nothing.objects else 1.0
    assert agree(nothing, truth) == Agreement(0.0, 0.0, 0.0, False, 0.0, precision, 0)
    assert agree(nothing, flat({"a": (1, 1)})) == Agreement(0.0, None, 0.0, False, 0.0, precision, 0)


def test_invented_names_count_as_wrong():
    """Naming one thing in every colour is worth a guess, not the thing."""
    truth = flat({"red cup": (1, 1), "blue door": (5, 1)})
    colours = ("red", "green", "blue", "black")
    everything = {f"{c} cup": (1, 1) for c in colours} | {f"{c} door": (5, 1) for c in colours}
    found = agree(flat(everything), truth)
    assert (found.directional, found.coverage, found.precision, found.isomorphic) == (1.0, 1.0, 0.25, False)
    assert found.overall == 0.25


def test_views_in_a_plain_map_are_no_invented_things():
    truth = flat({"a": (1, 1), "b": (5, 1)})
    assert agree(flat({"a": (1, 1), "b": (5, 1), "Image 1": (5, 6)}), truth).overall == 1


def test_invented_views_count_where_views_are_compared(true_map):
    truth = finite_map(true_map, generated=False)
    true_map["views"].append({"name": "Image 9", "position": [0, 0], "facing": "up"})
    names = len(true_map["objects"]) + len(true_map["views"])
    assert agree(finite_map(true_map, generated=True), truth).precision == pytest.approx((names - 1) / names)


def test_one_thing_is_right_if_it_is_there():
    assert agree(flat({"a": (7, 2)}), flat({"a": (1, 1)})) == Agreement(1.0, None, 1.0, True, 1.0, 1.0, 0)


@pytest.mark.parametrize(
    ("place", "right"),
    [
        ((9, 1), True),
        ((6, 4), True),
        ((8, 3), True),
        ((6, 1), True),
        ((6, 6), False),
        ((1, 1), False),
        ((5, 9), False),
    ],
)
def test_where_the_truth_is_diagonal_either_quadrant_is_right(place, right):
    origin, true = Spot(5, 5, None), Spot(8, 2, None)
    assert relation(origin, true)[0] == exact.RIGHT | exact.UP
    found = relation(origin, Spot(*place, None))[0]
    assert (found & ~relation(origin, true)[0] == 0) == right


def test_a_generated_diagonal_is_right_only_where_the_truth_is():
    """Otherwise a map along one line would say right and down, or left and up, at once."""
    truth = flat({"centre": (5, 5), "south": (5, 8), "west": (2, 5), "north": (5, 2), "east": (8, 5)})
    line = flat({"centre": (5, 5), "south": (7, 7), "east": (8, 8), "north": (2, 2), "west": (3, 3)})
    assert agree(line, truth).directional <= 0.4
    assert agree(truth, truth).isomorphic


def test_numbers_are_those_that_were_written():
    """In floats 0.3 - 0.1 is less than 0.2: a diagonal would be none."""
    a, b = Spot.of(Place(0.1, 0.0, None)), Spot.of(Place(0.3 + 3, 0.2 + 3, None))
    assert (a.x, a.y) == (Fraction(1, 10), 0)
    assert relation(a, b) == (exact.RIGHT | exact.DOWN, exact.LEFT | exact.UP)
    tenths = flat({"a": (0.1, 0), "b": (1.3, 1.2), "c": (0.1, 1.2)})
    assert agree(tenths, flat({"a": (1, 0), "b": (13, 12), "c": (1, 12)})).isomorphic


def test_views_are_matched_by_number(true_map):
    truth = finite_map(true_map, generated=False)
    for number, view in enumerate(true_map["views"], start=1):
        view["name"] = f" VIEW {number}"
    found = agree(finite_map(true_map, generated=True), truth)
    assert found.isomorphic
    assert found.facing == 1.0
    true_map["views"][0]["name"] = "View 3"
    assert agree(finite_map(true_map, generated=True), truth).coverage == pytest.approx(6 / 7)
    true_map["objects"][0]["name"] = "Cup"
    assert agree(finite_map(true_map, generated=True), truth).coverage == pytest.approx(5 / 7), "objects are exact"


@pytest.mark.parametrize(
    "raw", [{"a": {"position": ["nan", 1]}}, {"a": {"position": [1e999, 1]}}, {"a": 1}, None, [1]]
)
def test_what_is_no_finite_map(raw):
    assert finite_map(raw, generated=True) is None


def test_huge_and_tiny_numbers_are_compared():
    huge = flat({"a": (1e308, -1e308), "b": (5e-324, 1e-300)})
    assert agree(huge, flat({"a": (9, 0), "b": (1, 8)})).isomorphic


# --------------------------------------------------------------------------------------------------------------- floor


def test_random_maps_keep_names_and_facings_that_are_asked(true_map):
    import numpy as np

    truth = check_map(true_map, generated=False)
    generator = np.random.default_rng(0)
    drawn = [random_map(truth, generator) for _ in range(400)]
    for found in drawn:
        assert (list(found.objects), list(found.views), found.has_views) == (
            list(truth.objects),
            list(truth.views),
            truth.has_views,
        )
        for name, place in found.places.items():
            assert (place.facing is None) == (truth.places[name].facing is None)
            assert place.facing in (None, *FACINGS)
    cups = [(found.places["cup"].x, found.places["cup"].y) for found in drawn]
    assert {x for x, _ in cups} == {y for _, y in cups} == set(range(10))
    assert {found.places["lamp"].facing for found in drawn} == set(FACINGS)


def test_the_floor_is_the_mean_over_all_random_maps():
    """Two things: after the best turn they are where they should be, unless in one cell or on a diagonal."""
    truth = flat({"a": (1, 1), "b": (5, 1)})
    cells = [(x, y) for x in range(10) for y in range(10)]
    scores = [agree(flat({"a": a, "b": b}), truth).directional for a in cells for b in cells]
    drawn = random_scores([truth], agree, seed=3)
    assert len(drawn) == DRAWS
    assert sum(score.directional for _, score in drawn) / DRAWS == pytest.approx(sum(scores) / len(scores), abs=0.03)
    assert random_scores([truth], agree, seed=3) == drawn
    assert random_scores([truth], agree, seed=4) != drawn
    assert random_scores([], agree) == []


def test_true_maps_are_drawn_alike():
    truths = [flat({"a": (1, 1)}), flat({"b": (1, 1)}), flat({"c": (1, 1)})]
    counts = [0, 0, 0]
    for index, score in random_scores(truths, lambda found, true: (list(found.objects), list(true.objects))):
        counts[index] += 1
        assert score[0] == score[1] == [json.loads(f'"{"abc"[index]}"')]
    assert min(counts) > DRAWS / 4

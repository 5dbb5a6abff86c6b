"""Intervals against published values and the equation that defines them; floors against every possible answer."""

import itertools
import math
import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from vagen.cloze.scoring import score
from vagen.cloze.statistics import calibration, ceiling, copy_floor, majority_floor, random_floor, skill, wilson
from worlds.text import write_actions, write_facts

# What chance does is asked about in test_chance.py.
CERTAIN = [id for id in worlds.registered() if worlds.make(id).deterministic]

SMALL = ("frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6")
ONE_ACTION = ("inverse_dynamics", "policy", "o0 o1 o2 -> a1")
NO_ACTION = [
    (world, cloze)
    for world in ("frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6")
    for cloze in ("state_estimation", "forward_dynamics", "rollout", "reward", "termination")
    if (world, cloze) != ("minigrid-rooms-6x6", "reward")  # it depends on what cannot be seen
]

on_small_worlds = pytest.mark.parametrize("world", SMALL)

# ------------------------------------------------------------------------------------------------------------ wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_values(successes, n, low, high):
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.value, found.n) == (successes / n, n)


COUNTS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n) | st.floats(0, n), st.just(n)))


@given(COUNTS)
def test_wilson_bounds_are_where_the_score_test_stops_rejecting(counts):
    """Wilson 1927: the bounds p are the solutions of |value - p| = z sqrt(p (1 - p) / n)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    found = wilson(*counts)
    for bound in (found.low, found.high):
        tested = z * math.sqrt(bound * (1 - bound) / found.n)
        assert abs(found.value - bound) == pytest.approx(tested, rel=1e-6, abs=1e-7)


@given(COUNTS)
def test_wilson_is_an_interval_of_shares(counts):
    found = wilson(*counts)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    mirrored = wilson(found.n - counts[0], found.n)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)


@given(st.integers(0, 20), st.integers(1, 20), st.integers(2, 50))
def test_wilson_shrinks_as_samples_grow(successes, failures, times):
    few = wilson(successes, successes + failures)
    many = wilson(successes * times, (successes + failures) * times)
    assert many.value == pytest.approx(few.value)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, -1), (-1, 5), (6, 5), (5.000001, 5), (math.nan, 5)])
def test_wilson_refuses_impossible_counts(counts):
    with pytest.raises(ValueError, match="need 0 <= successes <= n and n > 0"):
        wilson(*counts)


# ------------------------------------------------------------------------------------------------------------ floors


def plans(sample) -> list[str]:
    """Every answer that could be given to a cloze about actions."""
    actions = sample.world.actions
    return [
        write_actions(plan, actions)
        for plan in itertools.product(range(len(actions)), repeat=len(sample.pattern.asked))
    ]


def constant_answers(samples, answers) -> tuple[int, int]:
    """How many samples are right if the answer to each text is one that is best for it in the other half.

    The fewest and the most, as several answers may be best. A text that the other half lacks gets an answer that is
    best for all of it.
    """
    right = {answer: [score(sample, answer).correct for sample in samples] for answer in answers}
    least = most = 0
    for number, sample in enumerate(samples):
        others = [other for other in range(len(samples)) if other % 2 != number % 2]
        same = [other for other in others if samples[other].question == sample.question] or others
        count = {answer: sum(flags[other] for other in same) for answer, flags in right.items()}
        best = [right[answer][number] for answer in answers if count[answer] == max(count.values())]
        least, most = least + all(best), most + any(best)
    return least, most


def check_majority(samples, answers) -> None:
    found = majority_floor(samples)
    least, most = constant_answers(samples, answers)
    assert least <= round(found.value * len(samples)) <= most
    assert found == wilson(round(found.value * len(samples)), len(samples))


@pytest.mark.parametrize("cloze", ONE_ACTION)
@on_small_worlds
def test_the_majority_floor_of_an_action_is_the_best_constant_action(world, cloze, draw_samples):
    check_majority(draw_samples(world, cloze, n=24), plans(draw_samples(world, cloze, n=24)[0]))


@pytest.mark.parametrize(("world", "cloze"), NO_ACTION)
def test_the_majority_floor_of_a_value_is_the_best_constant_value(world, cloze, draw_samples):
    samples = draw_samples(world, cloze, n=16)
    samples = [*samples, *samples[:5], *samples[:3]]  # so that some answers are right more often than others
    check_majority(samples, sorted({sample.answer for sample in samples}))


@on_small_worlds
def test_the_majority_floor_of_a_plan_is_the_best_constant_plan(world, draw_samples):
    samples = draw_samples(world, "plan_inference", n=24)
    check_majority(samples, plans(samples[0]))


def test_texts_that_are_never_repeated_flatter_no_floor(draw_samples):
    """Three given actions make many texts; chosen on the test itself, one answer for each would be right mostly."""
    samples = draw_samples("sokoban-6x6", "rollout", n=60)
    assert majority_floor(samples).value < 0.1


@pytest.mark.parametrize("cloze", ["text_forward_dynamics", "text_inverse_dynamics"])
def test_a_cloze_of_text_alone_has_a_floor_of_ignoring_the_text(cloze, draw_samples):
    assert majority_floor(draw_samples("minigrid-rooms-6x6", cloze, n=24)).value < 0.8


@pytest.mark.parametrize("cloze", ONE_ACTION)
@on_small_worlds
def test_the_random_floor_of_an_action_is_the_mean_over_all_actions(world, cloze, draw_samples):
    samples = draw_samples(world, cloze, n=24)
    right = [score(sample, answer).correct for sample in samples for answer in plans(sample)]
    assert random_floor(samples).value == pytest.approx(statistics.fmean(right))
    assert random_floor(samples).n == len(samples)


@pytest.mark.parametrize(("world", "cloze"), NO_ACTION)
def test_the_random_floor_of_a_value_is_another_samples_truth(world, cloze, draw_samples):
    samples = draw_samples(world, cloze, n=16)
    samples = [*samples, *samples[:5], *samples[:3]]
    right = [score(one, other.answer).correct for one, other in itertools.permutations(samples, 2)]
    assert random_floor(samples).value == pytest.approx(statistics.fmean(right))


@on_small_worlds
def test_the_random_floor_of_a_plan_is_the_mean_over_all_plans(world, draw_samples):
    samples = draw_samples(world, "plan_inference", n=12)
    right = [score(sample, answer).correct for sample in samples for answer in plans(sample)]
    assert random_floor(samples).value == pytest.approx(statistics.fmean(right))


@pytest.mark.parametrize("cloze", ["termination", "state_estimation"])
def test_the_floors_of_a_single_sample(cloze, draw_samples):
    samples = draw_samples("frozenlake-4x4", cloze)[:1]
    assert majority_floor(samples).value == 0, "there is no other sample"
    assert random_floor(samples).value == 0, "there is no other sample"


@pytest.mark.parametrize(
    ("cloze", "shown"),
    [("forward_dynamics", 0), ("rollout", 0), ("text_forward_dynamics", 0), ("o0 a0 o1 a1 -> s2", 1)],
)
@on_small_worlds
def test_the_copy_floor_repeats_the_last_state_shown(world, cloze, shown, draw_samples):
    samples = draw_samples(world, cloze, n=16)
    right = [
        score(s, write_facts(s.world.facts(s.window.snapshots[shown]), s.world.schema, s.representation)).correct
        for s in samples
    ]
    assert copy_floor(samples) == wilson(sum(right), len(samples))


@pytest.mark.parametrize("cloze", ["state_estimation", "o0 a0 o1 -> s1", *ONE_ACTION, "reward", "termination"])
def test_no_copy_floor_where_nothing_can_be_copied(cloze, draw_samples):
    assert copy_floor(draw_samples("frozenlake-4x4", cloze)) is None


# ------------------------------------------------------------------------------------------------- ceiling and skill


@pytest.mark.parametrize("world", CERTAIN)
def test_what_is_seen_whole_can_be_answered_perfectly(world, draw_samples):
    assert ceiling(draw_samples(world, "forward_dynamics", n=4)) == 1.0


@pytest.mark.parametrize(
    ("accuracy", "floors", "top", "expected"),
    [
        (0.75, [0.5, 0.25], 1.0, 0.5),
        (0.5, [0.5], 1.0, 0.0),
        (1.0, [0.9], 1.0, 1.0),
        (0.25, [0.5], 1.0, -0.5),
        (0.4, [0.2], 0.6, 0.5),
        (0.3, [], 1.0, 0.3),
        (1.0, [1.0], 1.0, None),
        (0.7, [0.8], 0.7, None),
        (0.7, [0.1], None, None),
    ],
)
def test_skill(accuracy, floors, top, expected):
    assert skill(accuracy, floors, top) == (None if expected is None else pytest.approx(expected))


# --------------------------------------------------------------------------------------------------------- calibration

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(ANSWERS, st.integers(1, 12))
def test_calibration_is_its_definition(answers, count):
    """Bin by bin, in exact fractions: |right answers - sum of confidences|, over all answers."""
    found = calibration([c for c, _ in answers], [right for _, right in answers], count)
    apart, filled = Fraction(0), 0
    for number in range(count):
        own = [(Fraction(c), right) for c, right in answers if min(math.floor(c * count), count - 1) == number]
        apart += abs(sum(right for _, right in own) - sum(c for c, _ in own))
        filled += bool(own)
    assert found.ece == pytest.approx(float(apart / len(answers)), abs=1e-12)
    assert len(found.bins) == filled
    assert sum(b.n for b in found.bins) == len(answers)
    assert sum(b.n * b.accuracy for b in found.bins) == pytest.approx(sum(right for _, right in answers))
    assert [b.confidence for b in found.bins] == sorted(b.confidence for b in found.bins)


def test_sure_and_right_is_perfect_and_sure_and_wrong_as_bad_as_can_be():
    assert calibration([1.0, 1.0, 0.0], [True, True, False]).ece == 0
    assert calibration([1.0, 0.0], [False, True]).ece == 1

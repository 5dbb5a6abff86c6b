"""Tests and intervals against published values, exhaustive enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagen.evaluate.significance import Difference, holm, mcnemar, mean_difference, paired, unpaired


def outcomes(both: int, lost: int, won: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two models' answers as a 2 x 2 table."""
    pairs = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * won + [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_counts_fair_coins_at_least_as_extreme(won, lost):
    """By enumeration of all coin sequences."""
    n = won + lost
    gap = abs(won - lost)
    extreme = sum(abs(2 * sum(coins) - n) >= gap for coins in itertools.product((0, 1), repeat=n))
    assert mcnemar(won, lost) == pytest.approx(extreme / 2**n)


def test_a_paired_table_by_hand():
    """1, 7, 1, 12: p = 2 (1 + 8) / 256; with one added to each of both cells, 2/23 - 8/23 plus or minus 0.2475."""
    found = paired(*outcomes(1, 7, 1, 12))
    assert found.value == pytest.approx(-6 / 21)
    assert found.p == pytest.approx(18 / 256)
    assert (found.low, found.high) == pytest.approx((-0.5084, -0.0134), abs=1e-4)


def test_paired_intervals_cover_the_true_difference():
    rng = np.random.default_rng(0)
    for p_won, p_lost in ((0.1, 0.1), (0.2, 0.05), (0.02, 0.0)):
        hits = 0
        for _ in range(1000):
            won, lost, rest = rng.multinomial(100, [p_won, p_lost, 1 - p_won - p_lost])
            found = paired(*outcomes(rest, lost, won, 0))
            hits += found.low <= p_won - p_lost <= found.high
        assert hits / 1000 > 0.93, f"{p_won - p_lost}: the 95 % interval covers only {hits / 10:.1f} %"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_models_mirrors_everything(pairs):
    first, second = zip(*pairs, strict=True)
    one, other = paired(first, second), paired(second, first)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p == other.p
    assert -1 <= one.low <= one.high <= 1


def test_answers_must_be_pairs():
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired([True], [True, False])
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired([], [])


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10, examples (a), (b) and (d)
        ((48 / 80, 80), (56 / 70, 70), 0.0524, 0.3339),
        ((3 / 10, 10), (9 / 10, 10), 0.1705, 0.8090),
        ((0 / 29, 29), (5 / 56, 56), -0.0381, 0.1926),
    ],
)
def test_unpaired_intervals_are_the_published_ones(first, second, low, high):
    found = unpaired(first, second)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(p_values):
    """Smallest first, each times the number of hypotheses left, never less than one before it, at most 1."""
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, place in enumerate(order):
        least = max((len(order) - r) * p_values[i] for r, i in enumerate(order[: rank + 1]))
        assert adjusted[place] == pytest.approx(min(1.0, least))


def test_means_of_independent_differences_shrink_with_their_number():
    one = Difference(0.1, 0.0, 0.3, None)
    found = mean_difference([one] * 4)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1 - 0.1 / 2, 0.1 + 0.2 / 2))
    assert math.isclose(mean_difference([one]).low, 0.0, abs_tol=1e-12)

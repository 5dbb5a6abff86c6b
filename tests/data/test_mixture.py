"""Turns are dealt exactly as the weights say, and who has turn n depends on n only."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagen.data.mixture import BLOCK, Turns, moments, weight_at

POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), min_size=1, max_size=4).map(
    lambda points: tuple(sorted(points, key=lambda point: point[0]))
)
SCHEDULES = st.lists(st.one_of(st.floats(0.01, 100), POINTS), min_size=1, max_size=6)


@given(weights=st.lists(st.floats(0.001, 1000), min_size=1, max_size=8), blocks=st.integers(1, 12))
def test_constant_weights_are_met_to_less_than_a_turn(weights, blocks):
    turns = Turns(weights, 0)
    counts = np.bincount([turns.turn(n)[0] for n in range(blocks * BLOCK)], minlength=len(weights))
    due = np.array(weights) / sum(weights) * blocks * BLOCK
    assert np.abs(counts - due).max() < 1 + 1e-6


@given(weights=SCHEDULES, length=st.integers(1, 20 * BLOCK))
def test_schedules_are_met_to_a_turn(weights, length):
    """The reference adds up the shares of every single turn, in float64, and not of blocks."""
    turns = Turns(weights, length)
    n = -(-length // BLOCK) * BLOCK
    counts = np.bincount([turns.turn(k)[0] for k in range(n)], minlength=len(weights))
    due = np.sum([turns.shares(BLOCK * b + BLOCK // 2) for b in range(n // BLOCK)], axis=0) * BLOCK
    assert counts.sum() == n
    assert np.abs(counts - due).max() < 1 + 1e-6


def test_long_schedules_follow_the_integral():
    """One source grows from 0 to all while the other shrinks: the integral of x gives half of the turns."""
    length = 100 * BLOCK
    turns = Turns([((0, 0), (1, 1)), ((0, 1), (1, 0))], length)
    sources = np.array([turns.turn(n)[0] for n in range(length)])
    for part in (0.25, 0.5, 1.0):
        grown = np.sum(sources[: int(part * length)] == 0)
        assert grown == pytest.approx(part**2 / 2 * length, abs=2)


@given(weights=SCHEDULES, length=st.integers(0, 2000))
def test_every_source_counts_its_own_turns(weights, length):
    turns = Turns(weights, length)
    seen = [0] * len(weights)
    for n in range(3 * BLOCK):
        source, before = turns.turn(n)
        assert before == seen[source]
        seen[source] += 1


@given(order=st.permutations(range(0, 5 * BLOCK, 61)))
def test_turns_do_not_depend_on_who_asked_before(order):
    weights = [3.0, ((0.0, 0.0), (1.0, 2.0)), 0.7]
    expected = {n: Turns(weights, 1000).turn(n) for n in order}
    turns = Turns(weights, 1000)
    assert {n: turns.turn(n) for n in order} == expected
    assert pickle.loads(pickle.dumps(turns)).turn(order[0]) == expected[order[0]]


@pytest.mark.parametrize("weights", [(3, 1, 1), (1, 1), (5, 2, 1)])
def test_turns_are_spread_evenly(weights):
    """In every stretch of turns no source is further than 2 turns from its share."""
    turns = Turns([float(w) for w in weights], 0)
    sources = np.array([turns.turn(n)[0] for n in range(4 * BLOCK)])
    for source, weight in enumerate(weights):
        ahead = np.cumsum(sources == source) - weight / sum(weights) * np.arange(1, len(sources) + 1)
        assert ahead.max() - ahead.min() < 2


def test_sources_that_leave_get_no_turns():
    turns = Turns([((0.0, 1.0), (0.5, 1.0), (0.5, 0.0)), 1.0, ((0.0, 0.3), (0.5, 0.3), (0.5, 0.0))], 20 * BLOCK)
    late = {turns.turn(n)[0] for n in range(10 * BLOCK, 30 * BLOCK)}
    assert late == {1}


def test_the_realised_mixture_passes_a_chi_square_test():
    """And the order of turns carries no more than the weights: pairs of neighbours are as even as they can be."""
    weights = np.array([2.5, 1.0, 0.25])
    turns = Turns(list(weights), 0)
    n = 40 * BLOCK
    counts = np.bincount([turns.turn(k)[0] for k in range(n)], minlength=3)
    due = weights / weights.sum() * n
    assert ((counts - due) ** 2 / due).sum() < 0.01


@pytest.mark.parametrize(
    ("schedule", "progress", "weight"),
    [
        (2.0, 0.3, 2.0),
        (((0.0, 1.0), (1.0, 3.0)), 0.25, 1.5),
        (((0.5, 1.0), (1.0, 3.0)), 0.25, 1.0),
        (((0.0, 1.0), (0.5, 3.0)), 0.75, 3.0),
        (((0.75, 0.0), (0.75, 0.5)), 0.7499, 0.0),
        (((0.75, 0.0), (0.75, 0.5)), 0.75, 0.5),
        (((0.0, 0.0), (0.0, 1.0)), 0.0, 1.0),
    ],
)
def test_weights_are_linear_between_points(schedule, progress, weight):
    assert weight_at(schedule, progress) == pytest.approx(weight)


@given(schedule=POINTS, progress=st.floats(0, 1))
def test_weights_are_numpys_interpolation_away_from_jumps(schedule, progress):
    places = [at for at, _ in schedule]
    if len(set(places)) == len(places):
        assert weight_at(schedule, progress) == pytest.approx(np.interp(progress, *zip(*schedule, strict=True)))


def test_moments_tell_every_gap():
    gap = [((0.0, 1.0), (0.25, 0.0)), ((0.75, 0.0), (1.0, 1.0))]
    assert any(not any(weight_at(s, moment) for s in gap) for moment in moments(gap))

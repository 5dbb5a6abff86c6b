"""Turns and groups against a walk over every token and every row."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.rl.segments import as_float, following, groups_of, preceding, turns_of

ROW_IDS = st.lists(st.sampled_from((-1, -1, 0, 3, 3, 3, 7)), min_size=9, max_size=9)
BATCHES_OF_IDS = st.lists(ROW_IDS, min_size=1, max_size=4)
SMALL_IDS = st.integers(-2, 2)


def runs(row: list[int]) -> list[list[int]]:
    """Positions of the response tokens of each turn of a row."""
    responses = [(t, i) for t, i in enumerate(row) if i >= 0]
    return [[t for t, _ in run] for _, run in itertools.groupby(responses, key=lambda pair: pair[1])]


@given(BATCHES_OF_IDS)
def test_turns_are_runs_of_one_id(ids):
    turns = turns_of(torch.tensor(ids))
    for b, row in enumerate(ids):
        found = runs(row)
        assert turns.exists[b].sum() == len(found)
        for k, run in enumerate(found):
            assert turns.exists[b, k]
            assert turns.number[b, run].tolist() == [k] * len(run)
        assert turns.mask[b].nonzero().flatten().tolist() == sorted(itertools.chain(*found))
        assert turns.first[b].nonzero().flatten().tolist() == [run[0] for run in found]
        assert turns.last[b].nonzero().flatten().tolist() == [run[-1] for run in found]


@given(BATCHES_OF_IDS, st.integers(0, 2**31))
def test_totals_and_broadcast(ids, seed):
    turns = turns_of(torch.tensor(ids))
    x = torch.randn(turns.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[~turns.mask] = torch.nan
    totals = turns.totals(x)
    spread = turns.broadcast(totals)
    for b, row in enumerate(ids):
        for k, run in enumerate(runs(row)):
            assert totals[b, k].item() == pytest.approx(sum(x[b, t].item() for t in run))
            assert spread[b, run].tolist() == [totals[b, k].item()] * len(run)
    assert (spread[~turns.mask] == 0).all()
    assert (totals[~turns.exists] == 0).all()


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_the_nearest_token_on_either_side(rows):
    mask = torch.tensor(rows)
    after, before = following(mask), preceding(mask)
    for b, row in enumerate(rows):
        for t in range(6):
            assert after[b, t] == next((s for s in range(t + 1, 6) if row[s]), 6)
            assert before[b, t] == next((s for s in reversed(range(t)) if row[s]), 6)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_nothing_has_no_turns(shape):
    turns = turns_of(torch.zeros(shape, dtype=torch.long))
    assert turns.exists.shape == (shape[0], 1)
    assert not turns.exists.any()
    assert turns.broadcast(turns.totals(torch.zeros(shape))).shape == shape


@given(st.lists(st.tuples(SMALL_IDS, SMALL_IDS), min_size=1, max_size=12))
def test_groups_and_their_votes(pairs):
    groups, episodes = ([pair[i] for pair in pairs] for i in (0, 1))
    found = groups_of(groups, episodes)
    assert found.count == len(set(groups))
    assert [sorted(set(groups))[n] for n in found.number.tolist()] == groups
    assert found.leader.tolist() == [pairs.index(pair) for pair in pairs]
    assert found.votes.tolist() == [pair not in pairs[:i] for i, pair in enumerate(pairs)]
    assert groups_of(groups).votes.all()
    assert found.sizes(torch.zeros(len(pairs))).sum() == len(set(pairs))


def test_equal_ids_of_other_groups_are_other_episodes():
    assert groups_of([0, 0, 1, 1], [5, 5, 5, 5]).leader.tolist() == [0, 0, 2, 2]


def test_half_precision_and_integers_are_computed_in_float32():
    f32, f64, f16 = (torch.ones(2, dtype=d) for d in (torch.float32, torch.float64, torch.bfloat16))
    assert {x.dtype for x in as_float(f32, torch.ones(2, dtype=torch.long))} == {torch.float32}
    assert {x.dtype for x in as_float(f32, f64)} == {torch.float64}
    assert {x.dtype for x in as_float(f16)} == {torch.float32}

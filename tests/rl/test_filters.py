"""Filters against loops written from their definitions, and the numbers they were published with."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from vagen.rl.filters import (
    MOST_EMPTY_STEPS,
    STRATEGIES,
    VALUELESS,
    NothingToLearnError,
    count_empty,
    group_scores,
    loss_scale,
    outcome_gate,
    rows_of,
    select_groups,
)

SCORES = st.lists(st.sampled_from((0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0)) | st.floats(0, 3), min_size=1, max_size=8)
SHARES = st.sampled_from((0.0, 0.1, 0.5, 0.6, 0.9, 1.0)) | st.floats(0, 1)
MODES = ("ragen_code", "ragen_paper")

by_every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def kept(scores, strategy, value, **options) -> list[int]:
    return select_groups(torch.tensor(scores, dtype=torch.float64), strategy, value, **options).tolist()


# -------------------------------------------------------------------------------------------------------------- scores

ROWS = st.lists(
    st.tuples(st.sampled_from((7, 2, 5)), st.integers(0, 3), st.sampled_from((0.0, 0.1, 1.0, -2.0))),
    min_size=1,
    max_size=12,
)


@given(ROWS, st.sampled_from((0, 1)), st.booleans())
def test_group_scores_are_the_spread_of_the_votes(rows, ddof, use_episodes):
    groups, episodes, rewards = zip(*rows, strict=True)
    rewards = torch.tensor(rewards, dtype=torch.float64)
    names = episodes if use_episodes else None
    variances, stds = (group_scores(rewards, groups, kind, ddof, names) for kind in ("variance", "std"))
    for position, group in enumerate(sorted(set(groups))):
        own = [(episodes[i], rewards[i].item()) for i in range(len(rows)) if groups[i] == group]
        votes = list(dict(reversed(own)).values()) if use_episodes else [reward for _, reward in own]
        expected = (statistics.variance, statistics.pvariance)[1 - ddof](votes) if len(votes) > 1 else 0.0
        assert variances[position].item() == pytest.approx(expected, abs=1e-12)
        assert stds[position].item() == pytest.approx(math.sqrt(expected), abs=1e-12)


@pytest.mark.parametrize("kind", ["std", "variance"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_rewards_score_exactly_nothing(kind, size):
    rewards = torch.full((size,), 0.1)
    assert group_scores(rewards, [0] * size, kind).tolist() == [0]


def test_group_scores_of_nothing():
    assert group_scores(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_an_unknown_kind_of_score_is_refused():
    with pytest.raises(ValueError, match="unknown kind of score 'range': known are std, variance"):
        group_scores(torch.zeros(2), [0, 0], "range")


@given(ROWS)
def test_scores_belong_to_groups_and_not_to_rows(rows):
    groups, _, rewards = zip(*rows, strict=True)
    rewards = torch.tensor(rewards, dtype=torch.float64)
    order = list(reversed(range(len(rows))))
    backwards = group_scores(rewards[order], [groups[i] for i in order])
    torch.testing.assert_close(backwards, group_scores(rewards, groups))


def test_rows_of_kept_groups():
    scores = group_scores(torch.tensor([0.0, 1, 1, 1, 0, 5]), groups := [9, 3, 9, 3, 9, 4])
    rows = rows_of(select_groups(scores, "dapo", 0), groups)
    assert rows.tolist() == [True, False, True, False, True, False]
    assert not rows_of(torch.zeros(0, dtype=torch.long), groups).any()


# ----------------------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("p", "expected"), [(0.6, [0, 1]), (0.9, [0, 1, 2])])
def test_top_p_of_four(mode, p, expected):
    assert kept([4, 3, 2, 1], "top_p", p, mode=mode) == expected
    assert kept([1, 2, 3, 4], "top_p", p, mode=mode) == sorted(3 - i for i in expected)


def test_code_and_paper_differ_in_what_adds_up():
    assert kept([5, 2, 1, 1], "top_p", 0.9, mode="ragen_paper") == [0, 1]
    assert kept([5, 2, 1, 1], "top_p", 0.9, mode="ragen_code") == [0, 1, 2, 3]


def top_p(scores, share, mode, largest, include_zero, eps) -> list[int]:
    """The loop of RAGEN's filter."""
    eps = {"ragen_code": 0.01, "ragen_paper": 0.0}[mode] if eps is None else eps
    candidates = [i for i in range(len(scores)) if include_zero or abs(scores[i]) > 1e-10]
    candidates.sort(key=lambda i: -scores[i] if largest else scores[i])
    mass = [scores[i] ** 2 if mode == "ragen_paper" else scores[i] for i in candidates]
    total = 0.0
    for m in mass:
        total += m
    threshold, sum_so_far, chosen = share * total - eps, 0.0, []
    for i, m in zip(candidates, mass, strict=True):
        if sum_so_far >= threshold or scores[i] <= 0:
            break
        sum_so_far += m
        chosen.append(i)
    return sorted(chosen) if sum_so_far >= threshold else []


@given(SCORES, SHARES, st.sampled_from(MODES), st.booleans(), st.booleans(), st.none() | st.sampled_from((0.0, 0.2)))
def test_top_p_is_its_loop(scores, share, mode, largest, include_zero, eps):
    found = kept(scores, "top_p", share, mode=mode, largest=largest, include_zero=include_zero, eps=eps)
    assert found == top_p(scores, share, mode, largest, include_zero, eps)


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=40), st.sampled_from(MODES))
def test_all_of_the_mass_can_be_reached(scores, mode):
    """Without slack: sums in another order may be larger by a rounding error, and nothing would be kept."""
    everything = list(range(len(scores)))
    assert kept(scores, "top_p", 1.0, mode=mode, eps=0.0) == everything
    narrow = torch.tensor(scores, dtype=torch.float32)
    assert select_groups(narrow, "top_p", 1.0, mode, eps=0.0).tolist() == everything


@given(SCORES, st.sampled_from((0.05, 0.5, 0.9, 0.999)), st.booleans())
def test_top_p_softmax_is_the_smallest_nucleus(scores, share, largest):
    weights = [math.exp(s if largest else -s) for s in scores]
    order = sorted(range(len(scores)), key=lambda i: -weights[i])
    sums = list(itertools.accumulate(weights[i] / sum(weights) for i in order))
    if all(abs(s - share) > 1e-9 for s in sums):
        size = next((n for n, s in enumerate(sums, 1) if s >= share), len(scores))
        found = kept(scores, "top_p_softmax", share, largest=largest)
        assert found == sorted(order[:size])


@given(SCORES, st.floats(0, 1), st.integers(0, 10), st.booleans(), st.booleans())
def test_top_k_keeps_the_first_of_the_order(scores, share, number, largest, include_zero):
    candidates = [i for i in range(len(scores)) if include_zero or abs(scores[i]) > 1e-10]
    order = sorted(candidates, key=lambda i: -scores[i] if largest else scores[i])
    options = dict(largest=largest, include_zero=include_zero)
    assert kept(scores, "top_k", share, **options) == sorted(order[: max(1, int(share * len(scores)))])
    assert kept(scores, "top_k_abs", number, **options) == sorted(order[: max(1, number)])


@example([2.0], 1.0)
@given(SCORES, st.sampled_from((0.1, 0.5, 1.0)))
def test_min_p_is_relative_to_the_best(scores, share):
    def agrees(found: list[int], excess: list[float]) -> bool:
        """Whether all that is well above its bound is kept, and nothing that is well below."""
        return all((i in found) == (e > 0) for i, e in enumerate(excess) if abs(e) > 1e-9)

    best, least = max(scores), min(scores)
    large, small = (kept(scores, "min_p", share, largest=largest) for largest in (True, False))
    assert scores.index(best) in large
    assert scores.index(least) in small
    assert agrees(large, [s - share * best for s in scores])
    assert agrees(small, [least / share - s for s in scores])


@given(SCORES)
def test_dapo_drops_what_is_all_the_same(scores):
    assert kept(scores, "dapo", 0.0) == [i for i, s in enumerate(scores) if s > 1e-10]


@given(SCORES, SHARES)
def test_vagen_keeps_at_least_one_and_all_without_any_variance(scores, share):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    total = sum(scores[i] for i in order)
    chosen: list[int] = []
    while order and sum((scores[i] for i in chosen), 0.0) < share * total:
        chosen.append(order[len(chosen)])
    expected = list(range(len(scores))) if total <= 0 else sorted(chosen or order[:1])
    assert kept(scores, "vagen", share) == expected


@given(SCORES, st.booleans())
def test_none_keeps_all(scores, include_zero):
    expected = [i for i, s in enumerate(scores) if include_zero or s > 1e-10]
    assert kept(scores, "none", 0.0, include_zero=include_zero) == expected


@by_every_strategy
@pytest.mark.parametrize("include_zero", [True, False])
def test_no_group_at_all(strategy, include_zero):
    assert kept([], strategy, 0.5, include_zero=include_zero) == []


@by_every_strategy
def test_no_group_with_any_variance(strategy):
    assert kept([0, 0, 0], strategy, 0.5, include_zero=False) == []
    found = kept([0, 0, 0], strategy, 0.5)
    assert (
        found
        == {
            "top_p": [],
            "dapo": [],
            "top_k": [0],
            "top_k_abs": [0],
            "top_p_softmax": [0, 1],
            "min_p": [0, 1, 2],
            "vagen": [0, 1, 2],
            "none": [0, 1, 2],
        }[strategy]
    )


@by_every_strategy
def test_groups_can_come_in_any_order(strategy):
    scores = [0.3, 2.0, 0.7, 0.0, 1.1]
    chosen = {scores[i] for i in kept(scores, strategy, 0.6)}
    for order in itertools.permutations(scores):
        assert {order[i] for i in kept(list(order), strategy, 0.6)} == chosen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(strategy="top_q"), "unknown filter strategy 'top_q': known are top_p, "),
        (dict(mode="ragen"), "unknown filter mode 'ragen': known are ragen_code, ragen_paper"),
        (dict(scores=torch.tensor([1.0, torch.nan])), "needs finite scores"),
        (dict(value=math.inf), "needs finite scores"),
    ],
)
def test_what_cannot_be_selected_by_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        select_groups(**{"scores": torch.ones(2), "strategy": "top_p", "value": 0.9, **options})


# ---------------------------------------------------------------------------------------------------------------- gate


def test_variance_from_penalties_alone_does_not_count():
    groups = [0, 0, 1, 1, 2, 2]
    outcomes = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    penalties = torch.tensor([0.0, -0.1, -0.1, 0.0, 0.0, 0.0])
    gate = outcome_gate(outcomes, penalties, groups)
    assert gate.phantom.tolist() == [True, False, False]
    expected = [0.0, statistics.stdev([0.9, 0.0]), 0.0]
    assert gate.scores.tolist() == pytest.approx(expected, abs=1e-6)
    variances = [statistics.variance([1, 0.9]), statistics.variance([0.9, 0]), 0.0]
    assert gate.variance_mean == pytest.approx(statistics.fmean(variances), abs=1e-6)
    assert gate.variance_std == pytest.approx(statistics.stdev(variances), abs=1e-6)
    assert gate.variance_ratio == pytest.approx(gate.variance_std / gate.variance_mean)
    assert select_groups(gate.scores, "dapo", 0).tolist() == [1]


@given(ROWS, st.data())
def test_the_gate_closes_phantom_groups_and_no_others(rows, data):
    groups, _, outcomes = zip(*rows, strict=True)
    fines = st.sampled_from((0.0, -0.1, -0.5))
    penalties = data.draw(st.lists(fines, min_size=len(rows), max_size=len(rows)))
    both = [torch.tensor(x, dtype=torch.float64) for x in (outcomes, penalties)]
    gate = outcome_gate(*both, groups)
    plain = group_scores(sum(both), groups)
    for position, group in enumerate(sorted(set(groups))):
        own = [i for i, name in enumerate(groups) if name == group]
        same = len({outcomes[i] for i in own}) == 1
        differs = len({round(outcomes[i] + penalties[i], 6) for i in own}) > 1
        assert gate.phantom[position].item() == (same and differs)
        assert gate.scores[position].item() == (0 if same and differs else plain[position].item())


def test_the_gate_of_nothing():
    gate = outcome_gate(torch.zeros(0), torch.zeros(0), [])
    assert (gate.variance_mean, gate.variance_std, gate.variance_ratio) == (0, 0, 0)


# -------------------------------------------------------------------------------------------------------- what follows


@pytest.mark.parametrize(("how", "expected"), [("none", 1.0), ("linear", 0.25), ("sqrt", 0.5)])
def test_loss_scale(how, expected):
    assert loss_scale(0.25, how) == expected
    assert loss_scale(1.0, how) == 1.0


def test_loss_scale_refuses_what_is_no_share():
    for ratio in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="kept_ratio is a share"):
            loss_scale(ratio, "sqrt")
    with pytest.raises(ValueError, match="unknown loss scaling 'log': known are none, linear, sqrt"):
        loss_scale(0.5, "log")


def test_training_stops_after_five_empty_steps_in_a_row():
    empty = 0
    for kept_groups in (0, 0, 0, 0, 3, *[0] * (MOST_EMPTY_STEPS - 1)):
        empty = count_empty(empty, kept_groups)
    assert empty == MOST_EMPTY_STEPS - 1 == 4
    with pytest.raises(NothingToLearnError, match="5 steps in a row"):
        count_empty(empty, 0)


@by_every_strategy
def test_only_strategies_that_take_a_value_need_one(strategy):
    scores = torch.tensor([2.0, 0.0, 1.0])
    if strategy in VALUELESS:
        assert select_groups(scores, strategy, None).tolist() == (select_groups(scores, strategy, 0.5).tolist())
    else:
        with pytest.raises(ValueError, match="needs finite scores and value"):
            select_groups(scores, strategy, None)

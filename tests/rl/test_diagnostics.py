"""Diagnostics against published numbers, sums over plain lists, and every case that could occur."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vagen.rl.diagnostics import (
    bootstrap_interval,
    clip_shares,
    fraction,
    gradient_shares,
    information,
    interval_score,
    log_prob_gap,
    mean_by,
    mutual_information,
    pass_at_k,
    permutation_null,
    random_guess_perplexity,
    state_perplexity,
    variance_buckets,
)
from vagen.rl.losses import ppo_clip

DEPTHS = (1, 2, 4, 8)


def exact(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -------------------------------------------------------------------------------------------------- mutual information

TWO = dict(log_probs=exact([-5, -10], [-10, -5]), lengths=torch.tensor([5, 5]), own_column=torch.tensor([0, 1]))


def test_two_reasonings_that_know_their_prompts():
    found = mutual_information(**TWO)
    assert found["mi_sequence"] == pytest.approx(0.686432, abs=5e-7)
    assert found["mi_token_code"] == pytest.approx(0.379886, abs=1e-6)
    assert found["mi_token_paper"] == pytest.approx(0.137286, abs=5e-7)
    assert found["retrieval@1"] == 1
    assert found["chance@1"] == 0.5


def test_the_keys_are_those_that_others_read():
    names = {"mi_sequence", "mi_token_code", "mi_token_paper", "h_z_given_x", "h_z", "z_score"}
    names |= {f"{kind}@{depth}" for kind in ("retrieval", "chance") for depth in DEPTHS}
    found = mutual_information(**TWO)
    assert set(found) == names
    assert {type(value) for value in found.values()} == {float}


def test_reasoning_that_ignores_its_prompt_carries_no_information():
    column = torch.randn(6, 1, generator=torch.Generator().manual_seed(0)) * 9 - 20
    found = mutual_information(column.expand(6, 3), torch.arange(1, 7), torch.tensor([0, 1, 2, 0, 1, 2]))
    for name in ("mi_sequence", "mi_token_code", "mi_token_paper", "z_score"):
        assert found[name] == pytest.approx(0, abs=1e-9)
    for depth in DEPTHS:
        assert found[f"retrieval@{depth}"] == pytest.approx(found[f"chance@{depth}"])


@st.composite
def crosses(draw):
    """(N, M) log-probabilities with ties among them, lengths, own columns, and canonical duplicates."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    number = st.sampled_from((-1.0, -2.0, -7.5)) | st.floats(-30, 0)
    log_probs = draw(st.lists(st.lists(number, min_size=m, max_size=m), min_size=n, max_size=n))
    lengths = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    own = draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n))
    prompts = draw(st.lists(st.integers(0, 2), min_size=m, max_size=m))
    duplicates = [prompts.index(prompt) for prompt in prompts]
    return log_probs, lengths, own, duplicates


@given(crosses())
def test_mutual_information_is_its_definition(cross):
    log_probs, lengths, own, _ = cross
    found = mutual_information(exact(*log_probs), torch.tensor(lengths), torch.tensor(own))

    def marginal(row):
        return math.log(statistics.fmean(math.exp(x) for x in row))

    matched = [row[j] for row, j in zip(log_probs, own, strict=True)]
    marginals = [marginal(row) for row in log_probs]
    pointwise = [a - b for a, b in zip(matched, marginals, strict=True)]
    per_token = [[x / n for x in row] for row, n in zip(log_probs, lengths, strict=True)]
    expected = {
        "mi_sequence": statistics.fmean(pointwise),
        "mi_token_code": statistics.fmean(row[j] - marginal(row) for row, j in zip(per_token, own, strict=True)),
        "mi_token_paper": statistics.fmean(p / n for p, n in zip(pointwise, lengths, strict=True)),
        "h_z_given_x": -statistics.fmean(matched),
        "h_z": -statistics.fmean(marginals),
        "z_score": statistics.fmean(pointwise) / (statistics.pstdev(marginals) + 1e-3),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-7, abs=1e-9), name
    assert found["mi_sequence"] <= math.log(len(log_probs[0])) + 1e-9
    assert found["h_z"] - found["h_z_given_x"] == pytest.approx(found["mi_sequence"], abs=1e-9)


def ranked_right(row, right, depth) -> float:
    """How often a right column is among the best, over every order in which ties can be broken."""
    orders = list(itertools.permutations(range(len(row))))
    best = [sorted(order, key=lambda j: -row[j])[:depth] for order in orders]  # the sort keeps the order of ties
    return statistics.fmean(any(j in right for j in chosen) for chosen in best)


@settings(max_examples=60)
@given(crosses(), st.booleans())
def test_retrieval_is_the_mean_over_all_ways_to_break_ties(cross, with_duplicates):
    log_probs, lengths, own, duplicates = cross
    given_duplicates = torch.tensor(duplicates) if with_duplicates else None
    found = mutual_information(exact(*log_probs), torch.tensor(lengths), torch.tensor(own), given_duplicates)
    right = [[k for k, d in enumerate(duplicates) if d == duplicates[j]] if with_duplicates else [j] for j in own]
    for depth in DEPTHS:
        hits = [ranked_right(row, same, depth) for row, same in zip(log_probs, right, strict=True)]
        assert found[f"retrieval@{depth}"] == pytest.approx(statistics.fmean(hits), abs=1e-9)
        by_chance = [ranked_right([0.0] * len(row), same, depth) for row, same in zip(log_probs, right, strict=True)]
        assert found[f"chance@{depth}"] == pytest.approx(statistics.fmean(by_chance), abs=1e-9)


@pytest.mark.parametrize("duplicate_of", [[0, 1, 0, 0], [-1, -1, 0, 0], [-1, 1, 3, 0], [2, 1, 3, 0], [3, -1, 3, 2]])
def test_duplicates_can_be_named_in_several_ways(duplicate_of):
    """By their first column, with negative numbers for none, through one another, and in circles."""
    log_probs = exact([-5, -9, -4, -6], [-8, -3, -8, -8])
    found = mutual_information(log_probs, torch.tensor([3, 3]), torch.tensor([0, 1]), torch.tensor(duplicate_of))
    assert found["retrieval@1"] == 1
    assert found["chance@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    alone = mutual_information(log_probs, torch.tensor([3, 3]), torch.tensor([0, 1]))
    assert alone["retrieval@1"] == 0.5
    assert alone["mi_sequence"] == found["mi_sequence"]


@given(crosses(), st.randoms(use_true_random=False))
def test_neither_the_order_of_reasonings_nor_of_prompts_matters(cross, random):
    log_probs, lengths, own, duplicates = cross
    rows, columns = list(range(len(log_probs))), list(range(len(log_probs[0])))
    random.shuffle(rows)
    random.shuffle(columns)
    place = {column: new for new, column in enumerate(columns)}
    moved = mutual_information(
        exact(*[[log_probs[i][j] for j in columns] for i in rows]),
        torch.tensor([lengths[i] for i in rows]),
        torch.tensor([place[own[i]] for i in rows]),
        torch.tensor([place[duplicates[j]] for j in columns]),
    )
    before = mutual_information(exact(*log_probs), torch.tensor(lengths), torch.tensor(own), torch.tensor(duplicates))
    assert moved == pytest.approx(before, rel=1e-6, abs=1e-6)


def test_mutual_information_of_impossible_texts_is_finite():
    log_probs = torch.tensor([[-1e4, -3e4], [-1e4, -1e4]])
    found = mutual_information(log_probs, torch.tensor([0, 7]), torch.tensor([0, 1]))
    assert all(map(math.isfinite, found.values()))
    assert found["mi_sequence"] == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize(
    ("shape", "lengths", "own"), [((0, 2), [], []), ((2, 0), [1, 1], [0, 0]), ((2, 2), [1], [0, 1]), ((2,), [1], [0])]
)
def test_what_is_no_cross_of_reasonings_and_prompts_is_refused(shape, lengths, own):
    with pytest.raises(ValueError, match=r"needs \(N, M\) log-probabilities with N, M > 0"):
        mutual_information(torch.zeros(shape), torch.tensor(lengths), torch.tensor(own))


# -------------------------------------------------------------------------------------- how sure is mutual information


def test_the_interval_draws_whole_clusters():
    """Four copies of a reasoning are no evidence: the interval is that of one reasoning for each prompt."""
    values = exact(0.1, 0.9, 0.4, 0.5, 0.7)
    once = bootstrap_interval(values, torch.arange(5), seed=3)
    copied = bootstrap_interval(values.repeat(4), torch.arange(5).repeat(4), seed=3)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    careless = bootstrap_interval(values.repeat(4), torch.arange(20), seed=3)
    assert careless.high - careless.low < 0.7 * (once.high - once.low)
    assert once.value == pytest.approx(0.52)
    assert once.low < once.value < once.high
    assert bootstrap_interval(values, torch.arange(5), seed=3) == once
    assert bootstrap_interval(values, torch.arange(5), seed=4) != once


def test_clusters_count_by_their_size():
    """Of one 0 and three 1 in two clusters, a draw has a mean of 0, 3/4 or 1."""
    found = bootstrap_interval(exact(0, 1, 1, 1), torch.tensor([4, 2, 2, 2]), seed=0)
    assert (found.low, found.value, found.high) == (0, 0.75, 1)


def test_the_interval_has_the_level_it_claims():
    """Of means of 40 normal numbers, 95 % intervals should cover 0 in about 95 % of the draws (373 to 387 of 400)."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 40, generator=generator, dtype=torch.float64)
    intervals = [bootstrap_interval(draw, torch.arange(40), seed) for seed, draw in enumerate(draws)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 0.91 * 400 <= covered <= 0.98 * 400


def test_the_interval_of_what_never_varies_is_a_point():
    found = bootstrap_interval(torch.full((6,), 0.5), torch.tensor([0, 0, 1, 1, 2, 2]), seed=0)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("normalization", ["sequence", "token_code", "token_paper"])
def test_the_null_is_the_mean_over_all_permutations(normalization):
    generator = torch.Generator().manual_seed(5)
    log_probs = -3 * torch.rand(4, 3, generator=generator, dtype=torch.float64)
    lengths, own = torch.tensor([2, 5, 1, 3]), torch.tensor([0, 1, 2, 0])
    found = permutation_null(log_probs, lengths, own, seed=0, permutations=20_000, normalization=normalization)
    every = [
        getattr(information(log_probs, lengths, own[list(order)]), normalization).mean().item()
        for order in itertools.permutations(range(4))
    ]
    spread = statistics.pstdev(every)
    assert found.mean == pytest.approx(statistics.fmean(every), abs=4 * spread / math.sqrt(20_000))
    assert found.std == pytest.approx(spread, rel=0.05)
    assert found.value == pytest.approx(every[0])
    assert found.p_value == pytest.approx(statistics.fmean(e >= every[0] - 1e-12 for e in every), abs=0.02)


def test_the_null_tells_knowing_from_guessing():
    identity = torch.full((12, 12), -9.0) + 6 * torch.eye(12)
    lengths, own = torch.full((12,), 4), torch.arange(12)
    assert permutation_null(identity, lengths, own, seed=0).p_value == pytest.approx(1 / 1001)
    assert permutation_null(torch.full((12, 12), -9.0), lengths, own, seed=0).p_value == 1


# ---------------------------------------------------------------------------------------------------------- perplexity


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=9))
def test_state_perplexity_is_the_geometric_mean_of_the_odds(log_probs):
    expected = math.prod(math.exp(-x) for x in log_probs) ** (1 / len(log_probs))
    assert state_perplexity(exact(*log_probs)) == pytest.approx(expected)


def test_state_perplexity_by_token_and_by_cell():
    log_probs, mask = exact([0.5, 0.25, 1.0], [0.125, 1.0, 1e-9]).log(), exact([1, 1, 1], [1, 0, 0])
    assert state_perplexity(log_probs, mask) == pytest.approx(64**0.25)
    assert state_perplexity(log_probs, mask, units=2) == pytest.approx(8)
    assert state_perplexity(log_probs, mask, units=torch.tensor(3)) == pytest.approx(4)


def test_a_random_guess_has_the_perplexity_of_its_choices():
    assert random_guess_perplexity([4, 4, 4]) == pytest.approx(4)
    assert random_guess_perplexity([2, 8]) == pytest.approx(4)
    even = -torch.log(torch.tensor([2.0, 8.0, 8.0]))
    assert state_perplexity(even) == pytest.approx(random_guess_perplexity([2, 8, 8]))


def test_perplexities_at_their_limits():
    assert state_perplexity(exact(0.0, 0.0)) == 1
    assert state_perplexity(exact(-1e4)) == math.inf
    for empty in (dict(token_log_probs=exact()), dict(token_log_probs=exact(-1), mask=exact(0)), dict(units=0)):
        with pytest.raises(ValueError, match="at least one token or cell"):
            state_perplexity(**{"token_log_probs": exact(-1), **empty})
    for choices in ([], [4, 0]):
        with pytest.raises(ValueError, match="at least one choice"):
            random_guess_perplexity(choices)


# -------------------------------------------------------------------------------------------------------- the training


@given(st.lists(st.tuples(st.floats(-6, 0), st.floats(-6, 0), st.booleans()), min_size=1, max_size=8))
def test_log_prob_gap_is_its_definition(tokens):
    mine, theirs, mask = (torch.tensor(x, dtype=torch.float64) for x in zip(*tokens, strict=True))
    found = log_prob_gap(mine, theirs, mask)
    kept = [(a, b) for a, b, on in tokens if on]
    gaps = [a - b for a, b in kept] or [0.0]
    shifts = [abs(math.exp(a) - math.exp(b)) for a, b in kept] or [0.0]
    assert found.mean == pytest.approx(statistics.fmean(gaps), abs=1e-12)
    assert found.std == pytest.approx(statistics.pstdev(gaps), abs=1e-12)
    assert found.mean_abs == pytest.approx(statistics.fmean(map(abs, gaps)))
    assert found.max_abs == pytest.approx(max(map(abs, gaps)))
    assert found.kl == pytest.approx(statistics.fmean(math.exp(g) - 1 - g for g in gaps), abs=1e-12)
    assert found.probability_mean_abs == pytest.approx(statistics.fmean(shifts))
    assert found.probability_max_abs == pytest.approx(max(shifts))


def test_the_gap_of_impossible_tokens_is_finite():
    found = log_prob_gap(exact(0.0, -1e4), exact(-1e4, 0.0), torch.ones(2))
    assert math.isfinite(found.kl)
    assert (found.max_abs, found.probability_max_abs) == (1e4, 1)


def test_equal_log_probabilities_have_no_gap_at_all():
    log_probs = torch.tensor([[-0.3, -7.7], [-1e4, torch.nan]])
    found = log_prob_gap(log_probs, log_probs.clone(), torch.tensor([[1, 1], [1, 0]]))
    assert (found.max_abs, found.kl, found.std) == (0, 0, 0)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.sampled_from((-1.0, 0.0, 1.0)), st.booleans()), min_size=1, max_size=8),
    st.none() | st.just(3.0),
)
def test_clip_shares_count_the_tokens_without_gradient(tokens, dual):
    log_ratios, advantages, mask = (torch.tensor(x, dtype=torch.float64) for x in zip(*tokens, strict=True))
    log_probs = log_ratios.clone().requires_grad_()
    ppo_clip(log_probs, torch.zeros_like(log_ratios), advantages, 0.2, 0.28, dual).sum().backward()
    found = clip_shares(log_ratios, torch.zeros_like(log_ratios), advantages, mask, 0.2, 0.28, dual)
    idle = (log_probs.grad == 0) & (advantages != 0) & mask.bool()
    expected = idle.sum().item() / max(1, int(mask.sum()))
    assert found.high + found.low + found.dual == pytest.approx(expected)
    assert found.high == pytest.approx((idle & (advantages > 0)).sum().item() / max(1, int(mask.sum())))
    assert found.dual == 0 or dual


def test_fractions_and_means():
    assert fraction([True, False, False, True]) == 0.5
    assert fraction(torch.tensor([1, 0, 0])) == pytest.approx(1 / 3)
    assert fraction([]) == 0
    assert mean_by([1.0, 0.0, 1.0], ["sokoban", "lake", "sokoban"]) == {"lake": 0.0, "sokoban": 1.0}
    assert mean_by([], []) == {}
    assert gradient_shares({"task": 3.0, "entropy": 0.0, "kl": 1.0}) == {"task": 0.75, "entropy": 0.0, "kl": 0.25}
    assert gradient_shares({"task": 0.0}) == {"task": 0.0}


@given(st.lists(st.floats(0, 5), max_size=20), st.integers(1, 7))
def test_variance_buckets_are_equally_large_and_ordered(scores, buckets):
    found = variance_buckets(exact(*scores), buckets).tolist()
    sizes = [found.count(bucket) for bucket in range(buckets)]
    assert sum(sizes) == len(scores)
    assert max(sizes) - min(sizes) <= 1
    for (one, low), (other, high) in itertools.combinations(zip(scores, found, strict=True), 2):
        if one < other:
            assert low <= high


# ----------------------------------------------------------------------------------------------------------- abilities


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_success(case):
    n, c, k = case
    outcomes = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(outcomes, k))
    assert pass_at_k([n], [c], k).item() == pytest.approx(statistics.fmean(map(any, draws)), abs=1e-12)
    assert pass_at_k([n], [c], k).item() == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_k_of_many_problems_and_many_trials():
    found = pass_at_k(torch.tensor([10_000, 10_000, 500]), torch.tensor([1, 0, 500]), 100)
    assert found.tolist() == pytest.approx([0.01, 0, 1])


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="pass@k needs 1 <= k <= trials"):
        pass_at_k([n], [c], k)


@pytest.mark.parametrize(
    ("low", "high", "actual", "score"),
    [
        (800, 1200, 1000, 1.08),
        (900, 1100, 1000, 1.44),
        (0, 5000, 1000, 0),
        (1000, 1000, 1000, 1.8),
        (1001, 1200, 1000, 0),
        (800, 999, 1000, 0),
        (1200, 800, 1000, 0),
        (0, 0, 0, 1.8),
        (0, 1, 0, 0),
        (-5, 5, -1, 0),
        (math.inf, math.inf, math.inf, 1.8),
        (math.inf, math.inf, 1000, 0),
        (10, math.inf, math.inf, 0),
        (10, math.inf, 1000, 0),
        (800, 1200, math.inf, 0),
    ],
)
def test_interval_score(low, high, actual, score):
    assert interval_score(low, high, actual) == pytest.approx(score)


def test_no_order_among_what_is_no_number():
    """A reasoning whose own prompt has no probability has not found it."""
    joint = torch.tensor([[math.nan, -1.0], [-2.0, -3.0]])
    found = mutual_information(joint, torch.tensor([3, 3]), torch.tensor([0, 1]))
    assert math.isnan(found["retrieval@1"])
    assert math.isnan(found["mi_sequence"])


@pytest.mark.parametrize(
    ("own", "duplicates", "message"),
    [([0, 2], None, "from 0 to 1"), ([0, -1], None, "from 0 to 1"), ([0, 1], [0], "each of 2 prompts, got 1")],
)
def test_columns_that_are_not_there_are_refused(own, duplicates, message):
    other = None if duplicates is None else torch.tensor(duplicates)
    with pytest.raises(ValueError, match=message):
        mutual_information(torch.zeros(2, 2), torch.tensor([3, 3]), torch.tensor(own), other)

"""Advantages against their definitions written out as sums over plain lists, on ragged batches."""

import itertools
import statistics
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vagen.rl.advantages import (
    ESTIMATORS,
    Discounts,
    Rollouts,
    at_turn_ends,
    batch_baseline,
    bi_level_gae,
    bootstrap_values,
    dr_grpo,
    episode_scores,
    estimate,
    gae,
    grpo,
    no_concat_gae,
    reinforce_plus_plus,
    turn_gae,
    whiten,
)

JUNK = 1e6  # rewards and values where there is no response token
SHARE = st.sampled_from((0.0, 0.3, 0.95, 1.0))


@dataclass(frozen=True)
class Case:
    """A ragged batch in float64: ``rows[b]`` lists the turns of row b, each a list of positions."""

    rewards: torch.Tensor
    values: torch.Tensor
    turn_ids: torch.Tensor
    bootstrap: torch.Tensor
    rows: list[list[list[int]]]

    @property
    def mask(self) -> torch.Tensor:
        return (self.turn_ids >= 0).float()

    def same(self, found, expected) -> None:
        """That a (B, T) tensor is ``expected(b, t)`` on response tokens and 0 elsewhere."""
        wanted = torch.zeros_like(self.values)
        for b, turns in enumerate(self.rows):
            for t in itertools.chain(*turns):
                wanted[b, t] = expected(b, t)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@st.composite
def cases(draw, min_rows: int = 1) -> Case:
    """Rows of turns of 1 to 4 tokens with observations of 0 to 2 tokens around, ids that start anywhere and skip."""
    row = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(1, 3)), max_size=4)
    shapes = draw(st.lists(row, min_size=min_rows, max_size=4))
    padding = draw(st.integers(0, 2))
    length = max((sum(o + n for o, n, _ in shape) for shape in shapes), default=0) + padding
    turn_ids = torch.full((len(shapes), length), -1)
    rows: list[list[list[int]]] = []
    for b, shape in enumerate(shapes):
        position, name, turns = 0, draw(st.integers(-1, 5)), []
        for observed, tokens, step in shape:
            name += step
            turns.append(list(range(position + observed, position + observed + tokens)))
            turn_ids[b, turns[-1]] = name
            position += observed + tokens
        rows.append(turns)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rewards, values = torch.randn(2, *turn_ids.shape, generator=generator, dtype=torch.float64)
    rewards[torch.rand(rewards.shape, generator=generator) < 0.3] = 0.0  # rewards of zero mean nothing
    rewards[turn_ids < 0], values[turn_ids < 0] = JUNK, JUNK
    bootstrap = torch.randn(len(shapes), generator=generator, dtype=torch.float64)
    bootstrap[torch.rand(len(shapes), generator=generator) < 0.5] = 0.0
    return Case(rewards, values, turn_ids, bootstrap, rows)


def discounted(errors: list[float], factor: float) -> float:
    """``Σ factor^l errors_l``, the sum that every kind of GAE is."""
    return sum(factor**steps * error for steps, error in enumerate(errors))


def chain(rewards: list[float], values: list[float], after: float, gamma: float, lam: float) -> list[float]:
    """GAE of one episode by its definition, equation 16 of Schulman et al. 2016."""
    following = [*values, after][1:]
    errors = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [discounted(errors[t:], gamma * lam) for t in range(len(errors))]


def turn_chain(case: Case, b: int, gamma: float, lam: float, read: int) -> list[float]:
    """The advantage of each turn of a row; ``read`` is the token whose value counts, 0 or -1."""
    rewards = [sum(case.rewards[b, t].item() for t in turn) for turn in case.rows[b]]
    values = [case.values[b, turn[read]].item() for turn in case.rows[b]]
    return chain(rewards, values, case.bootstrap[b].item(), gamma, lam)


# ----------------------------------------------------------------------------------------------------------------- gae


def test_gae_skips_observations():
    rewards, values = torch.tensor([[0.0, 0, 0, 0, 1]]), torch.tensor([[0.1, 0.2, 9, 0.3, 0.4]])
    advantages, returns = gae(rewards, values, torch.tensor([[1, 1, 0, 1, 1]]), 1.0, 1.0)
    torch.testing.assert_close(advantages, torch.tensor([[0.9, 0.8, 0, 0.7, 0.6]]))
    torch.testing.assert_close(returns, torch.tensor([[1.0, 1, 0, 1, 1]]))


@given(cases(), SHARE, SHARE)
def test_gae_is_its_definition(case, gamma, lam):
    advantages, returns = gae(case.rewards, case.values, case.mask, gamma, lam, case.bootstrap)
    expected = {}
    for b, turns in enumerate(case.rows):
        tokens = list(itertools.chain(*turns))
        rewards, values = ([x[b, t].item() for t in tokens] for x in (case.rewards, case.values))
        found = chain(rewards, values, case.bootstrap[b].item(), gamma, lam)
        expected.update({(b, t): a for t, a in zip(tokens, found, strict=True)})
    case.same(advantages, lambda b, t: expected[b, t])
    case.same(returns, lambda b, t: expected[b, t] + case.values[b, t].item())


@given(cases(), SHARE)
def test_with_lambda_1_returns_are_discounted_rewards_to_go(case, gamma):
    _, returns = gae(case.rewards, case.values, case.mask, gamma, 1.0, case.bootstrap)

    def to_go(b, t):
        rest = [s for s in itertools.chain(*case.rows[b]) if s >= t]
        return discounted([*(case.rewards[b, s].item() for s in rest), case.bootstrap[b].item()], gamma)

    case.same(returns, to_go)


@pytest.mark.parametrize("read_ahead", [True, False])
def test_a_cut_row_goes_on_where_it_was_cut(read_ahead):
    """With λ = 0 a prefix needs the next value only, with λ = 1 the return of what was cut off."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 9, generator=generator, dtype=torch.float64)
    mask, lam = torch.ones(3, 9), 0.0 if read_ahead else 1.0
    whole, returns = gae(rewards, values, mask, 0.9, lam)
    after = values[:, 5] if read_ahead else returns[:, 5]
    cut, _ = gae(rewards[:, :5], values[:, :5], mask[:, :5], 0.9, lam, after)
    torch.testing.assert_close(cut, whole[:, :5])
    assert not torch.allclose(gae(rewards[:, :5], values[:, :5], mask[:, :5], 0.9, lam)[0], whole[:, :5])


# ------------------------------------------------------------------------------------------------------------ bi-level


TWO_TURNS = dict(
    rewards=torch.tensor([[0, 0, 0.5, 0, 0, 1]]),
    values=torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]),
    turn_ids=torch.tensor([[0, 0, 0, 1, 1, 1]]),
)


def test_bi_level_gae_of_two_turns():
    advantages, returns = bi_level_gae(**TWO_TURNS, gamma=1.0, lam=1.0, gamma_turn=0.95, lam_turn=1.0)
    expected = torch.tensor([[1.35, 1.25, 1.15, 0.6, 0.5, 0.4]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected + TWO_TURNS["values"])


@settings(max_examples=200)
@given(cases(), SHARE, SHARE, SHARE, SHARE)
def test_bi_level_gae_is_its_definition(case, gamma, lam, gamma_turn, lam_turn):
    """Rewards fall anywhere in a turn: they are part of the turn's sum, and stay where they are inside it."""
    advantages, returns = bi_level_gae(
        case.rewards, case.values, case.turn_ids, gamma, lam, gamma_turn, lam_turn, case.bootstrap
    )
    expected = {}
    for b, turns in enumerate(case.rows):
        for turn, whole in zip(turns, turn_chain(case, b, gamma_turn, lam_turn, -1), strict=True):
            rewards, values = ([x[b, t].item() for t in turn] for x in (case.rewards, case.values))
            rewards[-1] = whole + values[-1]
            found = chain(rewards, values, 0.0, gamma, lam)
            expected.update({(b, t): a for t, a in zip(turn, found, strict=True)})
    case.same(advantages, lambda b, t: expected[b, t])
    case.same(returns, lambda b, t: expected[b, t] + case.values[b, t].item())


@given(cases())
def test_bi_level_gae_without_discounts_is_gae_if_rewards_fall_on_turn_ends(case):
    rewards = at_turn_ends(case.rewards, case.turn_ids)
    bi_level = bi_level_gae(rewards, case.values, case.turn_ids, 1.0, 1.0, 1.0, 1.0, case.bootstrap)
    plain = gae(rewards, case.values, case.mask, 1.0, 1.0, case.bootstrap)
    torch.testing.assert_close(bi_level, plain, rtol=1e-9, atol=1e-9)


@given(cases(), SHARE, SHARE)
def test_only_the_order_of_turn_ids_matters(case, gamma_turn, lam):
    renamed = torch.where(case.turn_ids < 0, -1, 2 * case.turn_ids + 11)
    settings = (0.9, lam, gamma_turn, lam)
    first = bi_level_gae(case.rewards, case.values, case.turn_ids, *settings)
    torch.testing.assert_close(bi_level_gae(case.rewards, case.values, renamed, *settings), first)


def test_a_turn_without_reward_is_a_turn():
    """The released code finds turns by rewards that are not zero, and so skips the second turn's value here."""
    values = torch.tensor([[0.1, 0.5, 0.2, 0.9, 0.3, 0.4]])
    turn_ids = torch.tensor([[0, 0, 1, 1, 2, 2]])
    advantages, _ = bi_level_gae(torch.tensor([[0, 1.0, 0, 0, 0, 1]]), values, turn_ids, 1, 1, 0.5, 0.0)
    assert advantages[0, 1].item() == pytest.approx(1 + 0.5 * 0.9 - 0.5)
    assert advantages[0, 3].item() == pytest.approx(0.5 * 0.4 - 0.9)


def test_lam_turn_is_lam_unless_given():
    implied = bi_level_gae(**TWO_TURNS, gamma=1.0, lam=0.4, gamma_turn=0.95)
    torch.testing.assert_close(implied, bi_level_gae(**TWO_TURNS, gamma=1.0, lam=0.4, gamma_turn=0.95, lam_turn=0.4))
    other = bi_level_gae(**TWO_TURNS, gamma=1.0, lam=0.4, gamma_turn=0.95, lam_turn=0.8)
    assert not torch.allclose(implied[0], other[0])


def test_at_turn_ends_moves_rewards_and_loses_none():
    rewards = torch.tensor([[5.0, 0.1, 0.2, 5, 0.3, 0.4]])
    moved = at_turn_ends(rewards, torch.tensor([[-1, 4, 4, -1, 9, 9]]))
    torch.testing.assert_close(moved, torch.tensor([[0, 0, 0.3, 0, 0, 0.7]]))


# -------------------------------------------------------------------------------------------------- turns as the steps


@given(cases(), SHARE, SHARE, st.sampled_from((("last", -1), ("first", 0))))
def test_turn_gae_is_the_chain_between_turns(case, gamma, lam, value_from):
    name, read = value_from
    advantages, returns = turn_gae(case.rewards, case.values, case.turn_ids, gamma, lam, case.bootstrap, name)
    chains = [turn_chain(case, b, gamma, lam, read) for b in range(len(case.rows))]

    def turn_of(b, t):
        return next(k for k, turn in enumerate(case.rows[b]) if t in turn)

    case.same(advantages, lambda b, t: chains[b][turn_of(b, t)])
    case.same(
        returns,
        lambda b, t: chains[b][turn_of(b, t)] + case.values[b, case.rows[b][turn_of(b, t)][read]].item(),
    )


@st.composite
def shuffled_turns(draw):
    """Rows (episode, turn, reward, value, bootstrap) in any order; turn numbers skip."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    number = st.floats(-2, 2)
    rows = [
        (10 - episode, 3 * turn - 1, draw(number), draw(number), draw(number))
        for episode, length in enumerate(lengths)
        for turn in range(length)
    ]
    return draw(st.permutations(rows))


def columns(rows):
    episodes, turns, *floats = zip(*rows, strict=True)
    return torch.tensor(episodes), torch.tensor(turns), *(torch.tensor(x, dtype=torch.float64) for x in floats)


@given(shuffled_turns(), SHARE, SHARE)
def test_no_concat_gae_is_the_chain_of_each_episode(rows, gamma, lam):
    episodes, turns, rewards, values, bootstrap = columns(rows)
    advantages, returns = no_concat_gae(rewards, values, episodes, turns, gamma, lam, bootstrap)
    for episode in {row[0] for row in rows}:
        own = sorted((row for row in rows if row[0] == episode), key=lambda row: row[1])
        expected = chain([row[2] for row in own], [row[3] for row in own], own[-1][4], gamma, lam)
        for row, advantage in zip(own, expected, strict=True):
            assert advantages[rows.index(row)].item() == pytest.approx(advantage, abs=1e-9)
            assert returns[rows.index(row)].item() == pytest.approx(advantage + row[3], abs=1e-9)


def test_repeated_turns_pad_a_batch_and_change_nothing():
    rewards, values = torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.tensor([0.1, 0.2, 0.1, 0.1])
    padded = no_concat_gae(rewards, values, [7, 7, 7, 7], [0, 1, 0, 0], 0.9, 0.8)
    plain = no_concat_gae(rewards[:2], values[:2], [7, 7], [0, 1], 0.9, 0.8)
    for one, other in zip(padded, plain, strict=True):
        torch.testing.assert_close(one, other[[0, 1, 0, 0]])


# ---------------------------------------------------------------------------------------------------- without a critic


def test_grpo_of_three():
    found = grpo(torch.tensor([1.0, 0, 1], dtype=torch.float64), torch.tensor([0, 0, 0]))
    assert found.tolist() == pytest.approx([0.577349, -1.154699, 0.577349], abs=5e-7)


GROUPED = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from((0.0, 0.1, 1.0, -0.7))), min_size=1, max_size=14
)


def group_votes(rows) -> dict[int, list[float]]:
    """One score for each (group, episode): that of its first row."""
    first = {}
    for group, episode, score in rows:
        first.setdefault((group, episode), score)
    return {group: [s for (g, _), s in first.items() if g == group] for group, _, _ in rows}


@given(GROUPED)
def test_grpo_is_its_definition(rows):
    groups, episodes, scores = zip(*rows, strict=True)
    votes = group_votes(rows)
    tensor = torch.tensor(scores, dtype=torch.float64)
    with_std, without = (grpo(tensor, groups, episodes, normalize_std=on) for on in (True, False))
    torch.testing.assert_close(dr_grpo(tensor, groups, episodes), without)
    for i, (group, _, score) in enumerate(rows):
        own = votes[group]
        mean, std = (statistics.fmean(own), statistics.stdev(own)) if len(own) > 1 else (0.0, 1.0)
        assert without[i].item() == pytest.approx(score - mean, abs=1e-12)
        if std > 1e-12:
            assert with_std[i].item() == pytest.approx((score - mean) / (std + 1e-6), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("score", [0.1, 1e-3, -123.456, 1e6])
def test_equal_scores_earn_exactly_nothing(score, size, dtype):
    """Their mean is rounded, and rounding divided by 1e-6 would be an advantage."""
    scores = torch.full((size,), score, dtype=dtype)
    assert (grpo(scores, [0] * size) == 0).all()
    assert (batch_baseline(scores) == 0).all()
    assert (whiten(scores, torch.ones(size)) == 0).all()


def test_rows_without_a_vote_do_not_blur_those_with_one():
    """The last row repeats an episode, and says something else about it."""
    found = grpo(torch.tensor([0.1] * 7 + [-7.3]), [0] * 8, [*range(7), 6])
    assert found[:7].tolist() == [0] * 7


def test_a_group_of_one_keeps_its_score():
    found = grpo(torch.tensor([3.0, 1.0, 1.0, 2.0]), [4, 5, 5, 6], [0, 1, 1, 2])
    torch.testing.assert_close(found, torch.tensor([3.0, 1.0, 1.0, 2.0]) / (1 + 1e-6))


@given(GROUPED)
def test_batch_baseline_is_the_mean_of_the_episodes(rows):
    _, episodes, scores = zip(*rows, strict=True)
    first = dict(reversed(list(zip(episodes, scores, strict=True))))
    found = batch_baseline(torch.tensor(scores, dtype=torch.float64), episodes)
    mean = statistics.fmean(first.values())
    assert found.tolist() == pytest.approx([score - mean for score in scores], abs=1e-12)


@given(cases(), SHARE)
def test_reinforce_plus_plus_is_the_reward_to_go_less_its_mean(case, gamma):
    advantages, returns = reinforce_plus_plus(case.rewards, case.mask, gamma, case.bootstrap)
    to_go = {}
    for b, turns in enumerate(case.rows):
        tokens = list(itertools.chain(*turns))
        for t in tokens:
            rest = [case.rewards[b, s].item() for s in tokens if s >= t]
            to_go[b, t] = discounted([*rest, case.bootstrap[b].item()], gamma)
    mean = statistics.fmean(to_go.values()) if to_go else 0.0
    case.same(returns, lambda b, t: to_go[b, t])
    case.same(advantages, lambda b, t: to_go[b, t] - mean)
    torch.testing.assert_close(whiten(advantages, case.mask), whiten(returns, case.mask), rtol=1e-6, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- whitening


@given(cases())
def test_whiten_has_mean_0_and_variance_1_over_the_mask(case):
    found = whiten(case.rewards, case.mask)
    kept = [case.rewards[b, t].item() for b, turns in enumerate(case.rows) for t in itertools.chain(*turns)]
    mean = statistics.fmean(kept) if kept else 0.0
    scale = (statistics.variance(kept) + 1e-8) ** -0.5 if len(kept) > 1 else 0.0
    case.same(found, lambda b, t: (case.rewards[b, t].item() - mean) * scale)


# ---------------------------------------------------------------------------------------------------------- truncation


@given(cases(), st.data())
def test_bootstrap_values_are_those_of_what_follows(case, data):
    size = len(case.rows)
    truncated = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    known = torch.tensor(data.draw(st.lists(st.sampled_from((torch.nan, 2.5)), min_size=size, max_size=size)))
    found = bootstrap_values(case.values, case.mask, truncated, known)
    plain = bootstrap_values(case.values, case.mask, truncated)
    for b, turns in enumerate(case.rows):
        last = case.values[b, turns[-1][-1]].item() if turns else 0.0
        assert plain[b].item() == (last if truncated[b] else 0.0)
        expected = 2.5 if not known[b].isnan() and turns else last
        assert found[b].item() == (expected if truncated[b] else 0.0)


# ------------------------------------------------------------------------------------------------ all token estimators

TOKEN_ESTIMATORS = {
    "gae": lambda c: gae(c.rewards, c.values, c.mask, 0.9, 0.8, c.bootstrap),
    "bi_level_gae": lambda c: bi_level_gae(c.rewards, c.values, c.turn_ids, 0.9, 0.8, 0.95, 0.7, c.bootstrap),
    "turn_gae": lambda c: turn_gae(c.rewards, c.values, c.turn_ids, 0.9, 0.8, c.bootstrap),
    "reinforce_plus_plus": lambda c: reinforce_plus_plus(c.rewards, c.mask, 0.9, c.bootstrap),
}
by_all_token_estimators = pytest.mark.parametrize("name", TOKEN_ESTIMATORS)


def reordered(case: Case, order) -> Case:
    tensors = {k: getattr(case, k)[order] for k in ("rewards", "values", "turn_ids", "bootstrap")}
    return replace(case, **tensors, rows=[case.rows[b] for b in order])


@by_all_token_estimators
def test_rows_can_come_in_any_order(name):
    @given(cases(), st.randoms(use_true_random=False))
    def check(case, random):
        order = list(range(len(case.rows)))
        random.shuffle(order)
        before, after = TOKEN_ESTIMATORS[name](case), TOKEN_ESTIMATORS[name](reordered(case, order))
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(other, one[order], rtol=1e-9, atol=1e-9)

    check()


@by_all_token_estimators
def test_what_is_no_response_does_not_matter(name):
    @given(cases())
    def check(case):
        elsewhere = case.turn_ids < 0
        clean = replace(case, rewards=case.rewards.masked_fill(elsewhere, 0.0))
        poisoned = replace(
            case,
            rewards=case.rewards.masked_fill(elsewhere, torch.nan),
            values=case.values.masked_fill(elsewhere, torch.inf),
        )
        for one, other in zip(TOKEN_ESTIMATORS[name](clean), TOKEN_ESTIMATORS[name](poisoned), strict=True):
            torch.testing.assert_close(one, other)

    check()


@by_all_token_estimators
def test_float32_stays_float32_and_agrees_with_float64(name):
    @given(cases())
    def check(case):
        narrow = replace(case, **{k: getattr(case, k).float() for k in ("rewards", "values", "bootstrap")})
        for one, other in zip(TOKEN_ESTIMATORS[name](narrow), TOKEN_ESTIMATORS[name](case), strict=True):
            assert one.dtype == torch.float32
            assert other.dtype == torch.float64
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)

    check()


@by_all_token_estimators
def test_no_gradient_flows_into_advantages(name):
    values = torch.zeros(1, 3, requires_grad=True)
    turn_ids = torch.tensor([[0, 0, 1]])
    case = Case(torch.ones(1, 3), values, turn_ids, torch.zeros(1), [[[0, 1], [2]]])
    assert not any(found.requires_grad for found in TOKEN_ESTIMATORS[name](case))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 4)])
@by_all_token_estimators
def test_nothing_to_estimate(name, shape):
    """No rows, no tokens, and rows without any response token."""
    empty = torch.full(shape, torch.nan)
    case = Case(empty, empty, torch.full(shape, -1), torch.zeros(shape[0]), [])
    for found in TOKEN_ESTIMATORS[name](case):
        assert found.shape == shape
        assert (found == 0).all()


def test_nothing_to_estimate_without_tokens():
    nothing, no_ids = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    for found in (*no_concat_gae(nothing, nothing, no_ids, no_ids, 1, 1), grpo(nothing, no_ids), dr_grpo(nothing, [])):
        assert found.shape == (0,)
    assert batch_baseline(nothing).shape == (0,)
    assert whiten(nothing, nothing).shape == (0,)


# ------------------------------------------------------------------------------------------------------------ registry


def rollouts_of(case: Case, groups=None) -> Rollouts:
    size = len(case.rows)
    return Rollouts(
        rewards=case.rewards,
        turn_ids=case.turn_ids,
        groups=torch.zeros(size, dtype=torch.long) if groups is None else groups,
        episodes=torch.arange(size),
        turn_index=torch.zeros(size, dtype=torch.long),
        values=case.values,
        bootstrap=case.bootstrap,
    )


DISCOUNTS = Discounts(gamma=0.9, lam=0.8, gamma_turn=0.95, lam_turn=0.7)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_answers_by_token(name):
    @given(cases())
    @settings(max_examples=20)
    def check(case):
        rollouts = rollouts_of(case)
        if not ESTIMATORS[name].critic:
            rollouts = replace(rollouts, values=None)
        found = estimate(name, rollouts, DISCOUNTS)
        assert found.advantages.shape == case.rewards.shape
        assert (found.advantages[case.turn_ids < 0] == 0).all()
        assert (found.returns is not None) == ESTIMATORS[name].critic
        if found.returns is not None and found.value_mask is not None:
            assert not (found.value_mask & (case.turn_ids < 0)).any()
            # Where the critic is trained, its error is the advantage.
            error = (found.returns - case.values)[found.value_mask]
            torch.testing.assert_close(error, found.advantages[found.value_mask], rtol=1e-9, atol=1e-9)

    check()


@given(cases())
def test_names_mean_the_functions_they_name(case):
    rollouts, d = rollouts_of(case), DISCOUNTS
    direct = {
        "gae": gae(case.rewards, case.values, case.mask, d.gamma, d.lam, case.bootstrap)[0],
        "bi_level_gae": bi_level_gae(
            case.rewards, case.values, case.turn_ids, d.gamma, d.lam, d.gamma_turn, d.lam_turn, case.bootstrap
        )[0],
        "turn_gae": turn_gae(case.rewards, case.values, case.turn_ids, d.gamma_turn, d.lam_turn, case.bootstrap)[0],
        "reinforce++": reinforce_plus_plus(case.rewards, case.mask, d.gamma)[0],
    }
    for name, expected in direct.items():
        torch.testing.assert_close(estimate(name, rollouts, d).advantages, expected)
    totals = case.rewards.masked_fill(case.turn_ids < 0, 0).sum(1)
    torch.testing.assert_close(episode_scores(rollouts), totals)
    for name, scores in (
        ("grpo", grpo(totals, rollouts.groups)),
        ("dr_grpo", dr_grpo(totals, rollouts.groups)),
        ("batch_baseline", batch_baseline(totals)),
    ):
        case.same(estimate(name, rollouts, d).advantages, lambda b, t, scores=scores: scores[b])


def unrolled(case: Case) -> tuple[Rollouts, list[tuple[int, int]]]:
    """The same episodes with a row for each turn, and a row of padding; (row, turn) of each of the new rows."""
    places = [(b, k) for b, turns in enumerate(case.rows) for k in range(len(turns))]
    width = 5
    tensors = {"rewards": [], "values": [], "turn_ids": []}
    for b, k in places:
        turn = case.rows[b][k]
        for name, rows in tensors.items():
            rest = -1 if name == "turn_ids" else JUNK
            rows.append([*getattr(case, name)[b, turn].tolist(), *[rest] * (width - len(turn))])
    for name, rows in tensors.items():
        rows.append([-1 if name == "turn_ids" else JUNK] * width)
    first = places[0][0] if places else 0  # padding belongs to an episode that has turns: it must not count as another
    last = [case.bootstrap[b].item() if k == len(case.rows[b]) - 1 else JUNK for b, k in places]
    floats = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in tensors.items()}
    return (
        Rollouts(
            rewards=floats["rewards"],
            turn_ids=floats["turn_ids"].long(),
            groups=torch.tensor([b % 2 for b, _ in places] + [first % 2]),
            episodes=torch.tensor([b // 2 for b, _ in places] + [first // 2]),  # numbered anew in each group
            turn_index=torch.tensor([k for _, k in places] + [99]),
            values=floats["values"],
            bootstrap=torch.tensor([*last, JUNK], dtype=torch.float64),
        ),
        places,
    )


@given(cases())
def test_rows_of_turns_earn_what_the_turns_of_a_row_earn(case):
    by_turn, places = unrolled(case)
    apart = estimate("no_concat_gae", by_turn, DISCOUNTS)
    together, _ = turn_gae(
        case.rewards, case.values, case.turn_ids, DISCOUNTS.gamma_turn, DISCOUNTS.lam_turn, case.bootstrap, "first"
    )
    groups = torch.tensor([b % 2 for b in range(len(case.rows))])
    kept = [b for b, turns in enumerate(case.rows) if turns]
    grouped = rollouts_of(reordered(case, kept), groups[kept])
    by_group = estimate("grpo", by_turn, DISCOUNTS).advantages
    scores = estimate("grpo", grouped, DISCOUNTS).advantages
    for row, (b, k) in enumerate(places):
        tokens = case.rows[b][k]
        inside = list(range(len(tokens)))
        torch.testing.assert_close(apart.advantages[row, inside], together[b, tokens], rtol=1e-9, atol=1e-9)
        assert apart.value_mask[row].nonzero().flatten().tolist() == [0]
        torch.testing.assert_close(by_group[row, inside], scores[kept.index(b), tokens], rtol=1e-6, atol=1e-6)
    assert (apart.advantages[-1] == 0).all()


def test_unknown_names_and_missing_critics_are_refused():
    case = Case(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, 1).long(), torch.zeros(1), [[[0]]])
    with pytest.raises(ValueError, match=r"unknown advantage estimator 'gea': known are gae, "):
        estimate("gea", rollouts_of(case), DISCOUNTS)
    with pytest.raises(ValueError, match="'gae' needs a critic's values"):
        estimate("gae", replace(rollouts_of(case), values=None), DISCOUNTS)

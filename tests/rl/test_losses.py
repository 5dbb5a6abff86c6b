"""Losses against their definitions token by token, their gradients, and numbers that are hard to compute with."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.rl.losses import (
    AGGREGATIONS,
    KL,
    POLICY_LOSSES,
    aggregate,
    entropy,
    entropy_loss,
    kl,
    penalize,
    ppo_clip,
    sampler_weights,
    sigmoid_gate,
    sign_weights,
    value_loss,
)

LOG_PROBS = st.floats(-5, 0)
NUMBERS = st.floats(-3, 3)
EXTREMES = (-1e4, -88.0, -1e-6, 0.0)

by_every_kind_of_kl = pytest.mark.parametrize("kind", KL)
by_every_aggregation = pytest.mark.parametrize("how", AGGREGATIONS)


def exact(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------------- PPO


def test_ppo_clip_with_dual_clip():
    ratios, advantages = exact(1.4, 0.6, 1.4, 0.6, 9), exact(1, 1, -1, -1, -1)
    loss = ppo_clip(ratios.log(), torch.zeros(5), advantages, 0.2, 0.28, dual_clip=3)
    assert loss.tolist() == pytest.approx([-1.28, -0.6, 1.4, 0.8, 3])
    assert ppo_clip(ratios.log(), torch.zeros(5), advantages, 0.2, 0.28)[4].item() == pytest.approx(9)


def surrogate(ratio: float, advantage: float, low: float, high: float, dual: float | None) -> tuple[float, float]:
    """The loss of a token and its gradient by the ratio."""
    nearest = min(max(ratio, 1 - low), 1 + high)
    if -nearest * advantage > -ratio * advantage:
        return -nearest * advantage, 0.0
    if dual is not None and advantage < 0 and ratio > dual:
        return -dual * advantage, 0.0
    return -ratio * advantage, -advantage


@given(LOG_PROBS, LOG_PROBS, NUMBERS, st.floats(0, 0.9), st.floats(0, 2), st.none() | st.floats(1.5, 5))
def test_ppo_clip_is_its_definition_and_flat_where_it_clips(new, old, advantage, low, high, dual):
    log_prob = exact(new).requires_grad_()
    loss = ppo_clip(log_prob, exact(old), exact(advantage), low, high, dual)
    loss.sum().backward()
    ratio = math.exp(new - old)
    value, slope = surrogate(ratio, advantage, low, high, dual)
    assert loss.item() == pytest.approx(value, abs=1e-9)
    bounds = [1 - low, 1 + high, *([dual] if dual else [])]
    if min(abs(ratio - bound) for bound in bounds) > 1e-6:
        assert log_prob.grad.item() == pytest.approx(slope * ratio, abs=1e-9)
        assert (log_prob.grad.item() == 0) == (slope * ratio == 0), "clipped means no gradient at all"


def test_the_first_step_is_the_policy_gradient():
    """Old log-probabilities of the same weights: ratios of exactly 1, a gradient of -A for each log-probability."""
    log_probs = -torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) * 9
    log_probs.requires_grad_()
    advantages = torch.linspace(-2, 2, 24).view(4, 6)
    loss = ppo_clip(log_probs, log_probs, advantages, 0.2, 0.28, 3.0)
    torch.testing.assert_close(loss, -advantages, rtol=0, atol=0)
    loss.sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantages, rtol=0, atol=0)


@pytest.mark.parametrize("dual", [None, 3.0])
def test_ppo_clip_survives_extreme_ratios(dual):
    new, old, advantages = torch.meshgrid(
        torch.tensor(EXTREMES), torch.tensor(EXTREMES), torch.tensor([-1.0, 0.0, 1.0]), indexing="ij"
    )
    new = new.clone().requires_grad_()
    loss = ppo_clip(new, old, advantages, 0.2, 0.28, dual)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert new.grad.isfinite().all()
    if dual:
        assert loss.max() <= 3


@pytest.mark.parametrize("bounds", [(-0.1, 0.2, None), (1.2, 0.2, None), (0.2, -0.1, None), (0.2, 0.2, 1.0)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="clip"):
        ppo_clip(exact(0), exact(0), exact(1), *bounds)


def test_policy_losses_share_their_arguments():
    for loss in POLICY_LOSSES.values():
        assert loss(exact(-1), exact(-1), exact(2), 0.2, 0.28, 3.0).shape == (1,)


@given(LOG_PROBS, LOG_PROBS, st.floats(1, 4))
def test_sampler_weights_are_truncated_ratios(trainer, sampler, cap):
    weight = sampler_weights(exact(trainer).requires_grad_(), exact(sampler), cap)
    assert weight.item() == pytest.approx(min(math.exp(trainer - sampler), cap))
    assert not weight.requires_grad


def test_sampler_weights_survive_extremes():
    trainer, sampler = torch.meshgrid(torch.tensor(EXTREMES), torch.tensor(EXTREMES), indexing="ij")
    weights = sampler_weights(trainer, sampler)
    assert weights.isfinite().all()
    assert weights.max() == 2
    assert (weights.diagonal() == 1).all()


# -------------------------------------------------------------------------------------------------------------- values


@given(NUMBERS, NUMBERS, NUMBERS, st.floats(0.01, 2))
def test_value_loss_is_the_worse_of_clipped_and_unclipped(value, old, target, clip):
    predicted = exact(value).requires_grad_()
    loss = value_loss(predicted, exact(old), exact(target), clip)
    loss.sum().backward()
    near = old + min(max(value - old, -clip), clip)
    plain, clipped = (value - target) ** 2, (near - target) ** 2
    assert loss.item() == pytest.approx(max(plain, clipped) / 2, abs=1e-9)
    if clipped > plain + 1e-6 and abs(value - old) > clip:
        assert predicted.grad.item() == 0, "going further than the clip from the old value teaches nothing"
    elif plain > clipped + 1e-6:
        assert predicted.grad.item() == pytest.approx(value - target, abs=1e-9)
    assert value_loss(exact(value), exact(old), exact(target)).item() == pytest.approx(plain / 2, abs=1e-9)


# --------------------------------------------------------------------------------------------------------- aggregation


@pytest.mark.parametrize(
    ("how", "expected"), [("token-mean", 1.2), ("seq-mean-token-mean", 1.5), ("seq-mean-token-sum", 3.0)]
)
def test_aggregate_of_two_rows(how, expected):
    loss, mask = exact([1, 1, 1, 1], [2, 99, 99, 99]), exact([1, 1, 1, 1], [1, 0, 0, 0])
    assert aggregate(loss, mask, how).item() == pytest.approx(expected)


@st.composite
def masked_losses(draw):
    rows = draw(st.lists(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=3, max_size=3), min_size=1, max_size=5))
    return [[value for value, _ in row] for row in rows], [[kept for _, kept in row] for row in rows]


def by_hand(losses, masks, how) -> float:
    rows = [[x for x, kept in zip(*row, strict=True) if kept] for row in zip(losses, masks, strict=True)]
    rows = [row for row in rows if row]
    if not rows:
        return 0.0
    if how == "token-mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    if how == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(map(sum, rows)) / len(rows)


@by_every_aggregation
@given(masked_losses())
def test_aggregate_is_its_definition(how, case):
    losses, masks = case
    assert aggregate(exact(*losses), torch.tensor(masks), how).item() == pytest.approx(
        by_hand(losses, masks, how), abs=1e-12
    )


@by_every_aggregation
@given(masked_losses(), st.lists(st.integers(0, 5), max_size=3))
def test_parts_of_a_batch_add_up_to_the_whole(how, case, cuts):
    """Micro-batches and processes, some of them without any token, divide by the counts of the whole batch."""
    loss, mask = exact(*case[0]), torch.tensor(case[1])
    count = mask.sum() if how == "token-mean" else mask.any(1).sum()
    edges = [0, *sorted(min(cut, len(loss)) for cut in cuts), len(loss)]
    for given_count in (count, int(count)):
        parts = [aggregate(loss[a:b], mask[a:b], how, count=given_count) for a, b in pairwise(edges)]
        assert sum(parts).item() == pytest.approx(aggregate(loss, mask, how).item(), abs=1e-12)


@by_every_aggregation
def test_masked_losses_neither_count_nor_pull(how):
    loss = torch.tensor([[1.0, torch.nan], [torch.inf, torch.nan]], requires_grad=True)
    found = aggregate(loss, torch.tensor([[1, 0], [0, 0]]), how)
    found.backward()
    assert found.item() == 1
    assert loss.grad.tolist() == [[1, 0], [0, 0]]


@by_every_aggregation
@pytest.mark.parametrize("shape", [(0, 4), (2, 3)])
def test_a_batch_without_tokens_has_no_loss(how, shape):
    loss = torch.ones(shape, requires_grad=True)
    found = aggregate(loss, torch.zeros(shape), how)
    found.backward()
    assert found.item() == 0
    assert (loss.grad == 0).all()


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match=r"unknown aggregation 'mean': known are token-mean, "):
        aggregate(exact([1]), exact([1]), "mean")


# ------------------------------------------------------------------------------------------------------------------ KL


@given(LOG_PROBS, LOG_PROBS)
def test_kl_estimates_are_their_definitions(own, ref):
    difference = ref - own
    expected = {"k1": -difference, "k2": difference**2 / 2, "k3": math.exp(difference) - 1 - difference}
    for kind, value in expected.items():
        assert kl(exact(own), exact(ref), kind).item() == pytest.approx(value, abs=1e-9)
        assert kl(exact(own), exact(own), kind).item() == 0
    assert kl(torch.tensor([own]), torch.tensor([ref]), "k3").item() >= 0


@pytest.fixture(scope="module")
def distributions():
    """Logits of a policy, and log-probabilities of a reference, over five tokens."""
    generator = torch.Generator().manual_seed(1)
    logits, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), reference.log_softmax(-1)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(kind, distributions):
    logits, reference = distributions
    log_probs = logits.log_softmax(-1).detach()
    divergence = (log_probs.exp() * (log_probs - reference)).sum()
    expectation = (log_probs.exp() * kl(log_probs, reference, kind)).sum()
    assert expectation.item() == pytest.approx(divergence.item())


def test_as_a_loss_k2_descends_the_divergence_and_k1_nothing(distributions):
    logits, reference = distributions
    log_probs = logits.log_softmax(-1)
    divergence = (log_probs.exp() * (log_probs - reference)).sum()
    (wanted,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    sampled = log_probs.exp().detach()  # how often each token is sampled
    gradients = {
        kind: torch.autograd.grad((sampled * kl(log_probs, reference, kind)).sum(), logits, retain_graph=True)[0]
        for kind in KL
    }
    torch.testing.assert_close(gradients["k2"], wanted)
    torch.testing.assert_close(gradients["k1"], torch.zeros_like(wanted), rtol=0, atol=1e-12)
    assert not torch.allclose(gradients["k3"], wanted)


@by_every_kind_of_kl
def test_kl_survives_extremes(kind):
    own, ref = torch.meshgrid(torch.tensor(EXTREMES), torch.tensor(EXTREMES), indexing="ij")
    own = own.clone().requires_grad_()
    found = kl(own, ref, kind)
    found.sum().backward()
    assert found.isfinite().all()
    assert own.grad.isfinite().all()
    if kind != "k1":
        assert (own.grad * (own - ref) >= 0).all(), "descent moves towards the reference, or not at all"


def test_k3_is_precise_where_policies_hardly_differ():
    assert kl(torch.tensor([-1.0]), torch.tensor([-1.001]), "k3").item() == pytest.approx(5e-7, rel=1e-2)


def test_an_unknown_kind_of_kl_is_refused():
    with pytest.raises(ValueError, match=r"unknown kind of KL 'k4': known are k1, k2, k3"):
        kl(exact(0), exact(0), "k4")


def test_penalize_takes_the_divergence_off_the_reward():
    rewards, divergence, mask = exact([0, 1, 0]), exact([2, 3, torch.nan]), exact([1, 1, 0])
    assert penalize(rewards, divergence, mask, 0.1).tolist()[0] == pytest.approx([-0.2, 0.7, 0])


# ------------------------------------------------------------------------------------------------------------- entropy


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=6))
def test_entropy_is_its_definition(logits):
    weights = [math.exp(x) for x in logits]
    shares = [w / sum(weights) for w in weights]
    assert entropy(exact(*logits)).item() == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-9)


def test_banned_tokens_have_no_entropy_and_no_gradient():
    logits = torch.tensor([[1.0, -torch.inf, 2.0, -1e4]], requires_grad=True)
    found = entropy(logits)
    found.sum().backward()
    torch.testing.assert_close(found, entropy(torch.tensor([[1.0, 2.0]])))
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == 0


@given(st.lists(st.tuples(st.floats(0, 3), NUMBERS), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_entropy_loss_weighs_tokens_by_the_sign_of_their_advantage(tokens, positive, negative):
    entropies, advantages = (exact(*x) for x in zip(*tokens, strict=True))
    expected = [-(positive if a > 0 else negative) * h for h, a in tokens]
    assert entropy_loss(entropies, advantages, positive, negative).tolist() == pytest.approx(expected)
    usual = entropy_loss(entropies, advantages, positive, positive)
    torch.testing.assert_close(usual, -positive * entropies)


def test_entropy_loss_raises_entropy():
    logits = torch.tensor([[3.0, 0.0, 0.0]], requires_grad=True)
    entropy_loss(entropy(logits), torch.ones(1), 1.0, 0.0).sum().backward()
    moved = logits.detach() - 0.1 * logits.grad
    assert entropy(moved) > entropy(logits)


def test_sign_weights_keep_the_type_and_give_zero_the_negative_weight():
    weights = sign_weights(torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float32), 0.5, 2.0)
    assert weights.dtype == torch.float32
    assert weights.tolist() == [2.0, 2.0, 0.5]


# ---------------------------------------------------------------------------------------------------------------- gate


@given(st.floats(-50, 50), st.floats(0.1, 5))
def test_the_gate_opens_where_the_target_is_ahead(gap, sharpness):
    found = sigmoid_gate(exact(gap).requires_grad_(), sharpness)
    assert not found.requires_grad, "the gate must not become something to optimize"
    assert found.item() == pytest.approx(1 / (1 + math.exp(-sharpness * gap)))
    assert (found.item() > 0.5) == (gap > 0) or abs(sharpness * gap) < 1e-12


def test_the_gate_survives_extremes():
    assert sigmoid_gate(torch.tensor([-1e4, 1e4])).tolist() == [0, 1]


def test_signs_of_whole_numbers_have_their_weights():
    found = sign_weights(torch.tensor([1, -1, 0]), 0.5, 1.25)
    assert found.tolist() == [0.5, 1.25, 1.25]

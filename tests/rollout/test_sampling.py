"""Sampling against the distribution written out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vagen.rollout.sampling import Sampling, choose

NONE = torch.zeros(0, dtype=torch.long)
logits_of = st.integers(2, 7).flatmap(lambda size: arrays(np.float64, size, elements=st.floats(-8, 8)))


def by_hand(logits: np.ndarray, sampling: Sampling, banned: list[int]) -> np.ndarray:
    """The distribution, one token at a time."""
    allowed = [token for token in range(len(logits)) if token not in banned]
    weights = {token: np.exp((logits[token] - logits.max()) / sampling.temperature) for token in allowed}
    total, kept, reached = sum(weights.values()), {}, 0.0
    for token in sorted(allowed, key=lambda token: -weights[token]):
        assume(abs(reached - sampling.top_p) > 1e-9 or sampling.top_p == 1)  # else both answers are right
        if reached < sampling.top_p or sampling.top_p == 1:
            kept[token] = weights[token] / total
            reached += weights[token] / total
    return np.array([kept.get(token, 0.0) / sum(kept.values()) for token in range(len(logits))])


@given(
    logits=logits_of,
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.1, 0.6, 0.95, 1.0]),
    banned=st.sets(st.integers(0, 6), max_size=3),
)
def test_every_point_is_drawn_as_often_as_its_chance(logits, temperature, top_p, banned):
    banned = sorted({token for token in banned if token < len(logits)} - {int(logits.argmin())})
    assume(len(set(np.exp(logits / temperature).round(12))) == len(logits))  # ties may go either way
    sampling = Sampling(temperature, top_p)
    wanted = by_hand(logits, sampling, banned)
    points = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    many = torch.from_numpy(logits).expand(1000, -1)
    tokens, log_probs = choose(many, sampling, torch.tensor(banned, dtype=torch.long), points)
    found = np.bincount(tokens.numpy(), minlength=len(logits)) / 1000
    assert np.abs(found - wanted).max() < 3e-3
    assert not set(banned) & set(tokens.tolist())
    plain = torch.from_numpy(logits).log_softmax(0)
    torch.testing.assert_close(log_probs, plain[tokens], rtol=0, atol=1e-12)


@given(logits=logits_of)
def test_greedy_takes_the_likeliest_that_is_allowed(logits):
    best = int(logits.argmax())
    row = torch.from_numpy(logits)[None]
    points = torch.zeros(1, dtype=torch.float64)
    assert choose(row, Sampling(0), NONE, points)[0].item() == best
    second = choose(row, Sampling(0), torch.tensor([best]), points)[0].item()
    assert second == max((t for t in range(len(logits)) if t != best), key=lambda t: logits[t])


def test_ends_of_the_range_are_tokens_that_can_be_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -200.0, 0.0, -torch.inf]])
    for point in (0.0, np.nextafter(1, 0)):
        token = choose(logits, Sampling(), NONE, torch.tensor([point], dtype=torch.float64))[0].item()
        assert token in (1, 3)


def test_half_precision_is_sampled_in_float32():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    _, log_probs = choose(logits, Sampling(), NONE, torch.rand(3, dtype=torch.float64))
    assert log_probs.dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_tokens": 0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)

"""Cross-entropy in chunks is cross-entropy, and holds few logits at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.policy.loss import cross_entropy


def inputs(rows: int, width: int, vocabulary: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows * 1000 + vocabulary)
    hidden = torch.randn(rows, width, generator=generator, dtype=dtype).requires_grad_()
    head = torch.nn.Linear(width, vocabulary, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, width, generator=generator, dtype=dtype))
    return hidden, head, torch.randint(vocabulary, (rows,), generator=generator)


@given(rows=st.integers(0, 40), vocabulary=st.integers(1, 30), at_once=st.integers(1, 200))
def test_losses_and_gradients_are_the_plain_ones(rows, vocabulary, at_once):
    hidden, head, targets = inputs(rows, 5, vocabulary)
    scales = torch.linspace(0.5, 2, rows, dtype=torch.float64)
    results = []
    for held in (at_once, 10**9):
        losses = cross_entropy(hidden, head, targets, held)
        results.append([losses, *torch.autograd.grad((losses * scales).sum(), [hidden, head.weight, head.bias])])
    plain = -head(hidden).log_softmax(-1)[torch.arange(rows), targets]
    expected = [plain, *torch.autograd.grad((plain * scales).sum(), [hidden, head.weight, head.bias])]
    for result in results:
        for ours, theirs in zip(result, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_once", [64, 10**9])
def test_half_precision_logits_are_summed_in_single_precision(at_once):
    hidden, head, targets = inputs(12, 8, 16, torch.bfloat16)
    losses = cross_entropy(hidden, head, targets, at_once)
    assert losses.dtype == torch.float32
    expected = torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)


def test_few_logits_are_held_at_a_time():
    """No pass of the head makes more than asked for, forward or backward."""
    hidden, head, targets = inputs(100, 4, 10)
    made = []
    head.register_forward_hook(lambda _, __, logits: made.append(logits.numel()))
    cross_entropy(hidden, head, targets, 70).sum().backward()
    assert max(made) == 70
    assert sum(made) == 2 * 100 * 10, "each logit is computed once for the loss and once for the gradient"
    made.clear()
    cross_entropy(hidden, head, targets, 10**6).sum().backward()
    assert made == [1000], "small vocabularies pay for nothing"

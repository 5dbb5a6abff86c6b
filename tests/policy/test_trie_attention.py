"""Attention of packed rows by blocks is attention with the mask written out, its gradients too."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from vagen.policy.attention import attention_mask
from vagen.policy.trie_attention import QUERIES, TRIE, trie_attention, trie_mask

HEADS, SIZE = 4, 8


def ends_of_forest(length: int, seed: int, bushy: float) -> torch.Tensor:
    """(length,) where the descendants of each token end; ``bushy`` is how often a branch goes back towards a root."""
    generator = torch.Generator().manual_seed(seed)
    open_, ends = [], torch.zeros(length, dtype=torch.int64)
    for column in range(length):
        if open_ and torch.rand((), generator=generator) < bushy:
            kept = int(torch.randint(len(open_) + 1, (), generator=generator))
            for closed in open_[kept:]:
                ends[closed] = column
            del open_[kept:]
        open_.append(column)
    ends[open_] = length
    return ends


def tensors(count: int, length: int, key_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(count, heads, length, SIZE, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, key_heads, key_heads)
    ]


def both_ways(ends: torch.Tensor, key_heads: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ours, with the mask written out): the output, and the gradients of query, key and value."""
    found = []
    groups = HEADS // key_heads
    for way in ("ours", "dense"):
        query, key, value = tensors(len(ends), ends.shape[1], key_heads)
        if way == "ours":
            module = SimpleNamespace(num_key_value_groups=groups)
            output, _ = trie_attention(module, query, key, value, trie_mask(ends), scaling=0.3)
        else:
            dense = attention_mask(ends, "sdpa", torch.float64)
            wide = (states.repeat_interleave(groups, dim=1) for states in (key, value))
            output = scaled_dot_product_attention(query, *wide, attn_mask=dense, scale=0.3).transpose(1, 2)
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
        found.append([output, query.grad, key.grad, value.grad])
    return list(zip(*found, strict=True))


@given(
    length=st.integers(1, 7 * QUERIES),
    seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=3),
    bushy=st.sampled_from([0.0, 0.02, 0.2, 0.9]),
    key_heads=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=40, deadline=None)
def test_it_is_attention_with_the_mask_written_out(length, seeds, bushy, key_heads):
    ends = torch.stack([ends_of_forest(length, seed, bushy) for seed in seeds])
    for name, (ours, dense) in zip(("output", "d query", "d key", "d value"), both_ways(ends, key_heads), strict=True):
        assert ours.shape == dense.shape
        assert (ours - dense).abs().max() < 1e-10, f"{name} differs"


def test_rows_filled_up_with_padding_stay_finite():
    ends = torch.arange(1, 5 * QUERIES)[None].repeat(2, 1)  # every token sees itself alone
    ends[0, :40] = 40
    for ours, dense in both_ways(ends, HEADS):
        assert torch.isfinite(ours).all()
        assert (ours - dense).abs().max() < 1e-10


@pytest.mark.parametrize("mask", [None, "bool", "added"])
def test_masks_written_out_are_taken_as_they_are(mask):
    query, key, value = tensors(2, 9, HEADS)
    sees = torch.ones(9, 9, dtype=torch.bool).tril().expand(2, 1, 9, 9)
    given = {None: None, "bool": sees, "added": torch.zeros(2, 1, 9, 9).double().masked_fill_(~sees, -1e300)}[mask]
    ours, _ = trie_attention(SimpleNamespace(is_causal=True), query, key, value, given)
    assert (ours - scaled_dot_product_attention(query, key, value, attn_mask=sees).transpose(1, 2)).abs().max() < 1e-12


def test_short_rows_get_a_mask_written_out():
    for length, form in ((QUERIES, (1, 1, QUERIES, QUERIES)), (10 * QUERIES, (1, 1, 1, 10 * QUERIES))):
        assert attention_mask(torch.full((1, length), length), TRIE, torch.float32).shape == form

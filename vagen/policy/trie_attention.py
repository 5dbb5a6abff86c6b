"""Scaled dot product attention of packed rows, without the pairs of tokens that do not see each other.

A row of many short branches on one trunk is nearly empty as a matrix of who sees whom, and kernels that take a mask
compute all of it. But depth first order keeps a branch together: a block of queries sees itself and the trunk before
it. So the keys of each block are gathered, and blocks with about as many keys go through the stock kernel together.
What FlexAttention does on CUDA, for CPUs. Knows nothing about models but the interface of ``transformers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import embedding, pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TRIE = "trie_sdpa"
QUERIES = 32  # of a block
_KEYS = 64  # blocks whose numbers of keys round up to the same multiple of this go together
_SHORTEST = 4 * QUERIES  # shorter rows gain nothing


@dataclass(frozen=True)
class _Group:
    """Some blocks of Q queries that see at most K keys each.

    Attributes:
        blocks: (G,) which blocks, counted through all rows.
        keys: (G, K) which keys, counted through all rows.
        mask: (G, 1, Q, K) to add to scores.
    """

    blocks: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class _Plan:
    """The groups of a batch, and (blocks,) where each block stands among the groups' outputs."""

    groups: tuple[_Group, ...]
    places: torch.Tensor


def worthwhile(ends: torch.Tensor) -> bool:
    """Whether rows are long enough to gain by being cut into blocks."""
    return ends.shape[1] >= _SHORTEST


def trie_mask(ends: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, L) what :func:`trie_attention` takes for a mask: models hand on four dimensions as they are.

    Args:
        ends: (B, L) the first column after each token and its descendants.
    """
    return ends[:, None, None]


def trie_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with the mask of a :func:`trie_mask`, or with any that scaled dot product attention takes.

    Args:
        query, key, value: (B, heads, L, D); keys and values may have fewer heads.

    Returns:
        (B, L, heads, D), and no weights.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    count, heads, length, size = query.shape
    plan = _plan(attention_mask, query.dtype)
    queries = _blocks(query)
    keys, values = _tokens(key), _tokens(value)
    outputs = []
    for group in plan.groups:
        own = queries.index_select(0, group.blocks).transpose(1, 2)
        seen, told = (_gathered(tokens, group.keys, key.shape[1]) for tokens in (keys, values))
        outputs.append(sdpa_attention_forward(module, own, seen, told, group.mask, **options)[0])
    output = torch.cat(outputs).index_select(0, plan.places)
    return output.view(count, -1, heads, size)[:, :length], None


def _blocks(query: torch.Tensor) -> torch.Tensor:
    """(blocks, Q, heads, D) of (B, heads, L, D), rows filled up to whole blocks."""
    heads, length, size = query.shape[1:]
    query = pad(query.transpose(1, 2), (0, 0, 0, 0, 0, -length % QUERIES))
    return query.reshape(-1, QUERIES, heads, size)


def _tokens(states: torch.Tensor) -> torch.Tensor:
    """(B * L, heads * D) of (B, heads, L, D)."""
    return states.transpose(1, 2).flatten(2).flatten(0, 1)


def _gathered(tokens: torch.Tensor, places: torch.Tensor, heads: int) -> torch.Tensor:
    """(G, heads, K, D) of (B * L, heads * D).

    As an embedding, since on CPUs the gradient of other ways to index is added up row by row.
    """
    return embedding(places, tokens).unflatten(2, (heads, -1)).transpose(1, 2)


@lru_cache(maxsize=1)
def _plan(mask: torch.Tensor, dtype: torch.dtype) -> _Plan:
    """The plan of a batch; kept for the layers that follow, which get the same mask."""
    ends = mask[:, 0, 0]
    count, length = ends.shape
    columns = torch.arange(length, device=ends.device)
    starts = torch.arange(0, length, QUERIES, device=ends.device)
    seen = (ends[:, None] > starts[:, None]) & (columns < starts[:, None] + QUERIES)
    seen = seen.flatten(0, 1)
    first = torch.arange(count, device=ends.device).repeat_interleave(len(starts)) * length
    starts = starts.repeat(count)
    sizes = seen.sum(1)
    levels = (sizes + _KEYS - 1) // _KEYS
    groups = []
    for level in levels.unique().tolist():
        blocks = (levels == level).nonzero()[:, 0]
        # The keys that are seen first, then as many others as fill up the widest block; those are masked.
        own = seen[blocks].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(sizes[blocks].max())]
        keys = own + first[blocks, None]
        queries = starts[blocks, None] + torch.arange(QUERIES, device=ends.device)
        visible = (own[:, None] <= queries[..., None]) & (queries[..., None] < ends.flatten()[keys][:, None])
        visible[..., 0] |= queries >= length  # what only fills a row up must see something
        hidden = torch.finfo(dtype).min
        added = torch.zeros(visible.shape, dtype=dtype, device=ends.device).masked_fill_(~visible, hidden)
        groups.append(_Group(blocks, keys, added[:, None]))
    order = torch.cat([group.blocks for group in groups])
    return _Plan(tuple(groups), order.argsort())


AttentionInterface.register(TRIE, trie_attention)
AttentionMaskInterface.register(TRIE, sdpa_mask)  # of rows that are not packed

"""Vision towers whose attention goes image by image in Python, in one go wherever images, or windows, are of a size.

Such towers hand all patches and the bounds of the images to implementations of attention that can deal with those, as
the kernels of flash attention can, and loop for all others. Here is one for any device: it puts what is of a length
into a batch. Knows nothing about language models.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

BATCHED = "vagen_like_flash_batched"  # towers look for the word "flash" to know who takes bounds
SEED = 0  # of the images that a tower is tried with


def batch_tower(model: Any) -> bool:
    """Let the vision tower of a model run in one go, if it would loop, and then gives what it gave before.

    That is tried on noise: two images of one size and one of another. Call it after the attention has been chosen.

    Returns:
        Whether the tower runs batched from now on.
    """
    tower = getattr(getattr(model, "model", None), "visual", None)
    config = getattr(model.config, "vision_config", None)
    if tower is None or config is None or model.device.type == "meta" or not _loops(tower, config):
        return False
    inputs = _noise(config, model)
    was_training = tower.training
    tower.eval()
    stock = _tried(tower, inputs, config, "sdpa")
    batched = _tried(tower, inputs, config, BATCHED)
    tower.train(was_training)
    same = bool(stock) and len(stock) == len(batched) and all(map(_close, stock, batched))
    config._attn_implementation = BATCHED if same else "sdpa"
    return same


def batched_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each of several sequences that stand one after the other.

    Args:
        query, key, value: (1, heads, T, D).
        cu_seq_lens_q: (sequences + 1,) where each begins, and where the last ends.

    Returns:
        (1, T, heads, D), and no weights.
    """
    bounds = cu_seq_lens_q.tolist()
    lengths = [stop - start for start, stop in pairwise(bounds)]
    if len(set(lengths)) == 1:
        return _alike(query, key, value, lengths[0], scaling, dropout), None
    output = torch.empty_like(query.transpose(1, 2))
    for length in dict.fromkeys(lengths):
        starts = [start for start, own in zip(bounds, lengths, strict=False) if own == length]
        places = (torch.tensor(starts)[:, None] + torch.arange(length)).flatten().to(query.device)
        chosen = query[:, :, places], key[:, :, places], value[:, :, places]
        output[:, places] = _alike(*chosen, length, scaling, dropout)
    return output, None


AttentionInterface.register(BATCHED, batched_attention)


def _alike(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: int,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attention within sequences of one length; (1, T, heads, D)."""
    _, heads, total, size = query.shape
    split = (tensor[0].view(heads, -1, length, size).transpose(0, 1) for tensor in (query, key, value))
    output = scaled_dot_product_attention(*split, dropout_p=dropout, scale=scaling)  # (sequences, heads, length, D)
    return output.transpose(1, 2).reshape(1, total, heads, size)


def _loops(tower: torch.nn.Module, config: Any) -> bool:
    """Whether a tower takes patches and grids, and its attention loops over the bounds of images."""
    known = all(hasattr(config, name) for name in ("spatial_merge_size", "temporal_patch_size", "patch_size"))
    takes = {"hidden_states", "grid_thw"} <= set(inspect.signature(tower.forward).parameters)
    bounded = any("cu_seqlens" in inspect.signature(module.forward).parameters for module in tower.modules())
    return known and takes and bounded and config._attn_implementation == "sdpa"


def _noise(config: Any, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of three images, and their grids."""
    side = 2 * config.spatial_merge_size
    grids = torch.tensor([[1, side, side], [1, side, 2 * side], [1, side, side]])
    width = getattr(config, "in_channels", 3) * config.temporal_patch_size * config.patch_size**2
    generator = torch.Generator().manual_seed(SEED)
    patches = torch.randn(int(grids.prod(1).sum()), width, generator=generator)
    return patches.to(model.device, model.dtype), grids.to(model.device)


@torch.no_grad()
def _tried(tower: torch.nn.Module, inputs: Sequence[torch.Tensor], config: Any, attention: str) -> list[torch.Tensor]:
    """All tensors that a tower gives with an implementation of attention; none where it fails."""
    config._attn_implementation = attention
    try:
        output = tower(*inputs)
    except (RuntimeError, TypeError):  # it takes patches of another shape, or passes other arguments
        return []
    found: list[torch.Tensor] = []
    for value in output if isinstance(output, tuple | list) else output.values():
        found += [part for part in (value if isinstance(value, Sequence) else [value]) if torch.is_tensor(part)]
    return found


def _close(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two results differ by no more than rounding does."""
    if one.shape != two.shape:
        return False
    error = (one.double() - two.double()).abs().max()
    return bool(error <= 64 * torch.finfo(one.dtype).eps * one.double().abs().max())

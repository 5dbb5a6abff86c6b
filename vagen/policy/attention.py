"""Which attention implementation a model uses, and the masks of packed rows in the form each of them takes.

Packed rows need masks that are neither causal nor blocks on the diagonal: a token sees its ancestors in a trie. Since
the trie is laid out depth first, all of such a mask is one number per token, the end of its descendants.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
    is_torch_flex_attn_available,
)

from vagen.policy.errors import ModelError
from vagen.policy.trie_attention import TRIE, trie_mask, worthwhile

FLASH = ("flash_attention_4", "flash_attention_3", "flash_attention_2")  # the newest first
_MIN_FLEX_HEAD = 16  # FlexAttention's kernels take no smaller heads
_SCALED_LOGITS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}


def choose_attention(requested: str, device: torch.device, model: Any, packed: bool) -> str:
    """The attention implementation to set, as ``transformers`` names it.

    ``auto`` takes the fastest that is installed and right. For generation that is flash attention (in half precision
    on CUDA); its kernels know only causal masks, so packed rows get FlexAttention on CUDA where the model allows it.
    Otherwise scaled dot product attention, on CPUs that of :mod:`vagen.policy.trie_attention`, and the eager
    implementation for models without that.

    Args:
        requested: ``auto``, or a name, which is checked and returned.
        device: where the model will run.
        model: a ``PreTrainedModel``; only its class, configuration and floating point type matter.
        packed: whether packed rows will go through it.

    Raises:
        ModelError: the implementation asked for is not installed, or cannot do what it would have to.
    """
    if requested != "auto":
        _check(requested, device, model, packed)
        return requested
    if packed and _can_flex(device, model):
        return "flex_attention"
    flash = () if packed else _usable_flash(device, model)
    if flash:
        return flash[0]
    if not getattr(model, "_supports_sdpa", False):
        return "eager"
    return TRIE if device.type == "cpu" else "sdpa"


def installed_flash(device: torch.device) -> tuple[str, ...]:
    """The flash attention implementations that are installed and have kernels for a device, the best first."""
    if device.type != "cuda":
        return ()
    major = torch.cuda.get_device_capability(device)[0]
    available = {
        "flash_attention_4": is_flash_attn_4_available() and major in (9, 10),
        "flash_attention_3": is_flash_attn_3_available() and major == 9,
        "flash_attention_2": is_flash_attn_2_available() and major >= 8,
    }
    return tuple(name for name in FLASH if available[name])


def attention_of(model: Any) -> str:
    """The implementation that a model's language model uses."""
    return model.config.get_text_config()._attn_implementation


def set_attention(model: Any, name: str) -> None:
    """Make a model use an implementation; those for packed rows in the language model only."""
    if name in ("flex_attention", TRIE):
        model.set_attn_implementation({"text_config": name, "vision_config": "sdpa"})
    else:
        model.set_attn_implementation(name)


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """For the time of a ``with``, an implementation that packed rows can go through.

    Models that are loaded to answer may use flash attention, which they get back afterwards.
    """
    before = attention_of(model)
    if before not in FLASH:
        yield
        return
    set_attention(model, choose_attention("auto", model.device, model, packed=True))
    try:
        yield
    finally:
        set_attention(model, before)


@contextmanager
def dense_attention(model: Any) -> Iterator[None]:
    """For the time of a ``with``, an implementation that takes any mask, written out as numbers."""
    before = attention_of(model)
    if before in ("sdpa", "eager", TRIE):
        yield
        return
    set_attention(model, "sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    try:
        yield
    finally:
        set_attention(model, before)


def attention_mask(ends: torch.Tensor, implementation: str, dtype: torch.dtype) -> torch.Tensor | BlockMask:
    """The mask of packed rows in the form an implementation takes.

    Args:
        ends: (B, L) the first column after each token and its descendants.
        dtype: floating point type of the model.

    Returns:
        A ``BlockMask`` for FlexAttention; the intervals themselves for ``trie_sdpa`` where it is worth while; else
        (B, 1, L, L) bool, or for the eager implementation numbers to add to scores.
    """
    if implementation == "flex_attention":
        return _block_mask(ends)
    if implementation == TRIE and worthwhile(ends):
        return trie_mask(ends)
    columns = torch.arange(ends.shape[1], device=ends.device)
    sees = (columns <= columns[:, None]) & (columns[:, None] < ends[:, None])
    return added_mask(sees, dtype) if implementation == "eager" else sees[:, None]


def added_mask(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, Q, K) what is added to scores, so that queries attend to the keys they may: every dense form takes it.

    Where truth values would do too, each layer would turn them into this.

    Args:
        sees: (B, Q, K) bool.
        dtype: floating point type of the model.
    """
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def check_packable(model: Any) -> None:
    """Refuse models that would compute something else in a packed row than in one sequence per sample.

    Raises:
        ModelError: says what the model does that packing cannot allow for.
    """
    name, base = type(model).__name__, getattr(model, "model", None)
    if base is None or not hasattr(base, "get_image_features"):
        raise ModelError(f"{name} cannot train on packed rows: its vision tower cannot be called on its own")
    takes = inspect.signature(base.forward).parameters
    for needed in ("attention_mask", "position_ids"):
        if needed not in takes:
            raise ModelError(f"{name} cannot train on packed rows: its forward takes no {needed}")
    if "token_type_ids" in takes:
        raise ModelError(f"{name} cannot train on packed rows: its image tokens see each other both ways")
    text = model.config.get_text_config()
    if others := sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention"}):
        raise ModelError(f"{name} cannot train on packed rows: it has layers of type {others[0]}, which take no mask")
    for scaled, neutral in _SCALED_LOGITS.items():
        if getattr(text, scaled, None) not in (None, neutral):
            raise ModelError(f"{name} cannot train on packed rows: it rescales logits ({scaled})")


def _block_mask(ends: torch.Tensor) -> BlockMask:
    count, length = ends.shape

    def sees(row: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[row, key])

    return create_block_mask(sees, count, None, length, length, device=str(ends.device))


def _check(name: str, device: torch.device, model: Any, packed: bool) -> None:
    if name in FLASH:
        if packed:
            raise ModelError(
                f"{name} knows only causal masks and cannot run packed rows: set model.attention to auto or sdpa"
            )
        if name not in _usable_flash(device, model):
            raise ModelError(
                f"{name} is not to be had: it takes a CUDA device, half precision, a model that supports it and its "
                "package; set model.attention to auto"
            )
    if name == "flex_attention" and not _can_flex(device, model):
        raise ModelError(
            f"flex_attention is not to be had: it takes a CUDA device, heads of {_MIN_FLEX_HEAD} numbers or more and "
            f"a model that supports it, which {type(model).__name__} may not; set model.attention to auto"
        )


def _usable_flash(device: torch.device, model: Any) -> tuple[str, ...]:
    half = model.dtype in (torch.float16, torch.bfloat16)
    return installed_flash(device) if half and getattr(model, "_supports_flash_attn", False) else ()


def _can_flex(device: torch.device, model: Any) -> bool:
    text = model.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return (
        device.type == "cuda"
        and is_torch_flex_attn_available()
        and getattr(model, "_supports_flex_attn", False)
        and head >= _MIN_FLEX_HEAD
    )

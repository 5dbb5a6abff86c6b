"""Floating point operations that a training step needs, counted from what is in its batch.

Multiplications and additions of matrices only, each twice for the backward pass; norms, softmax and rotary positions
are left out. Padding and whatever a kernel computes and throws away do not count: this is what is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vagen.policy.packing import Row
from vagen.train.optimizer import VISION

FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class Widths:
    """Of a model, as far as they decide its operations.

    Attributes:
        vision: weights that each patch is multiplied with.
        language: weights that each token is multiplied with; the projector's count as such for every token that an
            image brings.
        head: weights that each target is multiplied with.
        vision_attention, language_attention: layers times width, which each pair of tokens costs four operations for.
    """

    vision: int
    language: int
    projector: int
    head: int
    vision_attention: int
    language_attention: int


@dataclass(frozen=True)
class Work:
    """What goes through a model.

    Attributes:
        tokens: through the language model.
        pairs: of tokens of which one attends to the other.
        targets: to be predicted.
        patches: through the vision tower.
        patch_pairs: of patches of one image.
        image_tokens: that the vision tower gives.
    """

    tokens: int
    pairs: int
    targets: int
    patches: int
    patch_pairs: int
    image_tokens: int

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.targets + other.targets,
            self.patches + other.patches,
            self.patch_pairs + other.patch_pairs,
            self.image_tokens + other.image_tokens,
        )


def widths(model: Any) -> Widths:
    """Of a model whose vision tower's parts are named as in ``transformers``."""
    head = model.get_output_embeddings()
    sums = {"vision": 0, "language": 0, "projector": 0}
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)) and module is not head:
            sums[_part(name)] += module.weight.numel()
    text, vision = model.config.get_text_config(), model.config.vision_config
    heads, size = text.num_attention_heads, getattr(text, "head_dim", None)
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    return Widths(
        **sums,
        head=head.weight.numel(),
        vision_attention=depth * vision.hidden_size,
        language_attention=text.num_hidden_layers * heads * (size or text.hidden_size // heads),
    )


def work(rows: Sequence[Row], patches_per_token: int) -> Work:
    """What rows bring; an image that stands in several of them counts once."""
    sizes: dict[bytes, int] = {}
    for row in rows:
        for number, picture in enumerate(row.pictures):
            sizes[picture.digest] = int(row.place[row.image_of == number].max()) + 1
    patches = [size * patches_per_token for size in sizes.values()]
    return Work(
        tokens=sum(len(row.ids) for row in rows),
        pairs=sum(int(row.mask.sum()) for row in rows),
        targets=sum(len(row.targets) for row in rows),
        patches=sum(patches),
        patch_pairs=sum(count**2 for count in patches),
        image_tokens=sum(sizes.values()),
    )


def flops(width: Widths, done: Work) -> int:
    """Of a training step."""
    forward = 2 * (
        width.vision * done.patches
        + width.projector * done.image_tokens
        + width.language * done.tokens
        + width.head * done.targets
    ) + 4 * (width.vision_attention * done.patch_pairs + width.language_attention * done.pairs)
    return FORWARD_AND_BACKWARD * forward


def _part(name: str) -> str:
    words = name.split(".")
    if any(word in words for word in ("merger", "deepstack_merger_list", "connector", "multi_modal_projector")):
        return "projector"
    return "vision" if any(word in words for word in VISION) else "language"

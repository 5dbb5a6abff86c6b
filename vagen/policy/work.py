"""How much there is to compute in packed rows, and in one sequence per sample: the bound of what sharing can gain.

Counts what the mathematics needs, whatever a kernel computes besides. Knows nothing about time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vagen.policy.parts import part_of


@dataclass(frozen=True)
class Work:
    """What passes through a model.

    Attributes:
        tokens: of the language model.
        pairs: (query, key) pairs of tokens that see each other, a token and itself included.
        targets: outputs that logits are computed for.
        placeholders: tokens that images become, those of an image once each time it passes the vision tower.
        squares: sum over these images of the square of their placeholders.
    """

    tokens: int = 0
    pairs: int = 0
    targets: int = 0
    placeholders: int = 0
    squares: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.targets + other.targets,
            self.placeholders + other.placeholders,
            self.squares + other.squares,
        )


@dataclass(frozen=True)
class Cost:
    """Floating point operations of a forward pass; a backward pass takes twice as many of each.

    A multiplication and an addition are two operations. A linear layer takes two per weight and token, attention four
    per pair of tokens and dimension: one product for the score and one for the sum (Kaplan et al. 2020, section 2.1).
    Norms, activations, rotations and look-ups are left out; all layers of a tower count as if each image saw all of
    itself, and none where the configuration does not tell how many there are and how wide.

    Attributes:
        token: per token of the language model.
        pair: per pair of tokens.
        target: per output with logits.
        placeholder: per token that an image becomes, of the vision tower and the projector.
        square: per square of an image's placeholders.
    """

    token: float
    pair: float
    target: float
    placeholder: float
    square: float

    @classmethod
    def of(cls, model: Any) -> Cost:
        """The cost of a model, whole and in memory."""
        config = model.config
        text, vision = config.get_text_config(), config.vision_config
        head = model.get_output_embeddings()
        weights = {"language": 0, "vision": 0, "projector": 0}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d) and module is not head:
                weights[part_of(f"{name}.weight")] += module.weight.numel()
        patches, depth = _patches(config), _first(vision, "depth", "num_hidden_layers")
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            token=2.0 * weights["language"],
            pair=4.0 * text.num_hidden_layers * text.num_attention_heads * width,
            target=2.0 * head.weight.numel(),
            placeholder=2.0 * (weights["vision"] * patches + weights["projector"]),
            square=4.0 * depth * _first(vision, "embed_dim", "hidden_size") * patches**2,
        )

    def operations(self, work: Work) -> float:
        """Floating point operations of a forward pass over some work."""
        return (
            self.token * work.tokens
            + self.pair * work.pairs
            + self.target * work.targets
            + self.placeholder * work.placeholders
            + self.square * work.squares
        )


def _patches(config: Any) -> int:
    """Patches of the vision tower that become one token of the language model."""
    return (_first(config, "scale_factor") or _first(config.vision_config, "spatial_merge_size") or 1) ** 2


def _first(config: Any, *names: str) -> int:
    """The first of some entries that a configuration has, or 0: families name them differently."""
    return next((getattr(config, name) for name in names if hasattr(config, name)), 0)

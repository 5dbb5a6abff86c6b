"""What training a real model takes of each GPU's memory, as the table of docs/real-models.md.

    python scripts/memory.py

Nothing is downloaded and nothing runs: the models of the configurations ``configs/cloze_*_*.yaml`` are built without
memory (on torch's meta device) from the sizes in ``architectures.json``. States are counted as ZeRO spreads them
(Rajbhandari et al. 2020, section 5); activations are what the layers' own code keeps for the backward pass, with an
attention that keeps what fused kernels do. Communication buffers of DeepSpeed are as configured by default.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForImageTextToText

from vagen.config import Config, Lora, Model, load
from vagen.policy.adapters import prepare_training
from vagen.policy.loss import LOGITS_AT_ONCE

ROOT = Path(__file__).parents[1]
CONFIGS = (
    "cloze_smolvlm_2b.yaml",
    "cloze_qwen2_5_vl_3b.yaml",
    "cloze_qwen3_vl_4b.yaml",
    "cloze_qwen2_5_vl_7b.yaml",
)
GIB = 2**30
TOKENS = 4096  # of the packed row that activations are counted for ...
BOARDS = 16  # ... and the pictures in it
BUCKET = 500_000_000  # gradients that DeepSpeed reduces at a time, by default ...
LIVE = 1_000_000_000  # ... and parameters that ZeRO 3 keeps gathered at most
FUSED = "kept_by_fused_kernels"


@dataclass(frozen=True)
class Setting:
    """A way to train: how many GPUs, which ZeRO stage, and what makes it smaller."""

    gpus: int
    stage: int
    offload: bool = False  # of the optimizer's states, and with them the gradients
    lora: int = 0  # rank; 0: all weights


SETTINGS = (
    Setting(1, 0),
    Setting(1, 0, lora=16),
    Setting(1, 2, offload=True),
    Setting(8, 1),
    Setting(8, 2),
    Setting(8, 3),
    Setting(64, 3),
)


@dataclass(frozen=True)
class Need:
    """Bytes on each GPU.

    Attributes:
        parameters: weights in bf16.
        gradients: in bf16.
        optimizer: weights in fp32 and AdamW's two moments.
        activations: kept for the backward pass of one row, with gradient checkpointing.
        update: gradients turned into fp32 while weights are updated, when activations are gone again.
        buffers: what DeepSpeed reduces gradients with, and at most keeps of gathered parameters.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    update: int
    buffers: int

    @property
    def total(self) -> int:
        """At the highest point of a step."""
        states = self.parameters + self.gradients + self.optimizer
        return states + max(self.activations, self.update) + self.buffers


def main() -> None:
    print(table())


def table() -> str:
    """Markdown, in GiB for each GPU."""
    lines = [
        "| model | GPUs | ZeRO | parameters | gradients | optimizer | activations | update | buffers | highest |",
        f"|{'---|' * 10}",
    ]
    for name in CONFIGS:
        config = load(ROOT / "configs" / name)
        size = total_parameters(config)
        kept = activations(config)
        trainable = {rank: trained(config, rank) for rank in {setting.lora for setting in SETTINGS}}
        for setting in SETTINGS:
            need = needed(size, trainable[setting.lora], kept, setting)
            parts = (
                *(need.parameters, need.gradients, need.optimizer, need.activations, need.update, need.buffers),
                need.total,
            )
            cells = [
                f"{str(config.model.path).rpartition('/')[2]} ({size / 1e9:.2f} B)",
                str(setting.gpus),
                f"{setting.stage}{', offload' * setting.offload}{f', LoRA {setting.lora}' * bool(setting.lora)}",
                *(f"{part / GIB:.1f}" for part in parts),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def needed(size: int, trainable: int, kept: int, setting: Setting) -> Need:
    """What a model takes of each GPU.

    Args:
        size: its parameters.
        trainable: those that are trained.
        kept: bytes of activations.
    """
    part = {stage: 1 / setting.gpus if setting.stage >= stage else 1.0 for stage in (1, 2, 3)}
    on_gpu = 0 if setting.offload else 1
    return Need(
        parameters=round(2 * size * part[3]),
        gradients=round(2 * trainable * part[2]) * on_gpu,
        optimizer=round(12 * trainable * part[1]) * on_gpu,
        activations=kept,
        update=round(4 * trainable * part[1]) * on_gpu,
        buffers=2 * (min(BUCKET, trainable) * (setting.stage > 0) + min(LIVE, size) * (setting.stage == 3)),
    )


def checkpoints() -> dict[str, Any]:
    """``architectures.json``: by Hub id."""
    return json.loads((ROOT / "scripts" / "architectures.json").read_text(encoding="utf-8"))["checkpoints"]


def build(path: str, layers: int | None = None, attention: str = "sdpa") -> Any:
    """A model without memory, in bf16.

    Args:
        path: its Hub id.
        layers: of the language model, instead of all.
    """
    sizes = copy.deepcopy(checkpoints()[path]["config"])
    if layers is not None:
        sizes["text_config"]["num_hidden_layers"] = layers
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)


def total_parameters(config: Config) -> int:
    return sum(parameter.numel() for parameter in build(str(config.model.path)).parameters())


def trained(config: Config, lora: int) -> int:
    """The parameters that are trained, with adapters of a rank or without."""
    model = build(str(config.model.path))
    prepare_training(model, Model(path=config.model.path, lora=Lora(rank=lora)))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# --------------------------------------------------------------------------------------------------------- activations


def activations(config: Config) -> int:
    """Bytes kept for the backward pass of a row, at its highest point.

    With gradient checkpointing that is the input of every layer, and while a layer goes backward all that it keeps;
    the language model's are counted with the logits that are held at a time.
    """
    model, deeper = (build(str(config.model.path), layers, FUSED) for layers in (1, 2))
    kept = _kept(model, lambda: _read(model))
    layer = _kept(deeper, lambda: _read(deeper)) - kept
    around = kept - layer  # what is kept outside of layers
    depth = checkpoints()[str(config.model.path)]["config"]["text_config"]["num_hidden_layers"]
    inputs = depth * TOKENS * model.config.get_text_config().hidden_size * 2
    blocks, block = _vision(model)
    logits = LOGITS_AT_ONCE * (2 + 4 + 4 + 4)  # bf16, fp32, their softmax and its gradient
    return inputs + around + max(layer, logits) + blocks + block


def _read(model: Any) -> Any:
    """The language model's forward pass over one row."""
    base = model.model
    text = model.config.get_text_config()
    positions = torch.arange(TOKENS, device="meta")[None]  # (1, L)
    if hasattr(base, "get_rope_index"):
        positions = positions.expand(3, 1, TOKENS)
    return (getattr(base, "language_model", None) or base.text_model)(
        inputs_embeds=_empty(1, TOKENS, text.hidden_size),
        position_ids=positions,
        attention_mask=torch.empty(1, 1, TOKENS, TOKENS, dtype=torch.bool, device="meta"),
        use_cache=False,
    )


def _vision(model: Any) -> tuple[int, int]:
    """Bytes of the inputs of all blocks of the vision tower, and of what one block keeps while it goes backward."""
    vision = model.config.vision_config
    side = PATCHES_OF_BOARD[model.config.model_type]
    patches = BOARDS * side * side
    if hasattr(model.model, "visual"):
        blocks = model.model.visual.blocks
        half = torch.empty(patches, vision.hidden_size // vision.num_heads, device="meta")
        lengths = torch.arange(0, patches + 1, side * side)  # where each picture ends

        def see() -> Any:
            hidden = _empty(patches, vision.hidden_size)
            return blocks[0](hidden, cu_seqlens=lengths, position_embeddings=(half, half))
    else:
        blocks = model.model.vision_model.encoder.layers

        def see() -> Any:
            return blocks[0](_empty(BOARDS, side * side, vision.hidden_size), attention_mask=None)

    return len(blocks) * patches * vision.hidden_size * 2, _kept(model, see)


#: Patches along a board of 6 x 6 tiles at the size of the configurations, by model type.
PATCHES_OF_BOARD = {"idefics3": 27, "qwen2_5_vl": 12, "qwen3_vl": 12}


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta", requires_grad=True)


def _kept(model: torch.nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights aside; what is kept twice counts once."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage  # held, so that no other gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = forward()
    del output
    return sum(storage.nbytes() for storage in found.values())


class _Fused(torch.autograd.Function):
    """Attention as memory sees it: queries, keys, values, outputs, and a number per head and token are kept."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, torch.empty(query.shape[:-1], device=query.device))
        return output


def _attend(_: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any, **___: Any) -> Any:
    return _Fused.apply(query, key, value).transpose(1, 2).contiguous(), None  # pyright: ignore[reportOptionalMemberAccess]


AttentionInterface.register(FUSED, _attend)

if __name__ == "__main__":
    main()

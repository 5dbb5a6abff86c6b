"""A training step of a 3B Qwen2.5-VL on a GPU: packed rows against one sequence per cloze through the stock forward.

    python scripts/bench/gpu_step.py [--tokens 2048 4096 8192 16384] [--clozes 16] [--rounds 5] [--attention auto]
    python scripts/bench/gpu_step.py --count

The architecture is that of Qwen2.5-VL-3B, the weights are random, and so are tokens and pixels. Half of a row's tokens
are four images that all clozes share; the other half are their questions and answers. The stock forward gets each
cloze as a sequence of its own, with the fastest attention there is (flash attention where it is installed). Prints a
JSON line per number of tokens, in clozes per second: with the time of a step, its useful operations per second as a
share of what a large matrix product reaches on this card, and the memory it takes. Useful operations are those of the
packed row (:mod:`vagen.policy.work`); what checkpointing computes again does not count.

``--count`` needs no GPU: it prints the operations of either way, and checks the formula's share of the language model
against operations counted by torch on tensors without storage.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measure import ROUNDS, comparison, rates
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vagen.policy.attention import choose_attention, set_attention
from vagen.policy.chat import Encoded, Picture, Prompt
from vagen.policy.packing import Batch, PackedLoss, Row, collate, pack
from vagen.policy.work import Cost

IMAGES = 4
ANSWER = 16  # tokens
FORWARD_AND_BACKWARD = 3  # times the operations of a forward pass
CHECKPOINTED = 4096  # tokens of a row from which activations are computed again instead of kept
MATRIX = 8192  # side of the matrices whose product says what the card can do

#: Of Qwen2.5-VL-3B-Instruct.
LARGE = {
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 2048,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "image_token_id": 151655,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "video_token_id": 151656,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Clozes:
    """Random clozes about the same images.

    Attributes:
        encoded: their tokens.
        grid: (height, width) of each image in patches.
    """

    encoded: tuple[Encoded, ...]
    grid: tuple[int, int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 4096, 8192, 16384], help="of a packed row")
    parser.add_argument("--clozes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--attention", default="auto", help="of packed rows: auto, flex_attention or sdpa")
    parser.add_argument("--count", action="store_true", help="operations only, without a GPU")
    args = parser.parse_args()
    if args.count:
        for tokens in args.tokens:
            print(json.dumps(count(LARGE, tokens, args.clozes)), flush=True)
        return 0
    if not torch.cuda.is_available():
        print("gpu_step: there is no CUDA device here; `--count` counts operations without one", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    model = random_model(LARGE, device, torch.bfloat16)
    peak = matrix_rate(device)
    update = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for tokens in args.tokens:
        line = measure(model, update, LARGE, tokens, args.clozes, args.rounds, args.attention, peak)
        print(json.dumps(line), flush=True)
    return 0


def random_model(values: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """The architecture with random weights, made on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values))
    finally:
        torch.set_default_dtype(before)


def random_clozes(values: dict[str, Any], tokens: int, clozes: int, seed: int = 0) -> Clozes:
    """Clozes that make a packed row of about so many tokens, half of them of images."""
    rng = np.random.default_rng(seed)
    side = max(1, math.isqrt(tokens // 2 // IMAGES))
    shown = IMAGES * side**2
    question = max(1, (tokens - shown) // clozes - ANSWER)
    words = values["text_config"]["vocab_size"] - 8  # the last are those of images
    pictures = tuple(Picture(np.zeros((1, 1, 3), np.uint8), bytes([number])) for number in range(IMAGES))
    images = np.concatenate([np.repeat(np.arange(IMAGES), side**2), np.full(question, -1)])
    encoded = []
    for _ in range(clozes):
        ids = np.concatenate([np.full(shown, values["image_token_id"]), rng.integers(words // 2, size=question)])
        positions = np.tile(np.arange(len(ids)), (3, 1))
        encoded.append(Encoded(Prompt(ids, positions, images), rng.integers(words // 2, size=ANSWER), pictures))
    return Clozes(tuple(encoded), (2 * side, 2 * side))


def images_of(values: dict[str, Any], grid: tuple[int, int], count: int) -> dict[str, torch.Tensor]:
    """Random pixels of so many images, as the vision tower takes them."""
    vision = values["vision_config"]
    size = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    patches = count * grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(patches, size, generator=generator),
        "image_grid_thw": torch.tensor([[1, *grid]] * count),
    }


def packed_batch(values: dict[str, Any], clozes: Clozes) -> tuple[Row, Batch]:
    """All clozes in one row."""
    row = pack(clozes.encoded)
    images = images_of(values, clozes.grid, IMAGES)
    return row, collate([row], [np.ones(len(row.targets))], [row.sample], images, 0)


def packed_step(model: Any, batch: Batch, update: torch.optim.Optimizer) -> float:
    """One update from a packed row; gives the loss per target."""
    loss = PackedLoss(model)(batch).mean()
    loss.backward()
    update.step()
    update.zero_grad()
    return float(loss.detach())


def stock_inputs(values: dict[str, Any], clozes: Clozes) -> list[dict[str, torch.Tensor]]:
    """Each cloze as the stock forward takes it."""
    images = images_of(values, clozes.grid, IMAGES)
    made = []
    for one in clozes.encoded:
        ids = torch.from_numpy(np.concatenate([one.prompt.ids, one.answer]))[None]
        labels = ids.clone()
        labels[:, : len(one.prompt.ids)] = -100
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        made.append({"input_ids": ids, "labels": labels, "position_ids": positions, **images})
    return made


def stock_step(model: Any, inputs: list[dict[str, torch.Tensor]], update: torch.optim.Optimizer) -> float:
    """One update from the stock forward, a sequence at a time; gives the loss per target."""
    total = 0.0
    for one in inputs:
        loss = model(**one, use_cache=False).loss / len(inputs)  # answers are of one length
        loss.backward()
        total += float(loss.detach())
    update.step()
    update.zero_grad()
    return total


def measure(
    model: Any,
    update: torch.optim.Optimizer,
    values: dict[str, Any],
    tokens: int,
    clozes: int,
    rounds: int,
    attention: str,
    peak: float,
) -> dict:
    """The line about rows of so many tokens."""
    device = model.device
    made = random_clozes(values, tokens, clozes)
    row, batch = packed_batch(values, made)
    batch = batch.to(device, model.dtype)
    inputs = [
        {name: t.to(device, model.dtype if t.is_floating_point() else None) for name, t in one.items()}
        for one in stock_inputs(values, made)
    ]
    model.train()
    if len(row.ids) >= CHECKPOINTED:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    names = {
        "ours": choose_attention(attention, device, model, packed=True),
        "theirs": choose_attention("auto", device, model, packed=False),
    }
    memory: dict[str, int] = {}

    def once(name: str) -> int:
        set_attention(model, names[name])
        torch.cuda.reset_peak_memory_stats()
        _ = packed_step(model, batch, update) if name == "ours" else stock_step(model, inputs, update)
        torch.cuda.synchronize()
        memory[name] = torch.cuda.max_memory_allocated()
        return clozes

    found = rates({"ours": lambda: once("ours"), "theirs": lambda: once("theirs")}, rounds, 0.0)
    useful, separate = operations(Cost.of(model), batch)
    bound = separate / useful
    seconds = clozes / statistics.median(found["ours"])
    what = f"clozes/s, Qwen2.5-VL 3B, {len(row.ids)} packed tokens, {clozes} clozes on {IMAGES} images"
    line = comparison(what, "stock_forward", found["ours"], found["theirs"], ("torch", "transformers"), bound)
    return {
        **line,
        "machine": torch.cuda.get_device_name(device),
        "attention": names,
        "step_seconds": seconds,
        "useful_tflops": useful / seconds / 1e12,
        "share_of_matmul": useful / seconds / peak,
        "peak_bytes": memory,
    }


def operations(cost: Cost, batch: Batch) -> tuple[int, int]:
    """Of a step on a packed batch, and on one sequence per cloze."""
    forward = (cost.operations(batch.work), cost.operations(batch.alone))
    return round(FORWARD_AND_BACKWARD * forward[0]), round(FORWARD_AND_BACKWARD * forward[1])


def matrix_rate(device: torch.device, repeats: int = 20) -> float:
    """Operations per second of a large product in half precision."""
    one, other = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.matmul(one, other)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(one, other)
    torch.cuda.synchronize()
    return repeats * 2 * MATRIX**3 / (time.perf_counter() - began)


def count(values: dict[str, Any], tokens: int, clozes: int) -> dict:
    """Operations of a step either way, and the formula's of the language model beside those counted."""
    model = random_model(values, torch.device("meta"), torch.bfloat16)
    cost = Cost.of(model)
    row, batch = packed_batch(values, random_clozes(values, tokens, clozes))
    ours, theirs = operations(cost, batch)
    return {
        "what": f"operations of a step, {len(row.ids)} packed tokens, {clozes} clozes on {IMAGES} images",
        "packed": ours,
        "separate": theirs,
        "sharing_bound": round(theirs / ours, 3),
        "language_by_formula": dense_language(cost, len(row.ids)),
        "language_counted": counted_language(model, len(row.ids)),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def dense_language(cost: Cost, tokens: int) -> int:
    """Forward operations of the language model over a row in which every token looks at every other."""
    return round(cost.token * tokens + cost.pair * tokens**2)


def counted_language(model: Any, tokens: int) -> int:
    """The same as torch counts it, on tensors without storage."""
    text = model.config.get_text_config()
    embedded = torch.empty(1, tokens, text.hidden_size, device="meta", dtype=model.dtype)
    mask = torch.empty(1, 1, tokens, tokens, device="meta", dtype=torch.bool)
    positions = torch.empty(3, 1, tokens, device="meta", dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
        )
    return counter.get_total_flops()


if __name__ == "__main__":
    sys.exit(main())

"""How much faster packed rows train than one sequence per cloze, beside what sharing can gain at most.

A group is K clozes about the frames of one trajectory, in the history layout (clozes after each frame, which see what
came before) or the single one (about some of its images). ``ours`` takes one optimizer step on packed rows; ``theirs``
takes the same step on one sequence per cloze, padded to batches, each with its own images. Prints one JSON line per
setting: clozes a second of both, their ratio and its spread over repetitions, and the bound, which is the floating
point operations of separate sequences over those of the packed rows (see ``vagen/policy/work.py``).

    python scripts/bench/packing.py --clozes 1 4 16 64 --layouts history single
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.cloze.build import build
from vagen.cloze.grammar import named, with_history
from vagen.cloze.sample import Sample, UnaskableError, imagined, simulator, window_at
from vagen.config import Tiny
from vagen.mdp import Trajectory
from vagen.policy import tiny
from vagen.policy.batches import encode_all
from vagen.policy.chat import Chat, Encoded
from vagen.policy.packing import Batch, PackedLoss, collate, distinct_pictures, pack
from vagen.policy.policy import ClozeFormat, Policy
from vagen.policy.towers import batch_tower
from vagen.policy.work import Cost
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.episodes import play

WORLD = "sokoban-6x6"
FRAMES = 4
#: Questions of few words and answers of one or two tokens, so that images dominate as in a real model.
ASKED = ("inverse_dynamics", "policy", "reward", "termination", "budget", "o0 a0 -> b1", "o0 a0 -> a1*", "o0 -> a0*?2")


def trajectories(number: int) -> list[Trajectory]:
    """Windows of four different frames and a transition beyond them, each of an episode of its own."""
    found = []
    world = simulator(WORLD)
    for episode in play(WORLD, MixtureAgent(0.2), range(8 * number), "train", 12):
        for start in range(len(episode) - FRAMES):
            window = window_at(episode, start, FRAMES + 1)
            if len(np.unique(world.render_states(window.snapshots[:FRAMES]), axis=0)) == FRAMES:
                found.append(window)
                break
    assert len(found) >= number, "too few episodes with four different frames"
    return found[:number]


def clozes(trajectory: Trajectory, number: int, layout: str) -> list[Sample]:
    """``number`` clozes about one trajectory, spread over its frames."""
    found = []
    for cloze in ASKED:
        pattern = named(cloze)
        for earlier in range(FRAMES - len(pattern.images) + 1):
            asked = with_history(pattern, earlier) if layout == "history" else pattern
            start = 0 if layout == "history" else earlier
            window = window_at(trajectory, start, asked.length)
            for variant in imagined(window) if pattern.dynamics and cloze != "inverse_dynamics" else (window,):
                try:
                    found.append(build(cloze, asked, variant, "grid"))
                except UnaskableError:
                    continue
    generator = np.random.default_rng(0)
    chosen = sorted(generator.permutation(len(found))[:number].tolist())
    if len(chosen) < number:
        raise ValueError(f"only {len(chosen)} clozes can be asked about a trajectory, not {number}")
    return [found[place] for place in chosen]


def policy(architecture: Any, side: int, hidden: int, layers: int) -> Chat:
    """A small model that makes ``side`` x ``side`` tokens of an image."""
    config = Tiny(
        architecture=architecture,
        image_size=48,
        patch_size=48 // side,
        merge=1,
        hidden_size=hidden,
        layers=layers,
        vision_hidden_size=hidden,
        vision_layers=layers,
    )
    model, processor = tiny.build(config, (WORLD,), 0)
    batch_tower(model)
    return Chat(Policy("bench", model.train(), processor, ClozeFormat("grid", False, (WORLD,))))


def batch_of(chat: Chat, rows: Sequence[Sequence[Encoded]]) -> Batch:
    packed = [pack(row) for row in rows]
    ones = [np.ones(len(row.targets)) for row in packed]
    cells = [np.zeros(len(row.targets), dtype=np.int64) for row in packed]
    images = chat.image_tensors(distinct_pictures(packed))
    return collate(packed, ones, cells, images, chat.tokenizer.pad_token_id or 0)


def unpacked_losses(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed loss of padded sequences, by the model's own causal forward."""
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def sequences(chat: Chat, samples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """One sequence per sample, padded on the right, every image as often as it is shown."""
    texts = [np.concatenate([sample.prompt.ids, sample.answer]) for sample in samples]
    length = max(map(len, texts))
    ids = np.full((len(texts), length), chat.tokenizer.pad_token_id or 0, dtype=np.int64)
    labels = np.full((len(texts), length), -100, dtype=np.int64)
    seen = np.zeros((len(texts), length), dtype=np.int64)
    types = np.zeros((len(texts), length), dtype=np.int32)
    for row, (text, sample) in enumerate(zip(texts, samples, strict=True)):
        ids[row, : len(text)], seen[row, : len(text)] = text, 1
        labels[row, len(sample.prompt.ids) : len(text)] = sample.answer
        types[row, : len(sample.prompt.ids)] = sample.prompt.image_of >= 0
    made: dict[str, NDArray[Any]] = {"input_ids": ids, "labels": labels, "attention_mask": seen}
    if hasattr(chat.policy.model.model, "get_rope_index"):
        made["mm_token_type_ids"] = types
    tensors = {name: torch.from_numpy(values) for name, values in made.items()}
    return tensors | chat.image_tensors([picture for sample in samples for picture in sample.pictures])


def seconds(step: Callable[[], object], repetitions: int) -> list[float]:
    """The time of each repetition, after one that is not counted."""
    step()
    found = []
    for _ in range(repetitions):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return found


def compare(chat: Chat, layout: str, number: int, groups: int, batch: int, repetitions: int) -> dict:
    """One setting: the same clozes packed and not, and how far their losses are apart."""
    model = chat.policy.model
    rows = [encode_all(chat, clozes(trajectory, number, layout)) for trajectory in trajectories(groups)]
    flat = sorted((sample for row in rows for sample in row), key=lambda sample: len(sample.prompt.ids))
    targets = sum(len(sample.answer) for sample in flat)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, foreach=True)
    packed_loss = PackedLoss(model)
    packed = batch_of(chat, rows)
    single = [sequences(chat, flat[start : start + batch]) for start in range(0, len(flat), batch)]
    losses: dict[str, float] = {}

    def ours() -> None:
        loss = packed_loss(packed).sum() / targets
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses["ours"] = loss.item()

    def theirs() -> None:
        total = 0.0
        for part in single:
            loss = unpacked_losses(model, dict(part)) / targets
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses["theirs"] = total

    times = {"ours": seconds(ours, repetitions), "theirs": seconds(theirs, repetitions)}
    ratios = [slow / fast for slow, fast in zip(times["theirs"], times["ours"], strict=True)]
    cost = Cost.of(model)
    bound = cost.operations(packed.alone) / cost.operations(packed.work)
    ratio = median(times["theirs"]) / median(times["ours"])
    images = {picture.digest for row in rows for sample in row for picture in sample.pictures}
    assert abs(losses["ours"] - losses["theirs"]) < 1e-4, f"the losses differ: {losses}"
    return {
        "what": f"cloze training step, {layout} layout",
        "peer": "own_unpacked",
        "ours": round(len(flat) / median(times["ours"]), 1),
        "theirs": round(len(flat) / median(times["theirs"]), 1),
        "ratio": round(ratio, 2),
        "ratio_spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "bound": round(ratio / bound, 3),
        "flops_ratio": round(bound, 2),
        "clozes": number,
        "groups": groups,
        "tokens": {"packed": packed.work.tokens, "padded": packed.ids.numel(), "alone": packed.alone.tokens},
        "images": {"packed": len(images), "alone": sum(len(sample.pictures) for sample in flat)},
        "tokens_per_image": packed.work.placeholders // len(images),
        "loss_difference": abs(losses["ours"] - losses["theirs"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clozes", type=int, nargs="+", default=[1, 4, 16], help="per trajectory")
    parser.add_argument("--layouts", nargs="+", default=["history", "single"], choices=["history", "single"])
    parser.add_argument("--architecture", default="idefics3", choices=["idefics3", "llava", "qwen2_5_vl", "qwen3_vl"])
    parser.add_argument("--side", type=int, default=8, help="tokens per side of an image")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--groups", type=int, default=8, help="trajectories per step")
    parser.add_argument("--batch", type=int, default=16, help="sequences per forward pass where nothing is packed")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    chat = policy(args.architecture, args.side, args.hidden, args.layers)
    for layout in args.layouts:
        for number in args.clozes:
            print(json.dumps(compare(chat, layout, number, args.groups, args.batch, args.repetitions)), flush=True)


if __name__ == "__main__":
    main()

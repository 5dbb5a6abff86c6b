"""Whether a policy's reasoning still depends on what it was written for: mutual information of prompts and reasonings.

Every reasoning is scored after every prompt (RAGEN-2, Wang et al. 2026), after prompts that differ in the images only,
and after prompts that differ in the text only. The measures themselves are those of :mod:`vagen.rl.diagnostics`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.data.examples import spread
from vagen.policy.chat import Chat, Encoded, Picture, Prompt
from vagen.policy.generate import score_encoded
from vagen.rl.diagnostics import bootstrap_interval, information, mutual_information, permutation_null
from vagen.rollout.responses import Tags
from vagen.rollout.turns import Turn

KEPT = ("mi_sequence", "mi_token_code", "mi_token_paper", "h_z_given_x", "h_z", "retrieval@1", "chance@1", "z_score")


def measure_collapse(chat: Chat, turns: Sequence[Turn], most: int) -> dict[str, float]:
    """Mutual information of up to ``most`` reasonings and their prompts, as ``mi/…``; nothing for fewer than two.

    Of responses without a reasoning, the whole response counts as it.
    """
    chosen = spread(turns, most)
    if len(chosen) < 2:
        return {}
    reasonings = [reasoning(chat, turn) for turn in chosen]
    lengths, own = torch.tensor([len(z) for z in reasonings]), torch.arange(len(chosen))
    both = _scores(chat, reasonings, [(turn.prompt, turn.pictures) for turn in chosen])
    values = mutual_information(both, lengths, own, _duplicates(chosen))
    found = {f"mi/{name}": values[name] for name in KEPT}
    interval = bootstrap_interval(information(both, lengths, own).sequence, own, seed=0)
    null = permutation_null(both, lengths, own, seed=0)
    found["mi/reasoning_tokens"] = float(lengths.double().mean())
    found |= {"mi/low": interval.low, "mi/high": interval.high, "mi/permuted": null.mean, "mi/p_value": null.p_value}
    if len({len(turn.pictures) for turn in chosen}) == 1 and len({_shapes(turn) for turn in chosen}) == 1:
        images = [
            _scores(chat, [z], _swapped(turn, chosen, images=True)) for z, turn in zip(reasonings, chosen, strict=True)
        ]
        found["mi/image"] = float(information(torch.cat(images), lengths, own).sequence.mean())
        texts = [
            _scores(chat, [z], _swapped(turn, chosen, images=False))
            for z, turn in zip(reasonings, chosen, strict=True)
        ]
        found["mi/text"] = float(information(torch.cat(texts), lengths, own).sequence.mean())
    return found


def reasoning(chat: Chat, turn: Turn) -> NDArray[np.int64]:
    """The tokens of a response before its answer; all of them where nothing comes before it."""
    opening = f"<{Tags().answer}"
    for end in range(len(turn.response)):
        if opening in chat.tokenizer.decode(turn.response[: end + 1].tolist()):
            before = chat.tokenizer.decode(turn.response[:end].tolist()).replace("<", "").strip()
            return turn.response[:end] if before else turn.response
    return turn.response


def _scores(
    chat: Chat, reasonings: Sequence[NDArray[np.int64]], prompts: Sequence[tuple[Prompt, Sequence[Picture]]]
) -> torch.Tensor:
    """(N, M) log-probability of each reasoning after each prompt; all reasonings share a prompt's row."""
    rows = [[Encoded(prompt, z, tuple(pictures)) for z in reasonings] for prompt, pictures in prompts]
    return torch.from_numpy(np.stack(score_encoded(chat, rows), axis=1))


def _swapped(turn: Turn, others: Sequence[Turn], images: bool) -> list[tuple[Prompt, Sequence[Picture]]]:
    """A turn's prompt with the images of each of the others, or their prompts with its images."""
    if images:
        return [(turn.prompt, other.pictures) for other in others]
    return [(other.prompt, turn.pictures) for other in others]


def _shapes(turn: Turn) -> tuple[tuple[int, ...], ...]:
    return tuple(picture.pixels.shape for picture in turn.pictures)


def _duplicates(turns: Sequence[Turn]) -> torch.Tensor:
    """(M,) the first turn with the same prompt."""
    first: dict[tuple, int] = {}
    keys = [(turn.prompt.ids.tobytes(), *(picture.digest for picture in turn.pictures)) for turn in turns]
    return torch.tensor([first.setdefault(key, number) for number, key in enumerate(keys)])

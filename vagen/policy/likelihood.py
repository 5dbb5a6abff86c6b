"""How likely a model is to say given answers: one forward pass over each prompt with all of them, no sampling.

The answers to one prompt share it by packing. Knows nothing about which answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.policy.chat import Chat, Encoded, Picture, Prompt
from vagen.policy.packing import PackedLoss, Row, collate, distinct_pictures, pack


@torch.inference_mode()
def log_probabilities(
    chat: Chat,
    prompts: Sequence[tuple[Prompt, Sequence[Picture]]],
    answers: Sequence[Sequence[str]],
    rows: int = 16,
) -> list[NDArray[np.float64]]:
    """The log-probability, in nats, of each answer with the end of its turn; ``answers[i]`` are to ``prompts[i]``.

    Args:
        prompts: each a prompt and its images.
        answers: no two to one prompt alike.
        rows: prompts per forward pass.
    """
    packed = [
        pack([Encoded(prompt, chat.answer_tokens(answer), tuple(pictures)) for answer in said])
        for (prompt, pictures), said in zip(prompts, answers, strict=True)
    ]
    order = sorted(range(len(packed)), key=lambda index: len(packed[index].ids))  # alike lengths: little padding
    result: list[NDArray[np.float64]] = [np.zeros(0)] * len(packed)
    model = chat.policy.model
    was_training = model.training
    model.eval()
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        for index, found in zip(chosen, _of_rows(chat, [packed[i] for i in chosen]), strict=True):
            result[index] = found
    model.train(was_training)
    return result


def _of_rows(chat: Chat, rows: Sequence[Row]) -> list[NDArray[np.float64]]:
    counts = [len(row.targets) for row in rows]
    weights, cells = [np.ones(n) for n in counts], [np.zeros(n, dtype=np.int64) for n in counts]
    images = chat.image_tensors(distinct_pictures(rows))
    batch = collate(rows, weights, cells, images, chat.tokenizer.pad_token_id or 0)
    losses = PackedLoss(chat.policy.model)(batch.to(chat.policy.device, chat.policy.model.dtype))
    by_row = np.split(losses.double().cpu().numpy(), np.cumsum(counts)[:-1])
    totals = [np.zeros(row.samples) for row in rows]
    for total, row, loss in zip(totals, rows, by_row, strict=True):
        np.subtract.at(total, row.sample, loss)
    return totals

"""Answers by free generation, many prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from vagen.policy.chat import Chat, Picture, Prompt


@torch.inference_mode()
def generate(
    chat: Chat,
    prompts: Sequence[tuple[Prompt, Sequence[Picture]]],
    max_new_tokens: int,
    batch: int = 128,
    progress: Callable[[int], object] = lambda done: None,
) -> list[str]:
    """Greedy answers to prompts, in their order.

    Args:
        prompts: each a prompt and its images.
        max_new_tokens: where an answer is cut if its turn has not ended.
        batch: prompts per forward pass.
        progress: called with the number of prompts finished in each batch.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index][0].ids))  # alike lengths: little padding
    answers = [""] * len(prompts)
    was_training = chat.policy.model.training
    chat.policy.model.eval()
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for index, answer in zip(
            chosen, _generate_batch(chat, [prompts[i] for i in chosen], max_new_tokens), strict=True
        ):
            answers[index] = answer
        progress(len(chosen))
    chat.policy.model.train(was_training)
    return answers


def _generate_batch(chat: Chat, prompts: Sequence[tuple[Prompt, Sequence[Picture]]], max_new_tokens: int) -> list[str]:
    policy = chat.policy
    length = max(len(prompt.ids) for prompt, _ in prompts)
    pad = chat.tokenizer.pad_token_id or 0
    ids = np.full((len(prompts), length), pad, dtype=np.int64)
    real = np.zeros((len(prompts), length), dtype=np.int64)
    types = np.zeros((len(prompts), length), dtype=np.int32)
    for row, (prompt, _) in enumerate(prompts):  # padding goes on the left, where generation expects it
        ids[row, length - len(prompt.ids) :] = prompt.ids
        real[row, length - len(prompt.ids) :] = 1
        types[row, length - len(prompt.ids) :] = prompt.image_of >= 0
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(real)}
    inputs |= chat.image_tensors([picture for _, pictures in prompts for picture in pictures])
    if hasattr(policy.model.model, "get_rope_index"):
        inputs["mm_token_type_ids"] = torch.from_numpy(types)
    inputs = {
        name: tensor.to(policy.device, policy.model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }
    output = policy.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(chat.end_tokens),
        pad_token_id=pad,
        suppress_tokens=[chat.image_token],
    )
    return [chat.decode(row) for row in output[:, length:].tolist()]

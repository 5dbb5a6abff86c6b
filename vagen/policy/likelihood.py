"""How likely a model is to say given answers: one forward pass over each prompt with all of them, no sampling.

The answers to one prompt share it by packing, and prompts share what they begin with. Knows nothing about which
answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vagen.policy.chat import Chat, Picture, Prompt
from vagen.policy.generate import score_answers
from vagen.policy.prefixes import batches


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
    result: list[NDArray[np.float64]] = [np.zeros(0)] * len(prompts)
    for together in batches(prompts, rows):
        chosen = [index for row in together for index in row.prompts]
        scored = score_answers(chat, [prompts[i] for i in chosen], [answers[i] for i in chosen])
        for index, found in zip(chosen, scored, strict=True):
            result[index] = found
    return result

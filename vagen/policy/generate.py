"""Answers by generation, many prompts at a time, and the log-probabilities of given answers.

Prompts that begin alike share what they begin with where the model allows it (:mod:`vagen.policy.prefixes`); elsewhere
``transformers`` generates, each prompt for itself, the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor

from vagen.policy.chat import Chat, Encoded
from vagen.policy.constrain import Automaton, ConstrainedLogits
from vagen.policy.packing import Asked as Asked
from vagen.policy.packing import PackedLoss, even_batch, pack
from vagen.policy.prefixes import Writing, common_rows, side_by_side, why_not_shared, write_shared

# What a model's own generation configuration may say and greedy decoding must not do: a penalty for repetition, as in
# Qwen2.5-VL's, would make a board of equal cells impossible to write.
_PLAIN = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


@dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        text: what was written, up to the end of the turn.
        tokens: (T,) its tokens; the last one ends the turn, unless the answer was cut.
        log_probs: (T,) the model's log-probability of each in nats, over its whole vocabulary, whatever was ruled out.
    """

    text: str
    tokens: NDArray[np.int64]
    log_probs: NDArray[np.float64]


def generate(
    chat: Chat,
    prompts: Sequence[Asked],
    max_new_tokens: int | Sequence[int],
    batch: int = 128,
    progress: Callable[[int], object] = lambda done: None,
    automata: Sequence[Automaton] | None = None,
) -> list[str]:
    """Greedy answers to prompts, in their order.

    Args:
        prompts: each a prompt and its images.
        max_new_tokens: where an answer is cut if its turn has not ended, of all or of each; not used with
            ``automata``.
        batch: prompts per forward pass.
        progress: called with the number of prompts finished in each batch.
        automata: for each prompt, which answers are valid. Only those can then be given, and none is cut.
    """
    return [answer.text for answer in generate_scored(chat, prompts, max_new_tokens, batch, progress, automata)]


def generate_scored(
    chat: Chat,
    prompts: Sequence[Asked],
    max_new_tokens: int | Sequence[int],
    batch: int = 128,
    progress: Callable[[int], object] = lambda done: None,
    automata: Sequence[Automaton] | None = None,
) -> list[Answer]:
    """As :func:`generate`, with the tokens and their log-probabilities."""
    write = _write_plain if why_not_shared(chat.policy.model) else write_shared
    return _answers(chat, prompts, _blank(len(prompts), max_new_tokens, automata), batch, progress, write)


def generate_plain(
    chat: Chat,
    prompts: Sequence[Asked],
    max_new_tokens: int | Sequence[int],
    batch: int = 128,
    automata: Sequence[Automaton] | None = None,
) -> list[Answer]:
    """As :func:`generate_scored`, always by ``transformers``: what shared prefixes are measured against."""
    blank = _blank(len(prompts), max_new_tokens, automata)
    return _answers(chat, prompts, blank, batch, lambda done: None, _write_plain)


def score_answers(chat: Chat, prompts: Sequence[Asked], answers: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
    """Log-probabilities of whole answers, ends of turns included, in one forward pass.

    The answers to a prompt share it, and prompts share what they begin with: see :mod:`vagen.policy.packing`.

    Args:
        answers: for each prompt, one or more answers.

    Returns:
        For each prompt, one log-probability in nats per answer.
    """
    together = [[index for row in rows for index in row.prompts] for rows in side_by_side(common_rows(prompts))]
    rows = []
    for row in together:
        texts = [(prompts[index], text) for index in row for text in answers[index]]
        rows.append([Encoded(prompt, chat.answer_tokens(text), tuple(shown)) for (prompt, shown), text in texts])
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(prompts)
    for row, sums in zip(together, score_encoded(chat, rows), strict=True):
        ends = np.cumsum([len(answers[index]) for index in row])
        for index, own in zip(row, np.split(sums, ends[:-1]), strict=True):
            found[index] = own
    return found


@torch.inference_mode()
def score_encoded(chat: Chat, samples: Sequence[Sequence[Encoded]]) -> list[NDArray[np.float64]]:
    """Log-probabilities, in nats, of the answers of samples, in one forward pass with a row for each list of them."""
    rows = [pack(row) for row in samples]
    model = chat.policy.model
    was_training = model.training
    model.eval()
    losses = PackedLoss(model)(even_batch(chat, rows).to(chat.policy.device, model.dtype)).double().cpu().numpy()
    model.train(was_training)
    parts = np.split(losses, np.cumsum([len(row.targets) for row in rows])[:-1])
    return [
        -np.bincount(row.sample, part, row.samples).astype(np.float64) for row, part in zip(rows, parts, strict=True)
    ]


def score_choices(chat: Chat, asked: Asked, answers: Sequence[str]) -> NDArray[np.float64]:
    """Log-probabilities (in nats) of a few possible answers to one prompt; see :func:`score_answers`."""
    return score_answers(chat, [asked], [answers])[0]


def _blank(count: int, limits: int | Sequence[int], automata: Sequence[Automaton] | None) -> list[Writing]:
    """Answers of which nothing is written."""
    if automata is not None:
        return [Writing(automaton.longest, automaton) for automaton in automata]
    return [Writing(limit) for limit in ([limits] * count if isinstance(limits, int) else limits)]


def _answers(
    chat: Chat,
    prompts: Sequence[Asked],
    blank: Sequence[Writing],
    batch: int,
    progress: Callable[[int], object],
    write: Callable[[Chat, Sequence[Asked], Sequence[Writing], int, Callable[[int], object]], None],
) -> list[Answer]:
    """What is written into blank answers, by a model that is left as it was."""
    model = chat.policy.model
    was_training = model.training
    model.eval()
    write(chat, prompts, blank, batch, progress)
    model.train(was_training)
    return [
        Answer(chat.decode(answer.tokens), np.array(answer.tokens, np.int64), np.array(answer.log_probs, np.float64))
        for answer in blank
    ]


@torch.inference_mode()
def _write_plain(
    chat: Chat,
    prompts: Sequence[Asked],
    answers: Sequence[Writing],
    batch: int,
    progress: Callable[[int], object],
) -> None:
    """As :func:`vagen.policy.prefixes.write_shared`, by ``transformers`` and without sharing."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index][0].ids))  # alike lengths: little padding
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        _write_batch(chat, [prompts[index] for index in chosen], [answers[index] for index in chosen])
        progress(len(chosen))


def _write_batch(chat: Chat, prompts: Sequence[Asked], answers: Sequence[Writing]) -> None:
    inputs = _inputs(chat, prompts)
    length = inputs["input_ids"].shape[1]
    recorder = _LogProbs()
    processors = [recorder, SuppressTokensLogitsProcessor(list(chat.banned), device=str(chat.policy.device))]
    if automata := [answer.automaton for answer in answers if answer.automaton is not None]:
        processors.append(ConstrainedLogits(automata, length))
    output = chat.policy.model.generate(
        **inputs,
        **_PLAIN,
        max_new_tokens=max(answer.limit for answer in answers),
        eos_token_id=sorted(chat.end_tokens),
        pad_token_id=chat.pad,
        logits_processor=LogitsProcessorList(processors),
    )
    written, log_probs = output[:, length:].cpu().numpy(), recorder.finish(output)
    for answer, tokens, logs in zip(answers, written, log_probs, strict=True):
        ends = np.flatnonzero(np.isin(tokens, list(chat.end_tokens)))
        stop = min(int(ends[0]) + 1 if len(ends) else len(tokens), answer.limit)
        for token, log_prob in zip(tokens[:stop].tolist(), logs[:stop].tolist(), strict=True):
            answer.write(token, log_prob)


def _inputs(chat: Chat, prompts: Sequence[Asked]) -> dict[str, torch.Tensor]:
    policy = chat.policy
    length = max(len(prompt.ids) for prompt, _ in prompts)
    ids = np.full((len(prompts), length), chat.pad, dtype=np.int64)
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
    return {
        name: tensor.to(policy.device, policy.model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


class _LogProbs(LogitsProcessor):
    """Notes the log-probability of each token that is chosen, and changes nothing; comes before those that do."""

    def __init__(self) -> None:
        self._last: torch.Tensor | None = None  # (B, V) of the step whose token is not known yet
        self._noted: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._note(input_ids)
        self._last = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
        return scores

    def finish(self, output: torch.Tensor) -> NDArray[np.float64]:
        """(B, T) log-probabilities of all tokens generated."""
        self._note(output)
        return torch.stack(self._noted, 1).double().cpu().numpy()

    def _note(self, ids: torch.Tensor) -> None:
        if self._last is not None:
            self._noted.append(self._last.gather(1, ids[:, -1:])[:, 0])

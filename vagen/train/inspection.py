"""``vagen inspect``: what a training row really is, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vagen.cloze.sample import Sample
from vagen.config import Config
from vagen.data.examples import Example
from vagen.files import ensure_folder
from vagen.policy.batches import answer_weights, encode_all
from vagen.policy.chat import Chat
from vagen.policy.packing import Row, pack
from vagen.policy.policy import create
from vagen.train.run import cloze_format, open_stream


def inspect_group(config: Config, number: int, output: Path | None = None) -> str:
    """Describe group ``number`` of a run's stream: its clozes, and the packed row they become.

    Args:
        output: a folder that gets the row's images as PNG files.
    """
    stream = open_stream(config)
    form = cloze_format(config, stream.worlds, stream.patterns)
    chat = Chat(create(config.model, form, config.seed, words=stream.words))
    group = stream.group(number)
    row = pack(encode_all(chat, group.samples))
    weights = answer_weights(chat, stream, config.train.balance)[row.targets] * np.asarray(group.weights)[row.sample]
    if output is not None:
        ensure_folder(output)
        for index, picture in enumerate(row.pictures):
            Image.fromarray(picture.pixels).save(output / f"image-{index}.png")
    lines = [_heading(number, group.samples), ""]
    for index, sample in enumerate(group.samples):
        lines.append(f"{_what(sample, index)}  weight {group.weights[index]:g}")
        lines.append(f"    question {sample.question!r}  images {len(sample.images)}")
        chosen = row.sample == index
        lines.append(f"    trained  {_trained(chat, row.targets[chosen], weights[chosen])}")
    lines += ["", f"packed row: {len(row.ids)} tokens for {row.unpacked} unpacked, {len(row.pictures)} images", ""]
    lines += [
        "A token sees what its segment sees, and the tokens of its own segment up to itself. From the tokens in",
        "[brackets] a trained token is predicted. token×weight: loss weight; Ġ: a space before; Ċ: a new line.",
        "",
    ]
    return "\n".join(lines + _segments(chat, row))


def _heading(number: int, samples: Sequence[Sample | Example]) -> str:
    first = samples[0]
    if isinstance(first, Example):
        return f"group {number}: {len(samples)} questions about {len(first.images)} images"
    return f"group {number}: {len(samples)} clozes about one window of {first.window.world}"


def _what(sample: Sample | Example, index: int) -> str:
    if isinstance(sample, Example):
        return f"question {index}  {sample.task}"
    return f"cloze {index}  {sample.name}  {sample.pattern}"


def _trained(chat: Chat, targets: NDArray[np.int64], weights: NDArray[np.float64]) -> str:
    """The tokens that get loss, each with its weight behind a sign that no token of plain text has."""
    words = chat.tokenizer.convert_ids_to_tokens(targets.tolist())
    return " ".join(f"{word}×{weight:.2g}" for word, weight in zip(words, weights, strict=True))


def _segments(chat: Chat, row: Row) -> list[str]:
    """The row as runs of tokens that follow each other directly, with what each run sees."""
    starts = [c for c in range(len(row.ids)) if c == 0 or not _follows(row, c)]
    bounds = list(zip(starts, [*starts[1:], len(row.ids)], strict=True))
    predicting = set(row.sources.tolist())
    lines = []
    for name, (start, stop) in enumerate(bounds):
        parts = [
            f"{other} up to column {first + int(np.flatnonzero(row.mask[start, first:last])[-1])}"
            for other, (first, last) in enumerate(bounds[:name])
            if row.mask[start, first]
        ]
        positions = row.positions[:, start:stop]
        lines.append(
            f"segment {name}: columns {start}-{stop - 1}, positions {positions.min()}-{positions.max()}, "
            f"sees {' and '.join(parts) or 'itself only'}"
        )
        lines.append(f"    {_tokens(chat, row, range(start, stop), predicting)}")
    return lines


def _follows(row: Row, column: int) -> bool:
    """Whether a token's parent in the trie is the token before it, and that one has no other child."""
    before = column - 1
    children = np.flatnonzero((row.mask.sum(1) == row.mask[before].sum() + 1) & row.mask[:, before])
    return bool(row.mask[column, before]) and len(children) == 1


def _tokens(chat: Chat, row: Row, columns: range, predicting: set[int]) -> str:
    """Tokens as text, runs of image placeholders as one word."""
    words: list[str] = []
    placeholders = 0
    for column in columns:
        if row.ids[column] == chat.image_token:
            placeholders += 1
            continue
        if placeholders:
            words.append(f"<{placeholders} image tokens>")
            placeholders = 0
        word = chat.tokenizer.convert_ids_to_tokens([int(row.ids[column])])[0]
        words.append(f"[{word}]" if column in predicting else word)
    if placeholders:
        words.append(f"<{placeholders} image tokens>")
    return " ".join(words)

"""From groups of clozes to packed batches: frames drawn once, tokens shared, answer tokens weighted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.cloze.sample import Sample, window_at
from vagen.data.examples import Example, read_image
from vagen.data.frames import draw_images
from vagen.data.questions import TrainingStream
from vagen.data.stream import ClozeStream, Group
from vagen.policy.chat import Chat, Encoded, Picture
from vagen.policy.packing import Batch, Row, collate, distinct_pictures, pack

GROUPS_COUNTED = 512  # groups whose answers decide the token weights


def draw(samples: Iterable[Sample | Example]) -> list[list[Picture]]:
    """The pictures of each sample; snapshots that are the same object are drawn once, a world's all in one go.

    Frames that a trajectory stores are decoded instead, and files are read, each once.
    """
    of_world: defaultdict[str, list[Sample]] = defaultdict(list)
    files: dict[Path, Picture] = {}
    for sample in (samples := list(samples)):
        if isinstance(sample, Example):
            files |= {path: Picture.of(read_image(path)) for path in sample.images if path not in files}
        else:
            of_world[sample.window.world].append(sample)
    drawn: dict[int, Picture] = {}
    for world, theirs in of_world.items():
        drawn |= {key: Picture.of(frame) for key, frame in draw_images(world, theirs).items()}
    return [
        [files[path] for path in sample.images]
        if isinstance(sample, Example)
        else [drawn[id(snapshot)] for snapshot in sample.images]
        for sample in samples
    ]


def token_weights(answers: Iterable[NDArray[np.int64]], vocabulary: int, balance: float) -> NDArray[np.float64]:
    """A loss weight per token id, so that the few tokens that carry the news are not drowned by the many that do not.

    The weight is the token's frequency among answers to the power ``-balance`` (0: all alike, 1: every token type
    counts the same in total), scaled so that the mean weight of an answer token is 1. Tokens never seen get the
    weight of one seen once. Class-balanced weighting as in Mahajan et al. 2018 (square root for ``balance`` 0.5).
    """
    counts = np.zeros(vocabulary)
    for answer in answers:
        np.add.at(counts, answer, 1)
    weights = np.maximum(counts, 1.0) ** -balance
    return weights * counts.sum() / (counts * weights).sum()


def answer_weights(chat: Chat, stream: ClozeStream | TrainingStream, balance: float) -> NDArray[np.float64]:
    """The token weights of a stream, from the answers of its first groups."""
    groups = map(stream.group, range(GROUPS_COUNTED))
    answers = (chat.answer_tokens(sample.answer) for group in groups for sample in group.samples)
    return token_weights(answers, len(chat.tokenizer), balance)


class Batcher:
    """Packs groups for one policy.

    Args:
        chat: the policy's prompts.
        weights: (vocabulary,) loss weight per answer token; see :func:`token_weights`.
        cells: the (world, cloze) or (``questions``, task) pairs that metrics are kept for, in order.
    """

    def __init__(self, chat: Chat, weights: NDArray[np.float64], cells: Sequence[tuple[str, str]]):
        self.chat = chat
        self.weights = weights
        self._cell = {cell: number for number, cell in enumerate(cells)}

    def batch(self, groups: Sequence[Group]) -> Batch:
        """One packed row per group."""
        samples = [sample for group in groups for sample in group.samples]
        pictures = iter(draw(samples))
        encoded = [[self.chat.encode(sample, next(pictures)) for sample in group.samples] for group in groups]
        rows = [pack(row) for row in encoded]
        weights = [self._weights(row, group) for row, group in zip(rows, groups, strict=True)]
        cells = [self._cells(row, group) for row, group in zip(rows, groups, strict=True)]
        if not any(row.pictures for row in rows):
            rows.append(self._dummy(next(sample for sample in samples if isinstance(sample, Sample))))
            weights.append(np.zeros(0))
            cells.append(np.zeros(0, dtype=np.int64))
        images = self.chat.image_tensors(distinct_pictures(rows))
        return collate(rows, weights, cells, images, self.chat.tokenizer.pad_token_id or 0)

    def _dummy(self, sample: Sample) -> Row:
        """A row with an image and without targets: a rank that leaves out the vision tower keeps ZeRO waiting."""
        window = window_at(sample.window, 0, 0)
        seen = build("state_estimation", named("state_estimation"), window, sample.representation, with_answer=False)
        return pack(encode_all(self.chat, [seen])).without_targets()

    def _weights(self, row: Row, group: Group) -> NDArray[np.float64]:
        return np.asarray(group.weights)[row.sample] * self.weights[row.targets]

    def _cells(self, row: Row, group: Group) -> NDArray[np.int64]:
        cells = [self._cell[sample.cell] for sample in group.samples]
        return np.asarray(cells, dtype=np.int64)[row.sample]


def encode_all(chat: Chat, samples: Sequence[Sample | Example]) -> list[Encoded]:
    """Samples as tokens, their images drawn from their own snapshots or read."""
    return [chat.encode(sample, pictures) for sample, pictures in zip(samples, draw(samples), strict=True)]

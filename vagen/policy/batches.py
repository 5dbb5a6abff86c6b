"""From groups of clozes to packed batches: frames drawn once, tokens shared, answer tokens weighted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from vagen.policy.planning import plan

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
    """The token weights of a stream, from the answers of its first groups, of tasks that begin later too."""
    group = stream.whole_group if isinstance(stream, TrainingStream) else stream.group
    return weights_of(chat, map(group, range(GROUPS_COUNTED)), balance)


def weights_of(chat: Chat, groups: Iterable[Group[Any]], balance: float) -> NDArray[np.float64]:
    """The token weights of the answers of some groups; see :func:`token_weights`."""
    answers = (chat.answer_tokens(sample.answer) for group in groups for sample in group.samples)
    return token_weights(answers, len(chat.tokenizer), balance)


@dataclass(frozen=True)
class _Item:
    """A sample as tokens, with what its loss counts."""

    sample: Sample | Example
    weight: float
    encoded: Encoded


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
        items = self._items(groups)
        return self._batch(items, items[0][0])

    def planned(self, groups: Sequence[Group], row_tokens: int, micro_rows: int, rank: int, ranks: int) -> list[Batch]:
        """The forward passes of one process over the groups of a step; see :func:`vagen.policy.planning.plan`.

        Args:
            groups: of all processes.
        """
        items = self._items(groups)
        rows = plan([[item.encoded for item in group] for group in items], row_tokens, micro_rows, ranks)[rank]
        flat = [item for group in items for item in group]
        spare = next((item for item in flat if item.encoded.pictures), flat[0])
        return [self._batch([[flat[number] for number in row] for row in batch if row], spare) for batch in rows]

    def _items(self, groups: Sequence[Group]) -> list[list[_Item]]:
        encoded = iter(encode_all(self.chat, [sample for group in groups for sample in group.samples]))
        return [
            [_Item(sample, weight, next(encoded)) for sample, weight in zip(group.samples, group.weights, strict=True)]
            for group in groups
        ]

    def _batch(self, items: Sequence[Sequence[_Item]], spare: _Item) -> Batch:
        """Rows of samples; where they show no image, with one of ``spare``, which counts for nothing."""
        rows = [pack([item.encoded for item in row]) for row in items]
        weights = [self._weights(row, own) for row, own in zip(rows, items, strict=True)]
        cells = [self._cells(row, own) for row, own in zip(rows, items, strict=True)]
        if not any(row.pictures for row in rows):
            rows.append(self._dummy(spare))
            weights.append(np.zeros(0))
            cells.append(np.zeros(0, dtype=np.int64))
        images = self.chat.image_tensors(distinct_pictures(rows))
        return collate(rows, weights, cells, images, self.chat.pad)

    def _dummy(self, spare: _Item) -> Row:
        """A row with an image and without targets: a rank that leaves out the vision tower keeps ZeRO waiting."""
        if spare.encoded.pictures:
            return pack([spare.encoded]).without_targets()
        assert isinstance(spare.sample, Sample), "examples from files have images"
        window = window_at(spare.sample.window, 0, 0)
        form = spare.sample.representation
        seen = build("state_estimation", named("state_estimation"), window, form, with_answer=False)
        return pack(encode_all(self.chat, [seen])).without_targets()

    def _weights(self, row: Row, items: Sequence[_Item]) -> NDArray[np.float64]:
        return np.asarray([item.weight for item in items])[row.sample] * self.weights[row.targets]

    def _cells(self, row: Row, items: Sequence[_Item]) -> NDArray[np.int64]:
        cells = [self._cell[item.sample.cell] for item in items]
        return np.asarray(cells, dtype=np.int64)[row.sample]


def encode_all(chat: Chat, samples: Sequence[Sample | Example]) -> list[Encoded]:
    """Samples as tokens, their images drawn from their own snapshots or read."""
    shown = list(zip(samples, draw(samples), strict=True))
    chat.read_ahead([(sample, pictures) for sample, pictures in shown if isinstance(sample, Sample)])
    return [chat.encode(sample, pictures) for sample, pictures in shown]

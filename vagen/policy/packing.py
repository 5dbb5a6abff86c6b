"""Prefix-shared packing: clozes about the same images share them, with the losses they would have alone.

A row is a trie of tokens. Samples that begin with the same tokens (and the same images under the placeholders) share
those nodes; each token attends to its ancestors only and has the position it would have alone. So a row computes the
same function as one sequence per sample, at a fraction of the tokens. An image that stands in several places of a
batch, after other tokens or in other rows, goes through the vision tower once.

This module knows nothing about attention kernels: it says what is where, and who may see whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.policy.attention import attention_mask, attention_of, check_packable, packed_attention
from vagen.policy.chat import Chat, Encoded, Picture, Prompt, common_start
from vagen.policy.loss import cross_entropy
from vagen.policy.work import Work

#: Gives a context that counts its time as that of a phase.
Timed = Callable[[str], AbstractContextManager[object]]
Asked = tuple[Prompt, Sequence[Picture]]  # a prompt and its images
_FIRST_IMAGE = 1 << 32  # above all token ids


@dataclass(frozen=True)
class Row:
    """One packed row of L tokens.

    Attributes:
        ids: (L,) token ids.
        positions: (P, L) position ids.
        ends: (L,) the first column after a token and its descendants: these, and no others, may attend to it.
        pictures: the distinct images, in the order in which they first appear.
        image_of: (L,) which of the pictures a placeholder stands for, -1 elsewhere.
        place: (L,) which of its image's placeholders it is, 0 elsewhere.
        sources: (N,) column whose output predicts a target.
        targets: (N,) token to predict there; a column may have several.
        sample: (N,) which sample a target belongs to.
        samples: how many samples there are.
        alone: what there would be to compute for the samples one by one.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    ends: NDArray[np.int64]
    pictures: tuple[Picture, ...]
    image_of: NDArray[np.int64]
    place: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    sample: NDArray[np.int64]
    samples: int
    alone: Work

    @property
    def unpacked(self) -> int:
        """Tokens the samples would have had one by one."""
        return self.alone.tokens

    @property
    def work(self) -> Work:
        """What there is to compute for the row, but for its images."""
        return Work(len(self.ids), int((self.ends - np.arange(len(self.ids))).sum()), len(self.targets))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(L, L) True where the row's token may attend to the column's."""
        columns = np.arange(len(self.ids))
        return (columns[None] <= columns[:, None]) & (columns[:, None] < self.ends[None])

    def without_targets(self) -> Row:
        """The same tokens with nothing to predict."""
        none = np.zeros(0, dtype=np.int64)
        return replace(self, sources=none, targets=none, sample=none, samples=0, alone=Work())


@dataclass(frozen=True)
class Batch:
    """B rows padded to L tokens, as tensors.

    Attributes:
        ids: (B, L).
        positions: (B, L), or (3, B, L) for multimodal rotary positions.
        ends: (B, L) the first column after a token and its descendants; padding sees itself only.
        images: keyword arguments of the model's vision tower, for the distinct images of the batch.
        features: (T,) for every placeholder, row by row, which of the vision tower's outputs stands there; the outputs
            of all images are counted through.
        sources: (N,) index into the B * L outputs.
        targets: (N,) token ids.
        weights: (N,) loss weights.
        cells: (N,) which cell of the metrics (a world and a cloze) a target counts for.
        work: what there is to compute, each distinct image once.
        alone: what there would be to compute for the samples one by one, each with its images.
        samples: how many samples there are.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    images: dict[str, torch.Tensor]
    features: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    cells: torch.Tensor
    work: Work
    alone: Work
    samples: int

    @property
    def unpacked(self) -> int:
        """Tokens the samples would have had one by one."""
        return self.alone.tokens

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to a device; pixels take the model's floating point type."""
        images = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.images.items()
        }
        names = ("ids", "positions", "ends", "features", "sources", "targets", "weights", "cells")
        return replace(self, images=images, **{name: getattr(self, name).to(device) for name in names})


def pack(samples: Sequence[Encoded]) -> Row:
    """Merge samples into one row."""
    texts = [_read(sample) for sample in samples]
    contents = contents_of([(text, sample.pictures) for text, sample in zip(texts, samples, strict=True)])
    columns, own, ends = _lay_out(contents)
    content = np.concatenate([contents[number][start:] for number, start in own])
    image_of, pictures = _shown(content, [picture for sample in samples for picture in sample.pictures])
    asked = [columns[n][len(sample.prompt.ids) - 1 :] for n, sample in enumerate(samples)]
    return Row(
        ids=np.concatenate([texts[number].ids[start:] for number, start in own]),
        positions=np.concatenate([texts[number].positions[:, start:] for number, start in own], axis=1),
        ends=ends,
        pictures=pictures,
        image_of=image_of,
        place=np.concatenate([_places(samples[number])[start:] for number, start in own]),
        sources=np.concatenate(asked),
        targets=np.concatenate([sample.answer for sample in samples]),
        sample=np.repeat(np.arange(len(samples)), [len(sample.answer) for sample in samples]),
        samples=len(samples),
        alone=sum(map(_alone, samples), Work()),
    )


def contents_of(prompts: Sequence[Asked]) -> list[NDArray[Any]]:
    """What stands where in each prompt: (L,) numbers, equal for equal tokens and images, whose bytes can be sorted.

    Placeholders are above all token ids, in the order in which distinct images come.
    """
    numbers: dict[bytes, int] = {}
    found = []
    for prompt, pictures in prompts:
        own = [_FIRST_IMAGE + numbers.setdefault(picture.digest, len(numbers)) for picture in pictures]
        shown = prompt.image_of >= 0
        content = prompt.ids.copy()
        content[shown] = np.asarray(own, dtype=np.int64)[prompt.image_of[shown]]
        found.append(content.astype(">i8"))
    return found


def in_order(contents: Sequence[NDArray[Any]]) -> list[int]:
    """The numbers of contents, sorted: what begins alike stands together, and shares most with its neighbours."""
    return sorted(range(len(contents)), key=lambda number: contents[number].tobytes())


def _lay_out(
    contents: Sequence[NDArray[Any]],
) -> tuple[list[NDArray[np.int64]], list[tuple[int, int]], NDArray[np.int64]]:
    """Where everything stands in a row of contents that share what they begin with alike.

    In their order, each shares with all before it what it shares with the one before it, and whatever the next one
    does not share has no more descendants.

    Returns:
        The columns of each content; in the row's order, which content, and from where on it is new; and for each
        column the first one after it and its descendants.
    """
    columns = [np.zeros(0, dtype=np.int64)] * len(contents)
    own: list[tuple[int, int]] = []
    ends = np.zeros(sum(map(len, contents)), dtype=np.int64)
    length, path = 0, columns[0]
    for number in in_order(contents):
        shared = common_start(contents[own[-1][0]], contents[number]) if own else 0
        ends[path[shared:]] = length
        new = np.arange(length, length + len(contents[number]) - shared)
        path = columns[number] = np.concatenate([path[:shared], new])
        length += len(new)
        own.append((number, shared))
    ends[path] = length
    return columns, own, ends[:length]


def _read(sample: Encoded) -> Prompt:
    """What a model reads of a sample: the prompt, and of the answer all but the last token."""
    prompt, written = sample.prompt, sample.answer[:-1]
    after = int(prompt.positions.max()) + 1 + np.arange(len(written))
    return Prompt(
        ids=np.concatenate([prompt.ids, written]),
        positions=np.concatenate([prompt.positions, np.tile(after, (len(prompt.positions), 1))], axis=1),
        image_of=np.concatenate([prompt.image_of, np.full(len(written), -1)]),
    )


def _shown(content: NDArray[Any], pictures: Sequence[Picture]) -> tuple[NDArray[np.int64], tuple[Picture, ...]]:
    """Which image each token of a row stands for, and the distinct ones in the order in which they first appear."""
    distinct = list({picture.digest: picture for picture in pictures}.values())
    shown = content >= _FIRST_IMAGE
    numbers, firsts, which = np.unique(content[shown] - _FIRST_IMAGE, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    image_of = np.full(len(content), -1, dtype=np.int64)
    image_of[shown] = np.argsort(order)[which]
    return image_of, tuple(distinct[int(number)] for number in numbers[order])


def _places(sample: Encoded) -> NDArray[np.int64]:
    """:attr:`Prompt.places` of what a model reads of a sample."""
    return np.concatenate([sample.prompt.places, np.zeros(len(sample.answer) - 1, dtype=np.int64)])


def _alone(sample: Encoded) -> Work:
    """What there would be to compute for a sample as a sequence of its own."""
    length = len(sample.prompt.ids) + len(sample.answer) - 1
    sizes = sample.prompt.sizes
    return Work(length, length * (length + 1) // 2, len(sample.answer), int(sizes.sum()), int((sizes**2).sum()))


def distinct_pictures(rows: Sequence[Row]) -> list[Picture]:
    """The different images of some rows, in the order in which they first appear."""
    return list({picture.digest: picture for row in rows for picture in row.pictures}.values())


def collate(
    rows: Sequence[Row],
    weights: Sequence[NDArray[np.float64]],
    cells: Sequence[NDArray[np.int64]],
    images: dict[str, torch.Tensor],
    pad: int,
) -> Batch:
    """Pad rows to one length.

    Args:
        weights, cells: of each row, one entry per target.
        images: what the vision tower gets for the :func:`distinct_pictures` of the rows, in their order.
    """
    length = max(len(row.ids) for row in rows)
    count, planes = len(rows), len(rows[0].positions)
    sizes = _sizes(rows)
    ids = np.full((count, length), pad, dtype=np.int64)
    positions = np.zeros((planes, count, length), dtype=np.int64)
    ends = np.tile(np.arange(1, length + 1), (count, 1))  # padding sees itself: a softmax over nothing is no number
    for number, row in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = row.ids
        positions[:, number, :size] = row.positions
        ends[number, :size] = row.ends
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions if planes > 1 else positions[0]),
        ends=torch.from_numpy(ends),
        images=images,
        features=torch.from_numpy(_features(rows, sizes)),
        sources=torch.from_numpy(np.concatenate([row.sources + n * length for n, row in enumerate(rows)])),
        targets=torch.from_numpy(np.concatenate([row.targets for row in rows])),
        weights=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        cells=torch.from_numpy(np.concatenate(cells)),
        work=work_of(rows),
        alone=sum((row.alone for row in rows), Work()),
        samples=sum(row.samples for row in rows),
    )


def even_batch(chat: Chat, rows: Sequence[Row]) -> Batch:
    """Rows as a batch in which every target counts alike."""
    ones = [np.ones(len(row.targets)) for row in rows]
    cells = [np.zeros(len(row.targets), dtype=np.int64) for row in rows]
    return collate(rows, ones, cells, chat.image_tensors(distinct_pictures(rows)), chat.pad)


def _sizes(rows: Sequence[Row]) -> dict[bytes, int]:
    """How many placeholders each distinct image has, in the order in which they first appear."""
    sizes: dict[bytes, int] = {}
    for row in rows:
        for number, picture in enumerate(row.pictures):
            sizes[picture.digest] = int(row.place[row.image_of == number].max()) + 1
    return sizes


def work_of(rows: Sequence[Row]) -> Work:
    """What there is to compute for rows, each distinct image once."""
    sizes = _sizes(rows).values()
    images = Work(placeholders=sum(sizes), squares=sum(size**2 for size in sizes))
    return sum((row.work for row in rows), images)


def _features(rows: Sequence[Row], sizes: Mapping[bytes, int]) -> NDArray[np.int64]:
    """Which output of the vision tower stands at each placeholder of the rows, those of all images counted through."""
    ends = np.cumsum(list(sizes.values()), dtype=np.int64)
    starts = {digest: int(end) - size for (digest, size), end in zip(sizes.items(), ends, strict=True)}
    parts = [np.zeros(0, dtype=np.int64)]
    for row in rows:
        shown = row.image_of >= 0
        firsts = np.array([starts[picture.digest] for picture in row.pictures], dtype=np.int64)
        parts.append(firsts[row.image_of[shown]] + row.place[shown])
    return np.concatenate(parts)


def untimed(phase: str) -> AbstractContextManager[object]:
    """A context that measures nothing."""
    return nullcontext()


class PackedLoss(torch.nn.Module):
    """The cross-entropy of a packed batch; logits are computed only where there is a target.

    Args:
        timed: gives a context that measures what happens in it, here the ``vision`` tower's part.

    Raises:
        ModelError: the model would compute something else in a packed row than in one sequence per sample.
    """

    model: Any  # a PreTrainedModel: its base model is called directly, to get hidden states without logits

    def __init__(self, model: torch.nn.Module, timed: Timed = untimed):
        super().__init__()
        check_packable(model)
        self.model = model
        self._timed = timed

    def forward(self, batch: Batch) -> torch.Tensor:
        """(N,) losses, one per target, not weighted."""
        hidden = hidden_states(self.model, batch, self._timed)
        return cross_entropy(hidden, self.model.get_output_embeddings(), batch.targets)


def hidden_states(model: Any, batch: Batch, timed: Timed = untimed) -> torch.Tensor:
    """(N, D) outputs of a model's last layer where there is a target."""
    base = model.model
    with packed_attention(model), shared_images(base, batch, timed):
        output = base(
            input_ids=batch.ids,
            attention_mask=attention_mask(batch.ends, attention_of(model), model.dtype),
            position_ids=batch.positions,
            use_cache=False,
            **batch.images,
        )
    return output.last_hidden_state.flatten(0, 1)[batch.sources]


class Repeated(Protocol):
    """What says which output of the vision tower stands at each placeholder, such as a :class:`Batch`."""

    @property
    def features(self) -> torch.Tensor: ...


@contextmanager
def shared_images(base: Any, batch: Repeated, timed: Timed = untimed) -> Iterator[None]:
    """For the time of a ``with``, a base model's own call of its vision tower repeats each image wherever it stands.

    The one place at which all versions of ``transformers`` let something be put between tower and language model.
    """
    tower = base.get_image_features

    def features(*args: Any, **kwargs: Any) -> Any:
        with timed("vision"):
            return share_features(tower(*args, **kwargs), batch)

    base.get_image_features = features
    try:
        yield
    finally:
        del base.get_image_features


def share_features(outputs: Any, batch: Repeated) -> Any:
    """The vision tower's outputs for the distinct images of a batch, repeated wherever an image stands.

    Args:
        outputs: what a model's ``get_image_features`` returns: ``pooler_output`` and, for models with DeepStack
            (Meng et al. 2024), ``deepstack_features`` per depth, each one tensor or a sequence of (tokens, D).
    """
    outputs.pooler_output = _gather(outputs.pooler_output, batch.features)
    if hasattr(outputs, "deepstack_features"):
        outputs.deepstack_features = [_gather(part, batch.features) for part in outputs.deepstack_features]
    return outputs


def _gather(parts: torch.Tensor | Sequence[torch.Tensor], index: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor]:
    """Rows of all parts counted through; in the form they came, which differs between versions of transformers."""
    if isinstance(parts, torch.Tensor) and parts.ndim == 2:
        return parts[index]
    return (torch.cat(tuple(parts))[index],)

"""Prefix-shared packing: clozes about the same images share them, with the losses they would have alone.

A row is a trie of tokens. Samples that begin with the same tokens (and the same images under the placeholders) share
those nodes; each token attends to its ancestors only and has the position it would have alone. So a row computes the
same function as one sequence per sample, at a fraction of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.policy.chat import Encoded, Picture

_Key = tuple[int, bytes | None]  # token id, and the digest of the image where the token is its placeholder


@dataclass
class _Node:
    token: int
    position: NDArray[np.int64]  # (P,)
    picture: Picture | None  # the image that begins here
    children: dict[_Key, _Node] = field(default_factory=dict)
    column: int = -1  # where the token stands in the row, once it is laid out


@dataclass(frozen=True)
class Row:
    """One packed row of L tokens.

    Attributes:
        ids: (L,) token ids.
        positions: (P, L) position ids.
        mask: (L, L) True where the row's token may attend to the column's.
        pictures: the images in the order of their placeholders.
        sources: (N,) column whose output predicts a target.
        targets: (N,) token to predict there; a column may have several.
        sample: (N,) which sample a target belongs to.
        samples: how many samples there are.
        unpacked: tokens the samples would have had one by one.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    mask: NDArray[np.bool_]
    pictures: tuple[Picture, ...]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    sample: NDArray[np.int64]
    samples: int
    unpacked: int

    def without_targets(self) -> Row:
        """The same tokens with nothing to predict."""
        none = np.zeros(0, dtype=np.int64)
        return replace(self, sources=none, targets=none, sample=none, samples=0, unpacked=0)


@dataclass(frozen=True)
class Batch:
    """B rows padded to L tokens, as tensors.

    Attributes:
        ids: (B, L).
        positions: (B, L), or (3, B, L) for multimodal rotary positions.
        mask: (B, 1, L, L) bool.
        images: keyword arguments of the model's vision tower, all images of the batch in order.
        sources: (N,) index into the B * L outputs.
        targets: (N,) token ids.
        weights: (N,) loss weights.
        cells: (N,) which cell of the metrics (a world and a cloze) a target counts for.
        unpacked: tokens the samples would have had one by one.
        samples: how many samples there are.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    images: dict[str, torch.Tensor]
    sources: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    cells: torch.Tensor
    unpacked: int
    samples: int

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to a device; pixels take the model's floating point type."""
        images = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.images.items()
        }
        names = ("ids", "positions", "mask", "sources", "targets", "weights", "cells")
        return replace(self, images=images, **{name: getattr(self, name).to(device) for name in names})


def pack(samples: Sequence[Encoded]) -> Row:
    """Merge samples into one row."""
    roots: dict[_Key, _Node] = {}
    paths = [_insert(roots, sample) for sample in samples]
    nodes: list[_Node] = []
    parents: list[int] = []
    pictures: list[Picture] = []
    _lay_out(roots, nodes, parents, pictures)
    mask = np.zeros((len(nodes), len(nodes)), dtype=np.bool_)
    for column, parent in enumerate(parents):
        if parent >= 0:
            mask[column] = mask[parent]
        mask[column, column] = True
    return Row(
        ids=np.array([node.token for node in nodes], dtype=np.int64),
        positions=np.stack([node.position for node in nodes], axis=1),
        mask=mask,
        pictures=tuple(pictures),
        sources=np.array([node.column for path in paths for node in path], dtype=np.int64),
        targets=np.concatenate([sample.answer for sample in samples]),
        sample=np.repeat(np.arange(len(samples)), [len(sample.answer) for sample in samples]),
        samples=len(samples),
        unpacked=sum(len(sample.prompt.ids) + len(sample.answer) - 1 for sample in samples),
    )


def _insert(roots: dict[_Key, _Node], sample: Encoded) -> list[_Node]:
    """Add a sample to the trie; returns the nodes whose outputs predict its answer's tokens."""
    prompt = sample.prompt
    level, node, previous = roots, None, -1
    for token, position, image in zip(prompt.ids.tolist(), prompt.positions.T, prompt.image_of.tolist(), strict=True):
        key = (token, sample.pictures[image].digest if image >= 0 else None)
        node = level.get(key)
        if node is None:
            begins = image >= 0 and image != previous
            node = level[key] = _Node(token, position, sample.pictures[image] if begins else None)
        level, previous = node.children, image
    assert node is not None, "a prompt has at least one token"
    path = [node]
    next_position = int(prompt.positions.max()) + 1
    for offset, token in enumerate(sample.answer[:-1].tolist()):
        child = path[-1].children.get((token, None))
        if child is None:
            child = _Node(token, np.full(len(prompt.positions), next_position + offset), None)
            path[-1].children[(token, None)] = child
        path.append(child)
    return path


def _lay_out(roots: dict[_Key, _Node], nodes: list[_Node], parents: list[int], pictures: list[Picture]) -> None:
    """Number the nodes depth first, so that parents come before children and an image's placeholders stay together."""
    stack = [(node, -1) for node in reversed(roots.values())]
    while stack:
        node, parent = stack.pop()
        node.column = len(nodes)
        nodes.append(node)
        parents.append(parent)
        if node.picture is not None:
            pictures.append(node.picture)
        stack.extend((child, node.column) for child in reversed(node.children.values()))


def collate(
    rows: Sequence[Row],
    weights: Sequence[NDArray[np.float64]],
    cells: Sequence[NDArray[np.int64]],
    images: dict[str, torch.Tensor],
    pad: int,
) -> Batch:
    """Pad rows to one length. ``weights[i]`` and ``cells[i]`` have one entry per target of ``rows[i]``."""
    length = max(len(row.ids) for row in rows)
    count, planes = len(rows), len(rows[0].positions)
    ids = np.full((count, length), pad, dtype=np.int64)
    positions = np.zeros((planes, count, length), dtype=np.int64)
    mask = np.zeros((count, 1, length, length), dtype=np.bool_)
    mask[:, :, range(length), range(length)] = True  # padding sees itself: a softmax over nothing is not a number
    for number, row in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = row.ids
        positions[:, number, :size] = row.positions
        mask[number, 0, :size, :size] = row.mask
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions if planes > 1 else positions[0]),
        mask=torch.from_numpy(mask),
        images=images,
        sources=torch.from_numpy(np.concatenate([row.sources + n * length for n, row in enumerate(rows)])),
        targets=torch.from_numpy(np.concatenate([row.targets for row in rows])),
        weights=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        cells=torch.from_numpy(np.concatenate(cells)),
        unpacked=sum(row.unpacked for row in rows),
        samples=sum(row.samples for row in rows),
    )


class PackedLoss(torch.nn.Module):
    """The cross-entropy of a packed batch; logits are computed only where there is a target."""

    model: Any  # a PreTrainedModel: its base model is called directly, to get hidden states without logits

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """(N,) losses, one per target, not weighted."""
        output = self.model.model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
            **batch.images,
        )
        hidden = output.last_hidden_state.flatten(0, 1)[batch.sources]
        logits = self.model.get_output_embeddings()(hidden).float()
        return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")

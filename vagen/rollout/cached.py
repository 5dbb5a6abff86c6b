"""The built-in engine: a ``transformers`` model that remembers the keys and values of everything its lanes have read.

A lane keeps the cache of its last prompt and response. Of the next prompt only the tokens after their common beginning
go through the model: in a growing conversation the new observation, with other contexts what follows the system
message. Lanes are rows of one cache, each as long as it is, so that they need not keep step. The attention mask and
the positions are given explicitly, so that any model that packed rows can go through (see ``vagen.policy.attention``)
gives the same logits as in a forward pass over the whole conversation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache

from vagen.policy.attention import attention_of, check_packable, packed_attention
from vagen.policy.chat import Chat, Picture, common_start, told_apart
from vagen.policy.packing import shared_images
from vagen.rollout.engine import Request, Sampled
from vagen.rollout.sampling import GREEDY, Sampling, choose

READ_AT_ONCE = 16384  # tokens of prompts per forward pass, padding included
SHARE_AWAITED = 0.5  # of the responses that are being written, before the finished ones are returned
CAPACITY = 256  # the cache grows by this many tokens at least


@dataclass
class _Lane:
    """What one row of the cache holds, and what it is writing.

    Attributes:
        number: of the lane.
        known: (n,) the tokens whose keys and values are in the cache, without those being written, as
            :func:`told_apart` gives them.
        request: what is being answered; ``None`` where nothing is.
        written, log_probs: the response so far; all but its last token are in the cache.
        position: the position id of the response's first token.
    """

    number: int
    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    request: Request | None = None
    written: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    position: int = 0


@dataclass(frozen=True)
class _Piece:
    """Tokens that go through the model for one row: (L,) ids, (P, L) positions, and which image each shows."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    image_of: NDArray[np.int64]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class _Repeats:
    """Which of the vision tower's outputs stands at each placeholder of a forward pass."""

    features: torch.Tensor


class CachedEngine:
    """Writes with the policy's own model.

    Args:
        chat: the policy's prompts.
        lanes: how many responses are written at once.
        gathered: opened with each session; brings the whole model here where it is spread over processes.

    Attributes:
        tokens_read: tokens of prompts that went through the model so far.
        images_read: images that went through the vision tower so far.

    Raises:
        ModelError: the model would compute something else with masks of our own.
    """

    def __init__(self, chat: Chat, lanes: int = 64, gathered: Callable[[], AbstractContextManager[Any]] = nullcontext):
        check_packable(chat.policy.model)
        self.chat = chat
        self.lanes = lanes
        self.tokens_read = 0
        self.images_read = 0
        self._gathered = gathered
        self._sampling = GREEDY
        self._memory = _Memory(lanes)
        self._rows = [_Lane(number) for number in range(lanes)]  # by row of the cache, the busy ones first
        self._waiting: list[Request] = []

    @contextmanager
    def session(self, sampling: Sampling) -> Iterator[None]:
        """See :class:`vagen.rollout.engine.Engine`. The cache is empty at first and freed in the end."""
        model = self.chat.policy.model
        was_training = model.training
        self._sampling = sampling
        with self._gathered(), packed_attention(model):
            model.eval()
            try:
                yield
            finally:
                model.train(was_training)
                self._memory = _Memory(self.lanes)
                self._rows = [_Lane(number) for number in range(self.lanes)]
                self._waiting = []

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    @torch.inference_mode()
    def step(self) -> list[Sampled]:
        self._read_waiting()
        busy = [row for row, lane in enumerate(self._rows) if lane.request is not None]
        awaited = math.ceil(SHARE_AWAITED * len(busy))
        while len(writing := [row for row in busy if not self._finished(row)]) > len(busy) - awaited:
            # All busy rows go through the model, since leaving some out would copy the others' part of the cache.
            self._write(busy, set(writing))
        return [self._take(row) for row in busy if self._finished(row)]

    # ------------------------------------------------------------------------------------------------------- reading

    def _read_waiting(self) -> None:
        """Bring the prompts that wait into the cache and sample the first token of their responses."""
        waiting = {request.lane: request for request in self._waiting}
        assert len(waiting) == len(self._waiting), "a lane is asked for two responses at once"
        self._waiting = []
        self._make_room(waiting)
        new = []
        for row, lane in enumerate(self._rows):
            if lane.number in waiting:
                lane.request = waiting[lane.number]
                new.append(row)
        if new and not any(len(lane.known) for lane in self._rows):
            self._read(new[:1], [0])  # the others begin alike
            new = new[1:]
        starts = [self._reuse(row) for row in new]
        longest = max(
            (len(self._request(row).prompt.ids) - start for row, start in zip(new, starts, strict=True)), default=1
        )
        at_once = max(1, READ_AT_ONCE // longest)
        for first in range(0, len(new), at_once):
            self._read(new[first : first + at_once], starts[first : first + at_once])

    def _make_room(self, waiting: dict[int, Request]) -> None:
        """Put the rows that will be busy before those that will not: a part of the cache is a view, others copies."""
        idle = [lane.request is None and lane.number not in waiting for lane in self._rows]
        order = sorted(range(self.lanes), key=lambda row: idle[row])
        if order != list(range(self.lanes)):
            self._memory.reorder(order)
            self._rows = [self._rows[row] for row in order]

    def _read(self, rows: Sequence[int], starts: Sequence[int]) -> None:
        """Read prompts from ``starts`` on; what comes before is in the cache."""
        pieces = []
        for row, start in zip(rows, starts, strict=True):
            prompt, pictures = self._request(row).prompt, self._request(row).pictures
            pieces.append(_Piece(prompt.ids[start:], prompt.positions[:, start:], prompt.image_of[start:], pictures))
        logits = self._forward(rows, starts, pieces)
        for row in rows:
            lane, request = self._rows[row], self._request(row)
            lane.known = told_apart(request.prompt, request.pictures)
            lane.position = int(request.prompt.positions.max()) + 1
        self.tokens_read += sum(len(piece.ids) for piece in pieces)
        self._sample(rows, logits)

    def _reuse(self, row: int) -> int:
        """How many of a prompt's tokens are in the row's cache already, or in another's, which is copied then."""
        lane, request = self._rows[row], self._request(row)
        keys = told_apart(request.prompt, request.pictures)
        own = _common(lane.known, keys)
        if not own:
            source = max(range(self.lanes), key=lambda other: _common(self._rows[other].known, keys))
            own = _common(self._rows[source].known, keys)
            self._memory.copy(source, row, own)
        return own

    # ------------------------------------------------------------------------------------------------------- writing

    def _write(self, rows: Sequence[int], writing: set[int]) -> None:
        """One more token for the rows that are writing; the others come along and nothing is kept of them."""
        starts, pieces = [], []
        for row in rows:
            lane = self._rows[row]
            planes = len(self._request(row).prompt.positions)
            ids = np.array(lane.written[-1:], dtype=np.int64)
            positions = np.full((planes, 1), lane.position + len(lane.written) - 1)
            starts.append(len(lane.known) + len(lane.written) - 1)
            pieces.append(_Piece(ids, positions, np.full(1, -1), ()))
        logits = self._forward(rows, starts, pieces)
        kept = [place for place, row in enumerate(rows) if row in writing]
        self._sample([rows[place] for place in kept], logits[kept])

    def _sample(self, rows: Sequence[int], logits: torch.Tensor) -> None:
        """Append the next token of each row."""
        points = torch.tensor([self._request(row).generator.random() for row in rows], dtype=torch.float64)
        banned = torch.tensor(self.chat.banned, device=logits.device)
        chosen, log_probs = choose(logits, self._sampling, banned, points)
        for row, token, log_prob in zip(rows, chosen.tolist(), log_probs.double().tolist(), strict=True):
            self._rows[row].written.append(token)
            self._rows[row].log_probs.append(log_prob)

    def _finished(self, row: int) -> bool:
        written = self._rows[row].written
        return written[-1] in self.chat.end_tokens or len(written) == self._sampling.max_tokens

    def _take(self, row: int) -> Sampled:
        """The finished response of a row, which is idle then."""
        lane = self._rows[row]
        tokens, log_probs = np.array(lane.written, dtype=np.int64), np.array(lane.log_probs)
        lane.known = np.concatenate([lane.known, tokens[:-1]])
        lane.request, lane.written, lane.log_probs = None, [], []
        return Sampled(lane.number, tokens, log_probs, int(tokens[-1]) not in self.chat.end_tokens)

    def _request(self, row: int) -> Request:
        request = self._rows[row].request
        assert request is not None, "only busy rows are read and written"
        return request

    # ----------------------------------------------------------------------------------------------------- the model

    def _forward(self, rows: Sequence[int], starts: Sequence[int], pieces: Sequence[_Piece]) -> torch.Tensor:
        """(B, V) logits after the last token of each piece; the cache gets the pieces from ``starts`` on."""
        policy = self.chat.policy
        model, device = policy.model, policy.device
        sizes = [len(piece.ids) for piece in pieces]
        count, length, planes = len(pieces), max(sizes), len(pieces[0].positions)
        ids = np.full((count, length), self.chat.tokenizer.pad_token_id or 0, dtype=np.int64)
        positions = np.zeros((planes, count, length), dtype=np.int64)
        for number, piece in enumerate(pieces):
            ids[number, : sizes[number]] = piece.ids
            positions[:, number, : sizes[number]] = piece.positions
        begin = torch.tensor(starts, device=device)
        columns = max(starts) + length
        mask = _mask(begin, length, columns, attention_of(model), model.dtype)
        self._memory.aim(rows, begin, columns)
        with self._shown(pieces) as images:
            output = model.model(
                input_ids=torch.from_numpy(ids).to(device),
                position_ids=torch.from_numpy(positions if planes > 1 else positions[0]).to(device),
                attention_mask=mask,
                cache=self._memory,
                use_cache=True,
                **images,
            )
        last = output.last_hidden_state[torch.arange(count, device=device), torch.tensor(sizes, device=device) - 1]
        return model.get_output_embeddings()(last)

    @contextmanager
    def _shown(self, pieces: Sequence[_Piece]) -> Iterator[dict[str, torch.Tensor]]:
        """The vision tower's inputs for the distinct images of some pieces, each of which stands wherever it is."""
        distinct: dict[bytes, Picture] = {}
        uses: list[tuple[bytes, int]] = []  # of each image in each piece, the picture and its number of placeholders
        for piece in pieces:
            images, counts = np.unique(piece.image_of[piece.image_of >= 0], return_counts=True)
            for image, placeholders in zip(images.tolist(), counts.tolist(), strict=True):
                picture = piece.pictures[image]
                distinct.setdefault(picture.digest, picture)
                uses.append((picture.digest, placeholders))
        if not distinct:
            yield {}
            return
        self.images_read += len(distinct)
        sizes = dict(uses)
        ends = dict(zip(distinct, np.cumsum([sizes[digest] for digest in distinct]).tolist(), strict=True))
        features = np.concatenate([np.arange(ends[digest] - size, ends[digest]) for digest, size in uses])
        policy = self.chat.policy
        tensors = {
            name: tensor.to(policy.device, policy.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in self.chat.image_tensors(list(distinct.values())).items()
        }
        with shared_images(policy.model.model, _Repeats(torch.from_numpy(features).to(policy.device))):
            yield tensors


class _Memory(Cache):
    """Keys and values of all rows, per layer (N, H, C, D); a forward pass is told where its tokens go."""

    def __init__(self, rows: int):
        super().__init__(layers=[])
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._count = rows
        self._rows: torch.Tensor = torch.zeros(0)
        self._first: int | None = None  # how many, if the rows are the first ones
        self._begin: torch.Tensor = torch.zeros(0)
        self._columns = 0

    def aim(self, rows: Sequence[int], begin: torch.Tensor, columns: int) -> None:
        """Let the next forward pass write to ``rows`` from columns ``begin`` (B,) on and see the first ``columns``."""
        self._rows = torch.tensor(rows, device=begin.device)
        self._first = len(rows) if list(rows) == list(range(len(rows))) else None
        self._begin, self._columns = begin, columns

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep (B, H, L, D) new keys and values; returns those of the rows, (B, H, columns, D)."""
        return (
            self._put(self._keys, key_states, layer_idx),
            self._put(self._values, value_states, layer_idx),
        )

    def copy(self, source: int, target: int, columns: int) -> None:
        """Let a row begin with the first columns of another."""
        for kept in (*self._keys, *self._values):
            kept[target, :, :columns] = kept[source, :, :columns]

    def reorder(self, order: Sequence[int]) -> None:
        """Let row i be what row ``order[i]`` was."""
        moved = [row for row, source in enumerate(order) if row != source]
        for kept in (*self._keys, *self._values):
            kept[moved] = kept[[order[row] for row in moved]]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._columns

    def _put(self, layers: list[torch.Tensor], states: torch.Tensor, layer: int) -> torch.Tensor:
        _, heads, length, size = states.shape
        if layer == len(layers):
            layers.append(states.new_zeros(self._count, heads, 0, size))
        if (missing := self._columns - layers[layer].shape[2]) > 0:
            grown = max(missing, CAPACITY, layers[layer].shape[2] // 2)
            layers[layer] = torch.cat([layers[layer], states.new_zeros(self._count, heads, grown, size)], 2)
        kept = layers[layer]
        places = self._begin[:, None] + torch.arange(length, device=states.device)
        kept[self._rows[:, None], :, places] = states.transpose(1, 2)
        rows = slice(self._first) if self._first is not None else self._rows
        return kept[rows, :, : self._columns]


def _mask(begin: torch.Tensor, length: int, columns: int, implementation: str, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, length, columns): a token sees the columns of its row up to its own."""
    own = begin[:, None] + torch.arange(length, device=begin.device)
    mask = (torch.arange(columns, device=begin.device) <= own[:, :, None])[:, None]
    if implementation != "eager":
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _common(known: NDArray[np.int64], keys: NDArray[np.int64]) -> int:
    """How many tokens two sequences begin with alike; the last of ``keys`` is never counted, its logits are wanted."""
    return common_start(known, keys[:-1])

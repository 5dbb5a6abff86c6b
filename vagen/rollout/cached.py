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

from vagen.policy.attention import added_mask, check_packable, dense_attention
from vagen.policy.chat import Chat, Picture, common_start, told_apart
from vagen.policy.memory import Memory
from vagen.policy.packing import shared_images
from vagen.rollout.engine import Request, Sampled
from vagen.rollout.sampling import GREEDY, Sampling, choose

READ_AT_ONCE = 16384  # tokens of prompts per forward pass, padding included
SHARE_AWAITED = 0.5  # of the responses that are being written, before the finished ones are returned


@dataclass
class _Lane:
    """What one row of the cache holds, and what it is writing.

    Attributes:
        number: of the lane.
        known: (n,) the tokens whose keys and values are in the cache, without those being written, as
            :func:`told_apart` gives them.
        request: what is being answered; ``None`` where nothing is.
        keys: (L,) the tokens of the request, in the form of ``known``.
        written, log_probs: the response so far; all but its last token are in the cache.
        position: the position id of the response's first token.
    """

    number: int
    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    request: Request | None = None
    keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
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
        self._memory = Memory(lanes)
        self._rows = [_Lane(number) for number in range(lanes)]  # by row of the cache, the busy ones first
        self._waiting: list[Request] = []

    @contextmanager
    def session(self, sampling: Sampling) -> Iterator[None]:
        """See :class:`vagen.rollout.engine.Engine`. The cache is empty at first and freed in the end."""
        model = self.chat.policy.model
        was_training = model.training
        self._sampling = sampling
        with self._gathered(), dense_attention(model):
            model.eval()
            try:
                yield
            finally:
                model.train(was_training)
                self._memory = Memory(self.lanes)
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
        alike: dict[bytes, list[int]] = {}  # rows with equal prompts, of which the first one's is read
        for row, lane in enumerate(self._rows):
            if lane.number in waiting:
                lane.request = waiting[lane.number]
                lane.keys = told_apart(lane.request.prompt, lane.request.pictures)
                alike.setdefault(lane.keys.tobytes(), []).append(row)
        new = list(alike.values())
        if new and not any(len(lane.known) for lane in self._rows):
            self._read(new[:1], [0])  # the others begin alike
            new = new[1:]
        starts = [self._reuse(row) for row, *_ in new]
        longest = max(
            (len(self._rows[row].keys) - start for (row, *_), start in zip(new, starts, strict=True)), default=1
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

    def _read(self, alike: Sequence[Sequence[int]], starts: Sequence[int]) -> None:
        """Read prompts from ``starts`` on; what comes before is in the cache.

        Args:
            alike: for each prompt the rows it is for; the first one reads it, the others get what that one knows.
        """
        rows = [row for row, *_ in alike]
        pieces = [self._piece(row, start) for row, start in zip(rows, starts, strict=True)]
        logits = self._forward(rows, starts, pieces)
        self.tokens_read += sum(len(piece.ids) for piece in pieces)
        for first, *others in alike:
            keys = self._rows[first].keys
            if others:
                begin = min(common_start(self._rows[row].known, keys) for row in others)
                self._memory.copy(first, others, begin, len(keys))
        every = [(place, row) for place, some in enumerate(alike) for row in some]
        for _, row in every:
            lane, prompt = self._rows[row], self._request(row).prompt
            lane.known, lane.position = lane.keys, int(prompt.positions.max()) + 1
        self._sample([row for _, row in every], logits[[place for place, _ in every]])

    def _piece(self, row: int, start: int) -> _Piece:
        """What is to be read of a row's prompt."""
        prompt, pictures = self._request(row).prompt, self._request(row).pictures
        return _Piece(prompt.ids[start:], prompt.positions[:, start:], prompt.image_of[start:], pictures)

    def _reuse(self, row: int) -> int:
        """How many of a prompt's tokens are in the row's cache already, or in another's, which is copied then.

        The last one never counts: its logits are wanted.
        """
        lane = self._rows[row]
        wanted = lane.keys[:-1]
        own = common_start(lane.known, wanted)
        if not own:
            begun = ((other, theirs.known) for other, theirs in enumerate(self._rows) if len(theirs.known))
            others = {other: common_start(known, wanted) for other, known in begun}
            if not others:
                return 0
            source = max(others, key=lambda other: others[other])
            own = others[source]
            self._memory.copy(source, [row], 0, own)
        return own

    # ------------------------------------------------------------------------------------------------------- writing

    def _write(self, rows: Sequence[int], writing: set[int]) -> None:
        """One more token for the rows that are writing; the others come along and nothing is kept of them."""
        lanes = [self._rows[row] for row in rows]
        planes, device = len(self._request(rows[0]).prompt.positions), self.chat.policy.device
        ids = torch.tensor([lane.written[-1:] for lane in lanes], device=device)
        positions = torch.tensor([[lane.position + len(lane.written) - 1] for lane in lanes], device=device)
        starts = [len(lane.known) + len(lane.written) - 1 for lane in lanes]
        hidden = self._hidden(rows, starts, ids, positions.expand(planes, -1, -1))
        kept = [place for place, row in enumerate(rows) if row in writing]
        self._sample([rows[place] for place in kept], self._logits(hidden[kept, 0]))

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
        device = self.chat.policy.device
        sizes = [len(piece.ids) for piece in pieces]
        count, length, planes = len(pieces), max(sizes), len(pieces[0].positions)
        ids = np.full((count, length), self.chat.pad, dtype=np.int64)
        positions = np.zeros((planes, count, length), dtype=np.int64)
        for number, piece in enumerate(pieces):
            ids[number, : sizes[number]] = piece.ids
            positions[:, number, : sizes[number]] = piece.positions
        with self._shown(pieces) as images:
            read = (torch.from_numpy(array).to(device) for array in (ids, positions))
            hidden = self._hidden(rows, starts, *read, **images)
        last = torch.tensor(sizes, device=device) - 1
        return self._logits(hidden[torch.arange(count, device=device), last])

    def _hidden(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        ids: torch.Tensor,
        positions: torch.Tensor,
        **images: torch.Tensor,
    ) -> torch.Tensor:
        """(B, L, D) what the model makes of tokens of some rows; the cache gets them from ``starts`` on.

        Args:
            ids: (B, L).
            positions: (P, B, L).
            images: the vision tower's inputs.
        """
        model, length = self.chat.policy.model, ids.shape[1]
        places = torch.tensor(starts, device=ids.device)[:, None] + torch.arange(length, device=ids.device)
        columns = max(starts) + length
        self._memory.aim(rows, places, columns)
        output = model.model(
            input_ids=ids,
            position_ids=positions if len(positions) > 1 else positions[0],
            attention_mask=added_mask(torch.arange(columns, device=ids.device) <= places[:, :, None], model.dtype),
            cache=self._memory,
            use_cache=True,
            **images,
        )
        return output.last_hidden_state

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.chat.policy.model.get_output_embeddings()(hidden)

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

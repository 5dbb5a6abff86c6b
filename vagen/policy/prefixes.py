"""Greedy decoding of many prompts at once, where what they begin with alike goes through the model once.

Prompts are packed into rows as in :mod:`vagen.policy.packing`, and the keys and values of a row are kept. The tokens
that are written in answer to its prompts then go through the model together, one of each prompt at a time: each sees
the tokens of its own prompt and answer and no others, at the positions it would have alone. Nothing is copied for the
branches of a row. In large, this is the tree attention of Miao et al. 2024 (SpecInfer), with prompts for branches.

Knows nothing about clozes, or about which answers are right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vagen.policy.attention import added_mask, attention_mask, attention_of, check_packable, dense_attention
from vagen.policy.chat import Chat, Encoded, common_start
from vagen.policy.constrain import Automaton, Position, only
from vagen.policy.errors import ModelError
from vagen.policy.memory import Memory
from vagen.policy.packing import Asked, contents_of, even_batch, in_order, pack, shared_images

ROW_TOKENS = 1024  # in a row beside those of its first prompt: a row's mask and scores grow with the square
WRITE_TOGETHER = 16  # answers in a row: what one of them writes takes place that the others attend to in vain
WASTED = 2  # times as much computed as answers need, before each gets a row of its own
LEAST_SHARED = 0.25  # of a prompt's tokens must be there already for it to join a row


@dataclass(frozen=True)
class CommonRow:
    """Prompts that share a row.

    Attributes:
        prompts: their numbers; each begins as the one before, for a while.
        tokens: of the row, shared ones counted once.
    """

    prompts: tuple[int, ...]
    tokens: int


@dataclass
class Writing:
    """An answer that is being written.

    Attributes:
        limit: tokens after which it is cut.
        automaton: which answers are valid; ``None`` if any is.
        tokens: what has been written.
        log_probs: the log-probability of each token in nats, over the whole vocabulary, whatever was ruled out.
    """

    limit: int
    automaton: Automaton | None = None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    _position: Position = None

    def __post_init__(self) -> None:
        if self.automaton is not None:
            self._position = self.automaton.start

    def allowed(self) -> NDArray[np.int64]:
        """The tokens that may come next, where only valid answers are written."""
        assert self.automaton is not None
        return self.automaton.allowed(self._position)

    def write(self, token: int, log_prob: float) -> None:
        """Go on by a token."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        if self.automaton is not None:
            self._position = self.automaton.advance(self._position, token)


def why_not_shared(model: Any) -> str | None:
    """Why prompts cannot share what they begin with in this model; ``None`` where they can."""
    try:
        _check(model)
    except ModelError as error:
        return str(error)
    return None


def common_rows(prompts: Sequence[Asked], tokens: int = ROW_TOKENS, most: int | None = None) -> list[CommonRow]:
    """Which prompts share a row: those that begin alike, as far as a row holds them.

    A function of the prompts alone; each stands in one row.

    Args:
        tokens: at most so many in a row beside those of its first prompt.
        most: at most so many prompts in a row; ``None`` for any number.
    """
    contents = contents_of(prompts)
    rows: list[CommonRow] = []
    further = 0  # tokens in the row beside those of its first prompt
    for index in in_order(contents):
        own = len(contents[index])
        shared = common_start(contents[rows[-1].prompts[-1]], contents[index]) if rows else 0
        if shared < LEAST_SHARED * own or further + own - shared > tokens or len(rows[-1].prompts) == most:
            rows.append(CommonRow((index,), own))
            further = 0
        else:
            rows[-1] = CommonRow((*rows[-1].prompts, index), rows[-1].tokens + own - shared)
            further += own - shared
    return rows


def batches(prompts: Sequence[Asked], batch: int) -> Iterator[list[CommonRow]]:
    """The :func:`common_rows` of prompts, so many at a time that they hold at most ``batch`` prompts.

    Rows with like numbers of prompts go together, for these are padded to one number when they are answered.
    """
    rows = common_rows(prompts, most=batch)
    rows.sort(key=lambda row: (len(row.prompts), row.tokens))
    chosen: list[CommonRow] = []
    for row in rows:
        if sum(len(other.prompts) for other in chosen) + len(row.prompts) > batch:
            yield chosen
            chosen = []
        chosen.append(row)
    if chosen:
        yield chosen


def side_by_side(rows: Sequence[CommonRow]) -> list[list[CommonRow]]:
    """Short rows behind each other, none longer together than the longest is alone: so they need little padding.

    First fit, the longest first; prompts of different rows do not see each other wherever they stand.
    """
    filled: list[list[CommonRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        place = next((number for number, left in enumerate(room) if left >= row.tokens), None)
        if place is None:
            place = len(filled)
            filled.append([])
            room.append(max(other.tokens for other in rows))
        filled[place].append(row)
        room[place] -= row.tokens
    return filled


@torch.inference_mode()
def write_shared(
    chat: Chat,
    prompts: Sequence[Asked],
    answers: Sequence[Writing],
    batch: int,
    progress: Callable[[int], object] = lambda done: None,
) -> None:
    """Write the most likely answer to each prompt.

    Args:
        answers: to the prompts; not yet begun.
        batch: prompts per forward pass.
        progress: called with the number of prompts finished in each batch.

    Raises:
        ModelError: the model cannot share prefixes; see :func:`why_not_shared`.
    """
    _check(chat.policy.model)
    with dense_attention(chat.policy.model):
        for together in batches(prompts, batch):
            filled = side_by_side(together)
            state = _prefill(chat, [[prompts[index] for row in rows for index in row.prompts] for rows in filled])
            parts = [part for rows in filled for row in rows for part in _parts(row.prompts)]
            sizes = torch.tensor(list(map(len, parts)), device=state.row.device)
            state.regroup(torch.arange(len(parts), device=sizes.device).repeat_interleave(sizes))
            chosen = [index for part in parts for index in part]
            _write(chat, state, [answers[index] for index in chosen])
            progress(len(chosen))


def _parts(prompts: Sequence[int]) -> list[Sequence[int]]:
    """A row's prompts, cut into as few parts of about one size as are written together."""
    count = -(-len(prompts) // WRITE_TOGETHER)
    cuts = [len(prompts) * number // count for number in range(count + 1)]
    return [prompts[start:end] for start, end in pairwise(cuts)]


def _check(model: Any) -> None:
    check_packable(model)
    if "cache" not in inspect.signature(model.model.forward).parameters:
        raise ModelError(f"{type(model).__name__} cannot share prefixes: its forward takes no cache")


@dataclass
class _State:
    """N answers in B rows of K cached tokens.

    Attributes:
        memory: keys and values of the rows.
        logits: (N, V) for the next token of each answer.
        row: (N,) which row an answer stands in, not descending.
        sees: (N, K) which of its row's tokens an answer attends to.
        next: (P, N) position of the next token.
    """

    memory: Memory
    logits: torch.Tensor
    row: torch.Tensor
    sees: torch.Tensor
    next: torch.Tensor

    def keep(self, places: torch.Tensor) -> None:
        """Go on with some of the answers, each in a row of its own once the others' tokens cost more than copies.

        What costs is the places that go through the model times the columns that each of them attends to in vain.
        """
        self.row, self.sees, self.next = self.row[places], self.sees[places], self.next[:, places]
        shared = self.memory.rows * int(torch.bincount(self.row).max()) * self.sees.shape[1]
        if WASTED * len(places) * int(self.sees.sum(1).max()) <= shared:
            self.regroup(torch.arange(len(places), device=places.device))

    def regroup(self, rows: torch.Tensor) -> None:
        """Let answers stand in other rows, each with copies of what its answers see and nothing else.

        Args:
            rows: (N,) the new row of each answer, from 0 on and not descending; answers of one row stood in one.
        """
        seen = torch.zeros(int(rows[-1]) + 1, self.sees.shape[1], device=rows.device)
        seen = seen.index_add_(0, rows, self.sees.to(seen.dtype)) > 0
        sources = rows.new_zeros(len(seen)).scatter_(0, rows, self.row)
        columns = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(seen.sum(1).max())]  # those seen first
        self.memory.select(sources, columns)
        self.row, self.sees = rows, self.sees.gather(1, columns[rows])


def _prefill(chat: Chat, rows: Sequence[Sequence[Asked]]) -> _State:
    """The state before the first token of each answer."""
    model, nothing = chat.policy.model, np.zeros(1, dtype=np.int64)
    packed = [pack([Encoded(prompt, nothing, tuple(pictures)) for prompt, pictures in row]) for row in rows]
    batch = even_batch(chat, packed).to(model.device, model.dtype)
    count, length = batch.ids.shape
    columns = torch.arange(length, device=model.device)
    memory = Memory(count)
    memory.aim(range(count), columns.expand(count, -1), length)
    with shared_images(model.model, batch):
        output = model.model(
            input_ids=batch.ids,
            attention_mask=attention_mask(batch.ends, attention_of(model), model.dtype),
            position_ids=batch.positions,
            cache=memory,
            use_cache=True,
            **batch.images,
        )
    row, column = batch.sources // length, batch.sources % length
    after = [prompt.positions.max() + 1 for row in rows for prompt, _ in row]
    planes = len(rows[0][0][0].positions)
    return _State(
        memory=memory,
        logits=model.get_output_embeddings()(output.last_hidden_state.flatten(0, 1)[batch.sources]),
        row=row,
        sees=(columns <= column[:, None]) & (column[:, None] < batch.ends[row]),
        next=torch.tensor(np.tile(after, (planes, 1)), device=model.device),
    )


def _write(chat: Chat, state: _State, answers: Sequence[Writing]) -> None:
    """Go on with each answer to its end."""
    while True:
        chosen, log_probs = _choose(chat, state.logits, answers)
        for answer, token, log_prob in zip(answers, chosen.tolist(), log_probs.tolist(), strict=True):
            answer.write(token, log_prob)
        going = [place for place, answer in enumerate(answers) if not _finished(chat, answer)]
        if not going:
            return
        if len(going) < len(answers):
            places = torch.tensor(going, device=chosen.device)
            answers, chosen = [answers[place] for place in going], chosen[places]
            state.keep(places)
        _advance(chat.policy.model, state, chosen, chat.pad)


def _finished(chat: Chat, answer: Writing) -> bool:
    return answer.tokens[-1] in chat.end_tokens or len(answer.tokens) == answer.limit


def _choose(chat: Chat, logits: torch.Tensor, answers: Sequence[Writing]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) the most likely token of those allowed, and its log-probability among all."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    allowed = scores.clone()
    allowed[:, list(chat.banned)] = -torch.inf
    if answers[0].automaton is not None:
        allowed = only(allowed, [answer.allowed() for answer in answers])
    chosen = allowed.argmax(-1)
    return chosen, scores.gather(1, chosen[:, None])[:, 0].double()


def _advance(model: Any, state: _State, tokens: torch.Tensor, pad: int) -> None:
    """Let the model read one more token of each answer.

    The tokens of a row stand side by side, in as many places as the fullest row has answers.
    """
    rows, counts = state.memory.rows, torch.bincount(state.row)
    place = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[state.row]
    width, before = int(counts.max()), state.sees.shape[1]
    ids = tokens.new_full((rows, width), pad)
    ids[state.row, place] = tokens
    positions = state.next.new_zeros((len(state.next), rows, width))
    positions[:, state.row, place] = state.next
    state.sees = torch.cat([state.sees, place[:, None] == torch.arange(width, device=tokens.device)], 1)
    sees = state.sees.new_zeros((rows, width, before + width))
    sees[:, :, before:] = torch.eye(width, dtype=torch.bool, device=tokens.device)  # places left over see themselves
    sees[state.row, place] = state.sees
    written = torch.arange(before, before + width, device=tokens.device)
    state.memory.aim(range(rows), written.expand(rows, -1), before + width)
    output = model.model(
        input_ids=ids,
        attention_mask=added_mask(sees, model.dtype),
        position_ids=positions if len(positions) > 1 else positions[0],
        cache=state.memory,
        use_cache=True,
    )
    state.logits = model.get_output_embeddings()(output.last_hidden_state[state.row, place])
    state.next = state.next + 1

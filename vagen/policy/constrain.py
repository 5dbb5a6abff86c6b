"""Decoding that can only give valid answers: token masks from the language of an answer.

A language is over characters, and a model writes tokens; a token is allowed where its text, however it is cut, goes on
a text of the language (as in Willard & Louf 2023, with automata that are unfolded as they are needed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor

from vagen.cloze.sample import Sample
from vagen.policy.chat import Chat
from vagen.policy.errors import ModelError
from vagen.policy.languages import Language, State, language_of

Position = tuple[State, str] | None  # a state and the text of the segment after it; None once an answer has ended
POSITIONS_KEPT = 1 << 14

_LEAD = "before the lead"  # the state in which a text begins


@dataclass
class _Branch:
    """A node of the trie of token texts."""

    tokens: list[int] = field(default_factory=list)
    children: dict[str, _Branch] = field(default_factory=dict)


class Vocabulary:
    """The texts of a tokenizer's tokens, as a trie; tokens that are special or part of a character are left out."""

    def __init__(self, tokenizer: Any):
        self.root = _Branch()
        self.texts: dict[int, str] = {}
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        # Some tokenizers drop a space at the beginning of a text, so each token is read behind another.
        [*_, anchor] = tokenizer("a", add_special_tokens=False)["input_ids"]
        ids = [token for token in range(len(tokenizer)) if token not in special]
        begun = len(tokenizer.decode([anchor]))
        for token, text in zip(ids, tokenizer.batch_decode([[anchor, token] for token in ids]), strict=True):
            text = text[begun:]
            if text and "�" not in text:
                self.texts[token] = text
                self._insert(text, token)

    def _insert(self, text: str, token: int) -> None:
        branch = self.root
        for character in text:
            branch = branch.children.setdefault(character, _Branch())
        branch.tokens.append(token)


class Automaton:
    """A language over the tokens of a vocabulary.

    Args:
        ends: tokens that end an answer.
        lead: what a chat template puts before an answer, and the model therefore writes before it.
    """

    def __init__(self, language: Language, vocabulary: Vocabulary, ends: Sequence[int], lead: str = ""):
        self.language = language
        self.vocabulary = vocabulary
        self.ends = sorted(ends)
        self.lead = lead
        self.longest = len(lead) + language.longest + 1  # in tokens, each of one character or more, and the end
        self._allowed: dict[Position, NDArray[np.int64]] = {}
        self._nexts: dict[tuple[State, str], dict[str, tuple[State, str]]] = {}

    @property
    def start(self) -> Position:
        return _LEAD, ""

    def allowed(self, position: Position) -> NDArray[np.int64]:
        """The tokens that may come next, sorted.

        Raises:
            ModelError: the tokenizer cannot write what would have to come.
        """
        if position not in self._allowed:
            if len(self._allowed) >= POSITIONS_KEPT:
                self._allowed.clear()
            self._allowed[position] = np.sort(np.fromiter(self._find(position), dtype=np.int64))
        return self._allowed[position]

    def advance(self, position: Position, token: int) -> Position:
        """The position after a token, which must be an allowed one; what follows an end is not looked at."""
        if position is None or token in self.ends:
            return None
        for character in self.vocabulary.texts[token]:
            position = self._next(position)[character]
        return position

    def _find(self, position: Position) -> Iterator[int]:
        if position is None:
            yield from self.ends
            return
        ending = self._may_end(position)
        if ending:
            yield from self.ends
        count = 0
        stack = [(self.vocabulary.root, position)]
        while stack:
            branch, reached = stack.pop()
            for character, after in self._next(reached).items():
                if (child := branch.children.get(character)) is not None:
                    yield from child.tokens
                    count += len(child.tokens)
                    stack.append((child, after))
        if not count and not ending:
            raise ModelError(f"the tokenizer has no token that can follow {position[1]!r}: no answer can be written")

    def _segments(self, state: State) -> Mapping[str, State]:
        return {self.lead: self.language.start} if state is _LEAD else self.language.segments(state)

    def _next(self, position: tuple[State, str]) -> dict[str, tuple[State, str]]:
        """Each character that may come next, with the position after it."""
        if position not in self._nexts:
            if len(self._nexts) >= POSITIONS_KEPT:
                self._nexts.clear()
            state, text = position
            segments, size = self._segments(state), len(position[1])
            found = dict(self._next((segments[text], ""))) if text in segments else {}
            longer = [s for s in segments if len(s) > size and s.startswith(text)]
            self._nexts[position] = found | {s[size]: (state, s[: size + 1]) for s in longer}
        return self._nexts[position]

    def _may_end(self, position: tuple[State, str]) -> bool:
        state, text = position
        segments = self._segments(state)
        if text in segments:
            state, text = segments[text], ""
        return not text and state is not _LEAD and self.language.may_end(state)


class Constrainer:
    """Automata of answers for one policy, each made once."""

    def __init__(self, chat: Chat):
        self._chat = chat
        self._vocabulary = Vocabulary(chat.tokenizer)
        self._made: dict[tuple, Automaton] = {}

    def automaton(self, language: Language) -> Automaton:
        return Automaton(language, self._vocabulary, sorted(self._chat.end_tokens), self._chat.answer_lead())

    def for_sample(self, sample: Sample) -> Automaton:
        """Every answer to a sample that the scorer can read."""
        key = (sample.window.world, sample.representation, str(sample.pattern))
        if key not in self._made:
            self._made[key] = self.automaton(language_of(sample))
        return self._made[key]


def only(scores: torch.Tensor, allowed: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    """(N, V) scores, minus infinity but for the tokens that each row allows."""
    ruled_out = np.ones(scores.shape, dtype=np.bool_)
    for row, tokens in enumerate(allowed):
        ruled_out[row, tokens] = False
    return scores.masked_fill(torch.from_numpy(ruled_out).to(scores.device), -torch.inf)


class ConstrainedLogits(LogitsProcessor):
    """Rules out every token that does not go on a valid answer; for ``generate`` of ``transformers``.

    Args:
        automata: one for each prompt.
        prompt_length: tokens of the (padded) prompts.
    """

    def __init__(self, automata: Sequence[Automaton], prompt_length: int):
        self.automata = automata
        self.prompt_length = prompt_length
        self._read: dict[tuple[int, tuple[int, ...]], Position] = {}  # of the step before

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        beams = len(input_ids) // len(self.automata)  # sequences of one prompt stand together
        keys = [(row // beams, tuple(ids)) for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist())]
        self._read = {key: self._position(*key) for key in keys}
        return only(scores, [self.automata[number].allowed(self._read[number, ids]) for number, ids in keys])  # type: ignore[return-value]

    def _position(self, number: int, tokens: tuple[int, ...]) -> Position:
        automaton = self.automata[number]
        if tokens and (number, tokens[:-1]) in self._read:
            return automaton.advance(self._read[number, tokens[:-1]], tokens[-1])
        position = automaton.start
        for token in tokens:
            position = automaton.advance(position, token)
        return position

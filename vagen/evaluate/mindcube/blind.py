"""Answers without looking: what a text-only rule gets right, which any score has to be compared with."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vagen.evaluate.mindcube.answers import LETTERS
from vagen.evaluate.mindcube.rows import Setting, kind_of, scene_of, setting_of, take_apart

FOLDS = 10
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Exam:
    """A question as far as its text goes.

    Attributes:
        id: of the question.
        setting, kind: what is asked about, and how.
        letters: those on offer, in order; empty if the question has no inline options.
        tokens: of each letter, the n-grams of its option.
        truth: the right letter; ``None`` if the file gives something else.
    """

    id: str
    setting: Setting
    kind: str
    letters: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    truth: str | None

    @classmethod
    def of(cls, id: Any, question: Any, truth: Any) -> Exam:
        """An exam from the fields of a row, which may be missing or of any type."""
        id, question = (value if isinstance(value, str) else "" for value in (id, question))
        parts = take_apart(question)
        kind = kind_of(parts.stem)
        letters = tuple(letter for letter, _ in parts.options)
        tokens = tuple(_n_grams(text, kind) for _, text in parts.options)
        return cls(id, setting_of(id), kind, letters, tokens, truth if truth in tuple(LETTERS) else None)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Answers without looking.

    Attributes:
        name: of the rule.
        fitted_on: what it knows its answers from.
        correct: for each exam, whether it is right; for the uniform guess, how probable that is.
    """

    name: str
    fitted_on: str
    correct: list[float]


class LetterFrequency:
    """Always the letter that was right most often, of those on offer; the earlier of equals."""

    def __init__(self, exams: Iterable[Exam]):
        counts = Counter(exam.truth for exam in exams)
        self._order = sorted(LETTERS, key=lambda letter: -counts[letter])

    def answer(self, exam: Exam) -> str:
        return next(letter for letter in self._order if letter in exam.letters or not exam.letters)


class TextRule:
    """Multinomial naive Bayes (Maron 1961), add-one smoothed, over the options' n-grams: which option is a right one.

    It sees the words and pairs of words of an option and the option as a whole, each alone and together with the kind
    of question; so it learns that motions are diagonal and that "Yes" is right more often than "No".
    """

    def __init__(self, exams: Iterable[Exam]):
        self._right: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()
        for exam in exams:
            for letter, tokens in zip(exam.letters, exam.tokens, strict=True):
                (self._right if letter == exam.truth else self._wrong).update(tokens)
        self._totals = self._right.total(), self._wrong.total()
        self._vocabulary = len(self._right.keys() | self._wrong.keys())

    def answer(self, exam: Exam, forgetting: TextRule | None = None) -> str | None:
        """The option most probably right, the earlier of equals; ``None`` if there are none.

        Args:
            forgetting: a rule learned from part of the same exams, whose counts are left out.
        """
        if not exam.letters:
            return None
        hidden = forgetting or _NOTHING
        rights, wrongs = (
            own - other + self._vocabulary for own, other in zip(self._totals, hidden._totals, strict=True)
        )
        prior = math.log(rights / wrongs) if self._vocabulary else 0.0

        def evidence(tokens: Sequence[str]) -> float:
            return sum(
                math.log((self._right[t] - hidden._right[t] + 1) / (self._wrong[t] - hidden._wrong[t] + 1)) - prior
                for t in tokens
            )

        best = max(range(len(exam.letters)), key=lambda number: evidence(exam.tokens[number]))
        return exam.letters[best]


_NOTHING = TextRule(())


def baselines(exams: Sequence[Exam], training: Sequence[Exam] | None = None, source: str = "") -> list[Baseline]:
    """What blind rules make of exams: the uniform guess, the most frequent letter, and the text rule.

    Args:
        training: what the rules are fitted on. Without it the letter is fitted on the exams themselves (an upper
            bound), and the text rule on nine tenths of them for each other tenth, scenes kept together.
        source: what ``training`` is called.
    """
    chance = [1 / len(exam.letters) if exam.letters else 0.0 for exam in exams]
    letter = LetterFrequency(exams if training is None else training)
    letters = [float(letter.answer(exam) == exam.truth) for exam in exams]
    if training is None:
        text = [float(answer == exam.truth) for answer, exam in zip(_cross_fitted(exams), exams, strict=True)]
    else:
        rule = TextRule(training)
        text = [float(rule.answer(exam) == exam.truth) for exam in exams]
    return [
        Baseline("chance", "nothing", chance),
        Baseline("letter", source or "these answers themselves", letters),
        Baseline("text", source or f"these questions, {FOLDS}-fold", text),
    ]


def _cross_fitted(exams: Sequence[Exam]) -> list[str | None]:
    """The answers of text rules that have not seen the scene they answer about."""
    folds: defaultdict[int, list[Exam]] = defaultdict(list)
    for exam in exams:
        folds[_fold(exam)].append(exam)
    whole, parts = TextRule(exams), {fold: TextRule(held) for fold, held in folds.items()}
    return [whole.answer(exam, parts[_fold(exam)]) for exam in exams]


def _fold(exam: Exam) -> int:
    return zlib.crc32(scene_of(exam.id).encode("utf-8", "surrogatepass")) % FOLDS


def _n_grams(text: str, kind: str) -> tuple[str, ...]:
    words = _WORD.findall(text.lower())
    plain = [*words, *map(" ".join, pairwise(words)), "=" + " ".join(words)]
    return (*plain, *(f"{kind}: {gram}" for gram in plain))

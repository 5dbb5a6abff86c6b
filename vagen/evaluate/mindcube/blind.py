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
from vagen.mindcube.rows import Setting, kind_of, scene_of, setting_of, take_apart

FOLDS = 10
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Exam:
    """A question as far as its text goes.

    Attributes:
        id: of the question.
        setting, kind: what is asked about, and how.
        options: (letter, text) of each option, in order; empty if the question has none inline.
        truth: the right letter; ``None`` if the file gives something else.
    """

    id: str
    setting: Setting
    kind: str
    options: tuple[tuple[str, str], ...]
    truth: str | None

    @classmethod
    def of(cls, id: Any, question: Any, truth: Any) -> Exam:
        """An exam from the fields of a row, which may be missing or of any type."""
        id, question = (value if isinstance(value, str) else "" for value in (id, question))
        parts = take_apart(question)
        return cls(id, setting_of(id), kind_of(parts.stem), parts.options, truth if truth in tuple(LETTERS) else None)


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
        offered = [letter for letter, _ in exam.options] or LETTERS
        return next(letter for letter in self._order if letter in offered)


class TextRule:
    """Multinomial naive Bayes (Maron 1961), add-one smoothed, over the options' n-grams: which option is a right one.

    It sees the words and pairs of words of an option and the option as a whole, each alone and together with the kind
    of question; so it learns that motions are diagonal and that "Yes" is right more often than "No".

    Args:
        right, wrong: how often each n-gram was in an option that was right, or wrong.
    """

    def __init__(self, right: Counter[str], wrong: Counter[str]):
        self._right, self._wrong = right, wrong
        vocabulary = len(right.keys() | wrong.keys())
        # log of P(n-gram | wrong) over P(n-gram | right) for one never seen
        self._unseen = math.log((wrong.total() + vocabulary) / (right.total() + vocabulary)) if vocabulary else 0.0
        self._evidence: dict[tuple[str, str], float] = {}  # of options met before

    @classmethod
    def learned(cls, exams: Iterable[Exam]) -> TextRule:
        """The rule that examples teach."""
        seen = Counter((text, exam.kind, letter == exam.truth) for exam in exams for letter, text in exam.options)
        counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        for (text, kind, right), times in seen.items():
            for gram in n_grams(text, kind):
                counts[right][gram] += times
        return cls(counts[True], counts[False])

    def without(self, part: TextRule) -> TextRule:
        """The rule that the same examples teach without some of them."""
        return TextRule(self._right - part._right, self._wrong - part._wrong)

    def answer(self, exam: Exam) -> str | None:
        """The option most probably right, the earlier of equals; ``None`` if there are none."""
        best = max(exam.options, key=lambda option: self._evidence_for(option[1], exam.kind), default=(None, ""))
        return best[0]

    def _evidence_for(self, text: str, kind: str) -> float:
        """log P(n-grams | right) - log P(n-grams | wrong)."""
        if (text, kind) not in self._evidence:
            self._evidence[text, kind] = sum(
                math.log((self._right[gram] + 1) / (self._wrong[gram] + 1)) + self._unseen
                for gram in n_grams(text, kind)
            )
        return self._evidence[text, kind]


def baselines(exams: Sequence[Exam], training: Sequence[Exam] | None = None, source: str = "") -> list[Baseline]:
    """What blind rules make of exams: the uniform guess, the most frequent letter, and the text rule.

    Args:
        training: what the rules are fitted on. Without it the letter is fitted on the exams themselves (an upper
            bound), and the text rule on nine tenths of them for each other tenth, scenes kept together.
        source: what ``training`` is called.
    """
    chance = [1 / len(exam.options) if exam.options else 0.0 for exam in exams]
    letter = LetterFrequency(exams if training is None else training)
    if training is None:
        answers = _cross_fitted(exams)
    else:
        rule = TextRule.learned(training)
        answers = [rule.answer(exam) for exam in exams]
    return [
        Baseline("chance", "nothing", chance),
        Baseline(
            "letter", source or "these answers themselves", _right([letter.answer(exam) for exam in exams], exams)
        ),
        Baseline("text", source or f"these questions, {FOLDS}-fold", _right(answers, exams)),
    ]


def n_grams(text: str, kind: str) -> list[str]:
    """The words, pairs of words and whole of an option, alone and with the kind of question."""
    words = _WORD.findall(text.lower())
    plain = [*words, *map(" ".join, pairwise(words)), "=" + " ".join(words)]
    return [*plain, *(f"{kind}: {gram}" for gram in plain)]


def _cross_fitted(exams: Sequence[Exam]) -> list[str | None]:
    """The answers of text rules that have not seen the scene they answer about."""
    folds: defaultdict[int, list[Exam]] = defaultdict(list)
    for exam in exams:
        folds[_fold(exam)].append(exam)
    whole = TextRule.learned(exams)
    rules = {fold: whole.without(TextRule.learned(held)) for fold, held in folds.items()}
    return [rules[_fold(exam)].answer(exam) for exam in exams]


def _fold(exam: Exam) -> int:
    return zlib.crc32(scene_of(exam.id).encode("utf-8", "surrogatepass")) % FOLDS


def _right(answers: Sequence[str | None], exams: Sequence[Exam]) -> list[float]:
    return [float(answer is not None and answer == exam.truth) for answer, exam in zip(answers, exams, strict=True)]

"""Sample clozes: images, question, truth and answer, with the words marked that differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from vagen.evaluate.report.inputs import Example, Row, by_world
from vagen.evaluate.report.pictures import Picture, pictures_of
from worlds import is_available

SAMPLES_SHOWN = 2  # per world and cloze
SAMPLE_PIXELS = 144  # images are enlarged by a whole factor to about this width


@dataclass(frozen=True)
class Token:
    """A word, or the white space between two; ``wrong``: it differs from the truth where it should not."""

    text: str
    wrong: bool


@dataclass(frozen=True)
class SampleView:
    """``equivalent``: the answer is another than the truth given, and right as well."""

    pictures: list[Picture]
    question: str
    truth: list[Token]
    answer: list[Token]
    correct: bool
    equivalent: bool


@dataclass(frozen=True)
class ClozeSamples:
    cloze: str
    pattern: str
    samples: list[SampleView]


@dataclass(frozen=True)
class WorldSamples:
    """``drawn`` is off where the world is not registered here, so that its images cannot be drawn."""

    world: str
    drawn: bool
    clozes: list[ClozeSamples]


def sample_views(rows: Sequence[Row], file: Path) -> list[WorldSamples]:
    groups = by_world([row for row in rows if row.examples], lambda row: row.world)
    return [
        WorldSamples(
            world,
            is_available(world),
            [
                ClozeSamples(
                    row.cloze, row.pattern, [_sample(example, world, file) for example in _chosen(row.examples)]
                )
                for row in group
            ],
        )
        for world, group in groups.items()
    ]


def _chosen(examples: Sequence[Example]) -> list[Example]:
    """A few examples, a wrong one among them wherever there is one; right ones first."""
    right = [example for example in examples if example.correct]
    wrong = [example for example in examples if not example.correct]
    return [*right[: SAMPLES_SHOWN - 1], *wrong, *right[SAMPLES_SHOWN - 1 :]][:SAMPLES_SHOWN]


def _sample(example: Example, world: str, file: Path) -> SampleView:
    truth, answer = compare(_printable(example.truth), _printable(example.answer))
    equivalent = example.correct and any(token.wrong for token in answer)
    return SampleView(
        pictures=pictures_of(world, example.images, SAMPLE_PIXELS, file),
        question=_printable(example.question),
        truth=[Token(token.text, token.wrong and not example.correct) for token in truth],
        answer=[Token(token.text, token.wrong and not example.correct) for token in answer],
        correct=example.correct,
        equivalent=equivalent,
    )


def compare(truth: str, answer: str) -> tuple[list[Token], list[Token]]:
    """Both texts word by word, with the words marked that are not the same in both.

    Texts of the same shape (equally many words on each line) are compared word for word, so that one wrong cell of
    a board marks one cell; others are aligned first.
    """
    left, right = truth.split(), answer.split()
    if [len(line.split()) for line in truth.splitlines()] == [len(line.split()) for line in answer.splitlines()]:
        same = [a == b for a, b in zip(left, right, strict=True)]
        return _marked(truth, same), _marked(answer, same)
    same_left, same_right = [False] * len(left), [False] * len(right)
    for i, j, size in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        same_left[i : i + size] = same_right[j : j + size] = [True] * size
    return _marked(truth, same_left), _marked(answer, same_right)


def _marked(text: str, same: Iterable[bool]) -> list[Token]:
    flags = iter(same)
    return [Token(part, not part.isspace() and not next(flags)) for part in re.findall(r"\s+|\S+", text)]


def _printable(text: str) -> str:
    """Text whose control characters show as the symbols for them."""
    return text.translate({code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"})

"""What a run trains on: clozes about trajectories, questions about images from files, or both in turns.

Questions about the same images share a row, as clozes about one window do. Knows nothing about what is asked.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vagen.cloze.grammar import Pattern
from vagen.cloze.sample import Sample
from vagen.config import Questions, Schedule
from vagen.data.examples import Example, read_examples
from vagen.data.mixture import Turns
from vagen.data.places import DataError
from vagen.data.stream import KEPT, ClozeStream, Group, recall

_WORD = re.compile(r"[A-Za-z]+")


class QuestionStream:
    """Groups of questions about the same images by number; every epoch in another order.

    Args:
        settings: which files, and how they are read.
        seed: decides the order.

    Attributes:
        cells: what metrics are kept by.
        digests: what every file holds, by its name.

    Raises:
        DataError: a file cannot be used.
    """

    def __init__(self, settings: Questions, seed: int):
        examples: list[Example] = []
        for file in map(Path, settings.files):
            examples += read_examples(file, Path(settings.images) if settings.images else file.parent)
        about: dict[tuple[Path, ...], list[Example]] = {}
        for example in examples:
            about.setdefault(example.images, []).append(example)
        self.digests = {file: sha256(Path(file).read_bytes()).hexdigest() for file in settings.files}
        self._groups = [
            tuple(found[start : start + settings.per_row])
            for found in about.values()
            for start in range(0, len(found), settings.per_row)
        ]
        self.cells = list(dict.fromkeys(example.cell for example in examples))
        self._seed = seed
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def group(self, number: int) -> Group[Example]:
        """Group ``number`` of an endless walk that sees each exactly once per epoch."""
        epoch, place = divmod(number, len(self._groups))
        order = recall(self._orders, epoch, lambda: self._order(epoch), KEPT)
        samples = self._groups[int(order[place])]
        return Group(samples, (1.0,) * len(samples))

    def words(self) -> list[str]:
        """Every word that is asked or answered with, the most frequent first."""
        counts: Counter[str] = Counter()
        for group in self._groups:
            for example in group:
                counts.update(_WORD.findall(f"{example.question} {example.answer}"))
        return [word for word, _ in counts.most_common()]

    def first_image(self) -> Path:
        return self._groups[0][0].images[0]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch, 2]).permutation(len(self._groups))


class TrainingStream:
    """Groups by number, of clozes and of questions; group ``n`` is the same whoever asks for it.

    Args:
        clozes, questions: one of them may be missing.
        weight: rows of questions for each row of clozes.
        length: groups in the whole training.

    Raises:
        DataError: there is nothing to train on.
    """

    def __init__(
        self, clozes: ClozeStream | None, questions: QuestionStream | None, weight: Schedule = 1.0, length: int = 0
    ):
        if clozes is None and questions is None:
            raise DataError("nothing to train on: set `shards` to folders made by `vagen collect`, or questions.files")
        self.clozes = clozes
        self.questions = questions
        self._turns = Turns([1.0, weight], length)

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds of the clozes."""
        return self.clozes.worlds if self.clozes else ()

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """The clozes, by name."""
        return self.clozes.patterns if self.clozes else {}

    @property
    def cells(self) -> list[tuple[str, str]]:
        """What metrics are kept by: world and cloze, or ``questions`` and task."""
        asked = [(world, cloze) for world in self.worlds for cloze in self.patterns]
        return [*asked, *(self.questions.cells if self.questions else ())]

    @property
    def digests(self) -> dict[str, str]:
        """What every folder of shards and every file of questions holds."""
        return (self.clozes.digests if self.clozes else {}) | (self.questions.digests if self.questions else {})

    @property
    def words(self) -> tuple[str, ...]:
        """What questions are written with, the most frequent first."""
        return tuple(self.questions.words()) if self.questions else ()

    def group(self, number: int) -> Group[Sample] | Group[Example]:
        """Group ``number`` of the endless stream."""
        if self.questions is None:
            assert self.clozes is not None, "one of them is there"
            return self.clozes.group(number)
        if self.clozes is None:
            return self.questions.group(number)
        which, turn = self._turns.turn(number)
        return self.questions.group(turn) if which else self.clozes.group(number)

    def share(self, step: int, rows: int, rank: int, ranks: int) -> list[Group[Sample] | Group[Example]]:
        """The groups of one step that fall to one rank; their union over ranks does not depend on ``ranks``."""
        return [self.group(step * rows + row) for row in range(rank, rows, ranks)]

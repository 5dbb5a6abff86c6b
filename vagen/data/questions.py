"""What a run trains on: clozes about trajectories, questions about images from files, or both in turns.

Questions about the same images share a row, as clozes about one window do. Knows nothing about what is asked.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vagen.cloze.grammar import Pattern
from vagen.cloze.sample import Sample
from vagen.config import Questions, Schedule
from vagen.data.examples import Example, read_examples
from vagen.data.mixture import Turns, moments, weight_at
from vagen.data.places import DataError
from vagen.data.stream import KEPT, ClozeStream, Group, recall

_WORD = re.compile(r"[A-Za-z]+")


class QuestionStream:
    """Groups of questions about the same images by number; every epoch in another order.

    Args:
        settings: which files, and how they are read.
        seed: decides the order.

    Attributes:
        examples: all of them, in the order of the files.
        cells: what metrics are kept by.
        digests: what every file holds, by its name.

    Raises:
        DataError: a file cannot be used, a task that has a weight is in none of them, or none is asked at some time.
    """

    def __init__(self, settings: Questions, seed: int):
        examples: list[Example] = []
        for file in settings.files:
            examples += read_file(settings, file)
        self.examples = tuple(examples)
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
        self._tasks = _weights(settings, [task for _, task in self.cells])
        self._seed = seed
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def group(self, number: int, progress: float = 1.0) -> Group[Example]:
        """Group ``number`` of an endless walk that sees each once per epoch.

        In the place of a group of which no task is asked yet stands the next that has one, which so comes once more.

        Args:
            progress: the share of the training that is over; decides the weights of the tasks.
        """
        order, place = self._place(number)
        weights = {task: weight_at(weight, progress) for task, weight in self._tasks.items()}
        for further in range(len(order)):
            samples = self._groups[order[(place + further) % len(order)]]
            if asked := tuple(sample for sample in samples if weights[sample.task]):
                return Group(asked, tuple(weights[sample.task] for sample in asked))
        raise AssertionError("some task is asked at any time")

    def whole_group(self, number: int) -> Group[Example]:
        """The same with the questions of every task, whenever they are asked, and all alike."""
        order, place = self._place(number)
        samples = self._groups[order[place]]
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

    def _place(self, number: int) -> tuple[NDArray[np.int64], int]:
        """The order of an epoch, and where in it group ``number`` stands."""
        epoch, place = divmod(number, len(self._groups))
        return recall(self._orders, epoch, lambda: self._order(epoch), KEPT), place

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch, 2]).permutation(len(self._groups))


def _weights(settings: Questions, tasks: Sequence[str]) -> dict[str, Schedule]:
    """The weight of each task."""
    for task in settings.tasks:
        if task not in tasks:
            raise DataError(f"questions.tasks: the files have no {task}, only {', '.join(tasks)}")
    weights = {task: settings.tasks.get(task, 1.0) for task in tasks}
    for moment in moments(list(weights.values())):
        if not any(weight_at(weight, moment) for weight in weights.values()):
            raise DataError(f"questions.tasks: nothing is asked when {moment:.0%} of the training is over")
    return weights


def read_file(settings: Questions, file: str) -> list[Example]:
    """The questions of one file.

    Raises:
        DataError: it cannot be used.
    """
    return read_examples(Path(file), Path(settings.images or Path(file).parent))


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
        self._length = length

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
        progress = min(number / self._length, 1.0) if self._length else 1.0
        return self._group(number, lambda questions, turn: questions.group(turn, progress))

    def whole_group(self, number: int) -> Group[Sample] | Group[Example]:
        """The same, with the questions of every task, whenever they are asked: what the tokens of answers are."""
        return self._group(number, QuestionStream.whole_group)

    def _group(
        self, number: int, group: Callable[[QuestionStream, int], Group[Example]]
    ) -> Group[Sample] | Group[Example]:
        if self.questions is None:
            assert self.clozes is not None, "one of them is there"
            return self.clozes.group(number)
        if self.clozes is None:
            return group(self.questions, number)
        which, turn = self._turns.turn(number)
        return group(self.questions, turn) if which else self.clozes.group(turn)

    def share(self, step: int, rows: int, rank: int, ranks: int) -> list[Group[Sample] | Group[Example]]:
        """The groups of one step that fall to one rank; their union over ranks does not depend on ``ranks``."""
        return [self.group(step * rows + row) for row in range(rank, rows, ranks)]

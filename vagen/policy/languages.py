"""The texts that are valid answers, as automata over segments of text.

A language has states. In a state a text goes on with one of a few segments, each of which leads to another state, or
ends where that is allowed. The parsers of ``worlds.text`` and ``scoring`` read every text of these languages.

This module knows nothing about tokens: see ``constrain`` for them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from vagen.cloze.sample import IMPOSSIBLE, LABELS, NO, YES, Sample
from worlds import BoardSchema
from worlds.core import CellContent
from worlds.text import Representation

State = Hashable
LONGEST_WAY = 199  # steps to success; no solver here finds longer ways


class Language(Protocol):
    """A finite set of texts.

    Where one segment begins another, what may follow the shorter one must not go on like the longer one, so that a
    text can be read in one way only.
    """

    @property
    def start(self) -> State: ...

    @property
    def longest(self) -> int:
        """No text has more characters than this."""
        ...

    def segments(self, state: State) -> Mapping[str, State]:
        """How a text may go on: segment -> the state after it."""
        ...

    def may_end(self, state: State) -> bool: ...


@dataclass(frozen=True)
class Choices:
    """A few answers, such as yes and no."""

    answers: tuple[str, ...]

    @property
    def start(self) -> State:
        return 0

    @property
    def longest(self) -> int:
        return max(map(len, self.answers))

    def segments(self, state: State) -> Mapping[str, State]:
        return dict.fromkeys(self.answers, 1) if state == 0 else {}

    def may_end(self, state: State) -> bool:
        return state == 1


@dataclass(frozen=True)
class Lists:
    """Lists of so many words: actions, or, where no word repeats, the orders of some labels.

    Attributes:
        words: none of them contains the separator.
        count: how many words a list has.
        separator: what stands between them.
        repeat: whether a word may occur twice.
    """

    words: tuple[str, ...]
    count: int
    separator: str = ", "
    repeat: bool = True

    @property
    def start(self) -> State:
        return ()

    @property
    def longest(self) -> int:
        return self.count * (max(map(len, self.words)) + len(self.separator))

    def segments(self, state: State) -> Mapping[str, State]:
        assert isinstance(state, tuple)
        if len(state) == self.count:
            return {}
        before = self.separator if state else ""
        numbers = [n for n in range(len(self.words)) if self.repeat or n not in state]
        return {before + self.words[number]: (*state, number) for number in numbers}

    def may_end(self, state: State) -> bool:
        return isinstance(state, tuple) and len(state) == self.count


@dataclass(frozen=True)
class Numbers:
    """Decimal numbers of up to four digits before the point and up to ``decimals`` behind it."""

    decimals: int = 2
    signed: bool = True

    @property
    def start(self) -> State:
        return ("sign", 0)

    @property
    def longest(self) -> int:
        return 6 + self.decimals

    def segments(self, state: State) -> Mapping[str, State]:
        assert isinstance(state, tuple)
        place, digits = state
        room = self.decimals if place == "after" else 4
        same = "after" if place == "after" else "before"
        found: dict[str, State] = dict.fromkeys("0123456789", (same, digits + 1)) if digits < room else {}
        if place == "sign" and self.signed:
            found["-"] = ("before", 0)
        if place == "before" and digits and self.decimals:
            found["."] = ("after", 0)
        return found

    def may_end(self, state: State) -> bool:
        return isinstance(state, tuple) and state[1] > 0


@dataclass(frozen=True)
class GridStates:
    """States of a board as one line per row and one word per cell."""

    schema: BoardSchema

    @property
    def start(self) -> State:
        return 0

    @property
    def longest(self) -> int:
        cells = self.schema.width * self.schema.height
        return cells * (1 + max(map(len, self.schema.contents)))

    def segments(self, state: State) -> Mapping[str, State]:
        assert isinstance(state, int)
        if self.may_end(state):
            return {}
        before = "" if state == 0 else "\n" if state % self.schema.width == 0 else " "
        return {before + glyph: state + 1 for glyph in self.schema.contents}

    def may_end(self, state: State) -> bool:
        return state == self.schema.width * self.schema.height


Place = tuple[int, int, str]  # row, column and detail: things of a kind are written in this order


@dataclass(frozen=True)
class _Written:
    """What a text about things has said so far.

    Attributes:
        kind: the kind last written, as its number in the schema; -1 before the first.
        last: where its last thing is.
        cells: (row, column) -> what is there, for cells with something in them, sorted.
    """

    kind: int = -1
    last: Place = (-1, -1, "")
    cells: tuple[tuple[tuple[int, int], CellContent], ...] = ()


@dataclass(frozen=True)
class _Column:
    """In the middle of a thing: after its column."""

    written: _Written
    kind: int
    x: int


@dataclass(frozen=True)
class _Kind:
    """Before a thing of a kind."""

    written: _Written
    kind: int


_CLOSED = "closed"


@dataclass(frozen=True)
class _ThingStates(ABC):
    """States of a board as things, kind by kind, in the order in which the writer of ``worlds.text`` puts them."""

    schema: BoardSchema
    _memory: dict[tuple[_Written, int], list[Place]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def start(self) -> State:
        return _Written()

    @cached_property
    def _kinds(self) -> list[str]:
        return list(self.schema.kinds)

    @cached_property
    def _rest(self) -> dict[CellContent, list[list[tuple[int, str]]]]:
        """For each part of what a cell can hold, what may still come to make it whole: (kind, detail) lists."""
        numbers = {kind: number for number, kind in enumerate(self._kinds)}
        rest: dict[CellContent, list[list[tuple[int, str]]]] = {}
        for whole in self.schema.glyphs:
            for chosen in range(1 << len(whole)):
                part = tuple(thing for n, thing in enumerate(whole) if chosen >> n & 1)
                missing = [(numbers[k], d) for n, (k, d) in enumerate(whole) if not chosen >> n & 1]
                rest.setdefault(part, []).append(missing)
        return rest

    def _can_be(self, cell: tuple[int, int], content: CellContent, kind: int, place: Place) -> bool:
        """Whether a cell can still become something, once a thing of ``kind`` has been written at ``place``."""
        return any(
            all(other > kind or (other == kind and (*cell, detail) > place) for other, detail in missing)
            for missing in self._rest.get(content, ())
        )

    def _open_cells(self, written: _Written) -> list[tuple[tuple[int, int], CellContent]]:
        """Cells that cannot stay as they are."""
        filled = dict(written.cells)
        found = [(cell, content) for cell, content in written.cells if content not in self.schema.glyphs]
        if () not in self.schema.glyphs:
            rows, columns = range(self.schema.height), range(self.schema.width)
            found += [((y, x), ()) for y in rows for x in columns if (y, x) not in filled]
        return found

    def _places(self, written: _Written, kind: int) -> list[Place]:
        """Where the next thing may be, if it is of ``kind``, so that the text can still come to an end."""
        if (written, kind) not in self._memory:
            if len(self._memory) > 1 << 12:
                self._memory.clear()
            self._memory[written, kind] = list(self._find_places(written, kind))
        return self._memory[written, kind]

    def _find_places(self, written: _Written, kind: int) -> Iterator[Place]:
        filled, open_cells = dict(written.cells), self._open_cells(written)
        name = self._kinds[kind]
        after = written.last if kind == written.kind else (-1, -1, "")
        for y in range(self.schema.height):
            for x in range(self.schema.width):
                for detail in sorted(self.schema.kinds[name]):
                    place = (y, x, detail)
                    content = tuple(sorted([*filled.get((y, x), ()), (name, detail)]))
                    if (
                        place > after
                        and self._can_be((y, x), content, kind, place)
                        and all(self._can_be(c, had, kind, place) for c, had in open_cells if c != (y, x))
                    ):
                        yield place

    def _add(self, written: _Written, kind: int, place: Place) -> _Written:
        cells = dict(written.cells)
        cell = place[:2]
        cells[cell] = tuple(sorted([*cells.get(cell, ()), (self._kinds[kind], place[2])]))
        return _Written(kind, place, tuple(sorted(cells.items())))

    @property
    def _most_things(self) -> int:
        return self.schema.width * self.schema.height * max(map(len, self.schema.glyphs))

    @property
    def longest(self) -> int:
        detail = max(len(detail) for details in self.schema.kinds.values() for detail in details)
        return self._most_things * (16 + detail) + sum(len(kind) + 12 for kind in self._kinds)

    def segments(self, state: State) -> Mapping[str, State]:
        match state:
            case _Written():
                return self._between(state)
            case _Kind(written, kind):
                columns = sorted({x for _, x, _ in self._places(written, kind)})
                return {self._write_column(x): _Column(written, kind, x) for x in columns}
            case _Column(written, kind, column):
                return {
                    self._write_rest(y, detail): self._add(written, kind, (y, x, detail))
                    for y, x, detail in self._places(written, kind)
                    if x == column
                }
        return {}

    def _between(self, written: _Written) -> Mapping[str, State]:
        found: dict[str, State] = {}
        for kind in range(max(0, written.kind), len(self._kinds)):
            if self._places(written, kind):
                found[self._write_kind(written, kind)] = _Kind(written, kind)
        return found

    def _whole(self, written: _Written) -> bool:
        return not self._open_cells(written)

    @abstractmethod
    def _write_kind(self, written: _Written, kind: int) -> str:
        """What leads from one thing to the next, which is of ``kind``."""

    @abstractmethod
    def _write_column(self, x: int) -> str: ...

    @abstractmethod
    def _write_rest(self, y: int, detail: str) -> str: ...

    @abstractmethod
    def may_end(self, state: State) -> bool: ...


class NaturalStates(_ThingStates):
    """States of a board as ``agent 1 2 east; goal 4 4; wall 0 0, 1 0``."""

    def _write_kind(self, written: _Written, kind: int) -> str:
        if kind == written.kind:
            return ", "
        return f"{'' if written.kind < 0 else '; '}{self._kinds[kind]} "

    def _write_column(self, x: int) -> str:
        return f"{x} "

    def _write_rest(self, y: int, detail: str) -> str:
        return f"{y} {detail}".strip()

    def may_end(self, state: State) -> bool:
        return isinstance(state, _Written) and state.kind >= 0 and self._whole(state)


class JsonStates(_ThingStates):
    """States of a board as ``{"agent": [[1, 2, "east"]], "wall": [[0, 0], [1, 0]]}``."""

    def _between(self, written: _Written) -> Mapping[str, State]:
        closing = {("{}" if written.kind < 0 else "]}"): _CLOSED} if self._whole(written) else {}
        return {**super()._between(written), **closing}

    def _write_kind(self, written: _Written, kind: int) -> str:
        if kind == written.kind:
            return ", ["
        return f"{'{' if written.kind < 0 else '], '}{json.dumps(self._kinds[kind])}: [["

    def _write_column(self, x: int) -> str:
        return f"{x}, "

    def _write_rest(self, y: int, detail: str) -> str:
        return f"{y}, {json.dumps(detail)}]" if detail else f"{y}]"

    def may_end(self, state: State) -> bool:
        return state == _CLOSED


_STATES: dict[Representation, type[GridStates] | type[NaturalStates] | type[JsonStates]] = {
    "grid": GridStates,
    "natural": NaturalStates,
    "json": JsonStates,
}


def language_of(sample: Sample) -> Language:
    """Every answer to a sample that the scorer can read, in canonical form."""
    asked = sample.pattern.asked
    if sample.pattern.choices:
        return Choices(tuple(LABELS[: sample.pattern.choices]))
    match sample.pattern.task:
        case "order":
            return orders(LABELS[: len(asked)])
        case "budget":
            return Choices((*map(str, range(LONGEST_WAY + 1)), IMPOSSIBLE))
        case "state":
            return _STATES[sample.representation](sample.world.schema)
        case "actions" | "policy":
            return Lists(sample.world.actions, len(asked))
        case "reward":
            return Numbers()
        case _:
            return Choices((YES, NO))


def orders(labels: Sequence[str], separator: str = " ") -> Lists:
    """Every order of some labels."""
    return Lists(tuple(labels), len(labels), separator, repeat=False)

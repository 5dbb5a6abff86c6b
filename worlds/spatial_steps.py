"""Steps of reasoning in words: a few forms of sentences, each of which states one thing that can be checked.

They hold no full stop after a capital letter and no brace, so that readers of answers take neither for an answer nor
for a map. Knows nothing about questions, or about whether a statement is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worlds.spatial_grid import AHEAD, BEHIND, TO_LEFT, TO_RIGHT, Cell, Heading, View

_MINE = {AHEAD: "ahead of me", TO_RIGHT: "to my right", BEHIND: "behind me", TO_LEFT: "to my left"}
_SEEN = {AHEAD: "away from me", TO_RIGHT: "to my right", BEHIND: "me", TO_LEFT: "to my left"}
_TURN = {TO_RIGHT: "90 degrees to the right", BEHIND: "around", TO_LEFT: "90 degrees to the left"}


@dataclass(frozen=True)
class Steps:
    """Statements in order; every method gives the same with one more.

    Attributes:
        lines: the statements, a sentence each.
    """

    lines: tuple[str, ...] = ()

    def shows(self, word: str, number: int, names: Sequence[str]) -> Steps:
        """What can be seen in an image."""
        return self._and(f"{word} {number} shows {listed([f'the {name}' for name in names])}.")

    def looks(self, word: str, views: Iterable[View]) -> Steps:
        """Where images were taken, and which way the camera looked."""
        steps = self
        for number, view in enumerate(views, start=1):
            steps = steps._and(f"{word} {number} was taken at {_cell(view.cell)} and looks {view.heading}.")
        return steps

    def towards(self, number: int, heading: Heading) -> Steps:
        """Which image looks some way."""
        return self._and(f"Image {number} looks {heading}.")

    def stand(self, cell: Cell, heading: Heading) -> Steps:
        return self._and(f"I stand at {_cell(cell)} and face {heading}.")

    def turned(self, heading: Heading, quarters: int) -> Steps:
        """A turn of somebody who faced ``heading`` before it."""
        return self._and(f"I turn {_TURN[quarters]} and then face {heading.turned(quarters)}.")

    def at(self, name: str, cell: Cell) -> Steps:
        return self._and(f"The {name} is at {_cell(cell)}.")

    def faces(self, name: str, cell: Cell, heading: Heading) -> Steps:
        return self._and(f"The {name} is at {_cell(cell)} and faces {heading}.")

    def seen_facing(self, number: int, name: str, side: int) -> Steps:
        """Which way something faces for one who looks at an image of it, in quarter turns to the right."""
        return self._and(f"In image {number} the {name} faces {_SEEN[side]}.")

    def forward(self, cell: Cell) -> Steps:
        """Where a step forward leads."""
        return self._and(f"A step forward leads to {_cell(cell)}.")

    def distance(self, name: str, before: int, after: int) -> Steps:
        """The square of a distance before and after the step."""
        return self._and(f"The square of the distance to the {name} goes from {before} to {after}.")

    def move(self, start: Cell, end: Cell) -> Steps:
        """The way between two cells, along the rows and columns."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        parts = [
            f"{abs(length)} {heading}"
            for length, heading in (
                (dx, Heading.RIGHT if dx > 0 else Heading.LEFT),
                (dy, Heading.DOWN if dy > 0 else Heading.UP),
            )
            if length
        ]
        return self._and(f"From {_cell(start)} to {_cell(end)} it is {listed(parts)}.")

    def means(self, heading: Heading, side: int) -> Steps:
        """Which way on the map one's own side is."""
        return self._and(f"When I face {heading}, {_MINE[side]} is {heading.turned(side)}.")

    def lies(self, cell: Cell, name: str, heading: Heading) -> Steps:
        """Which way something is from a cell."""
        return self._and(f"Seen from {_cell(cell)}, the {name} is {heading}.")

    def so(self, conclusion: str) -> Steps:
        return self._and(f"So {conclusion}.")

    def _and(self, line: str) -> Steps:
        return Steps((*self.lines, line))


def listed(parts: Sequence[str]) -> str:
    """``one, two and three``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def an(name: str) -> str:
    """A name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _cell(cell: Cell) -> str:
    return f"[{cell[0]}, {cell[1]}]"

"""What stands on the cells of a MiniGrid board: as words, as numbers, as things and as tiles.

Every content of a cell has one word (see ``_words``), and a board is written as such words, row by row, separated by
blanks. Box contents follow in parentheses, ``xr(kg)``: a red box with a green key inside. What can be seen of a word
is the part before the parenthesis; each such *visible* word has a number, its *code*.

This module knows nothing about agents, missions and episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from minigrid.core.constants import STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Door, Floor, Goal, Key, Lava, Wall, WorldObj
from numpy.typing import NDArray

from worlds.core import BoardSchema, CellContent, Thing, WorldError
from worlds.tiles import TileAtlas

FACINGS = ("east", "south", "west", "north")  # by MiniGrid's direction number
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (dx, dy) by direction number
EMPTY, WALL, GOAL, LAVA = ".", "#", "G", "L"
UNKNOWN = "?"  # a cell of a partial view that the agent does not see

_AGENTS = (">", "v", "<", "^")  # by direction number
_COLOUR_LETTERS = {"red": "r", "green": "g", "blue": "b", "purple": "p", "yellow": "y", "grey": "e"}
_MOVING_KINDS = (Door, Key, Ball, Box)  # objects that actions change; all others may be shared between grids
_KINDS = ("goal", "lava", "wall", "floor", "door", "key", "ball", "box")  # in writing order
_PORTABLE_KINDS = ("key", "ball", "box")

# ------------------------------------------------------------------------------------------------------------- words


def _words() -> dict[str, tuple[str, str]]:
    """Each object's word with its (kind, detail): letters for the kind, a door's state and the colour."""
    words = {WALL: ("wall", ""), GOAL: ("goal", ""), LAVA: ("lava", "")}
    for colour, letter in _COLOUR_LETTERS.items():
        words |= {f"{kind[0]}{letter}": (kind, colour) for kind in ("floor", "key")}
        words |= {f"o{letter}": ("ball", colour), f"x{letter}": ("box", colour)}
        words |= {f"d{state[0]}{letter}": ("door", f"{colour} {state}") for state in STATE_TO_IDX}
    return words


THINGS: Mapping[str, tuple[str, str]] = MappingProxyType(_words())  # (kind, detail) by visible word
WORDS: Mapping[tuple[str, str], str] = MappingProxyType({thing: word for word, thing in THINGS.items()})
PORTABLE = frozenset(word for word, (kind, _) in THINGS.items() if kind in _PORTABLE_KINDS)


def _new_object(word: str) -> WorldObj:
    """The object that a word without contents names."""
    kind, detail = THINGS[word]
    colour, _, state = detail.partition(" ")
    match kind:
        case "wall":
            return Wall()
        case "goal":
            return Goal()
        case "lava":
            return Lava()
        case "floor":
            return Floor(colour)
        case "key":
            return Key(colour)
        case "ball":
            return Ball(colour)
        case "box":
            return Box(colour)
    return Door(colour, is_open=state == "open", is_locked=state == "locked")


_OBJECTS = {word: _new_object(word) for word in THINGS}  # to ask them what they are like; never on a board
_WORD_OF_CODE = {thing.encode(): word for word, thing in _OBJECTS.items()}  # by MiniGrid's (type, colour, state)
_SHARED = {word: thing for word, thing in _OBJECTS.items() if not isinstance(thing, _MOVING_KINDS)}
ENTERABLE = frozenset(word for word, thing in _OBJECTS.items() if thing.can_overlap())  # besides empty cells


def word_of(thing: WorldObj | None) -> str:
    """The word of an object, with what it contains in parentheses."""
    if thing is None:
        return EMPTY
    word = _WORD_OF_CODE.get(thing.encode())
    if word is None:
        raise WorldError(f"MiniGrid world: no word for a {thing.color} {thing.type}; only ordinary objects are known")
    return f"{word}({word_of(thing.contains)})" if thing.contains is not None else word


def object_of(word: str) -> WorldObj | None:
    """The inverse of ``word_of``. Objects that no action changes are shared, which makes restoring fast."""
    if word == EMPTY:
        return None
    if word in _SHARED:
        return _SHARED[word]
    outer, _, contents = word.partition("(")
    thing = _new_object(outer)
    if contents:
        thing.contains = object_of(contents[:-1])  # pyright: ignore[reportAttributeAccessIssue]
    return thing


def seen_of(word: str) -> str:
    """The visible part of a word: without what a box contains."""
    return word.partition("(")[0]


@lru_cache(maxsize=1024)
def visible_words(cells: str) -> tuple[str, ...]:
    """The visible word of each cell, row by row."""
    return tuple(seen_of(word) for word in cells.split())


def describe(word: str) -> str:
    """A visible word in English: "yellow key", "red box"."""
    kind, detail = THINGS[word]
    return f"{detail} {kind}".strip()


# ------------------------------------------------------------------------------------------------------------- codes

_CODED = (EMPTY, *THINGS)  # the visible word of each code
CODES: Mapping[str, int] = MappingProxyType({word: code for code, word in enumerate(_CODED)})
ENTERED = frozenset(word for word in _CODED if word == EMPTY or _OBJECTS[word].can_overlap())  # where agents can stand
TRANSPARENT = np.array([word == EMPTY or _OBJECTS[word].see_behind() for word in _CODED])  # (codes,) bool


@lru_cache(maxsize=1024)
def codes_of(cells: str) -> NDArray[np.uint8]:
    """The code of each cell, (H*W,). Not to be written to."""
    return np.array([CODES[word] for word in visible_words(cells)], np.uint8)


def word_of_code(code: int) -> str:
    """The visible word that has a code."""
    return _CODED[code]


# ------------------------------------------------------------------------------------------------------------ things


@lru_cache(maxsize=1024)
def visible_things(cells: str, width: int) -> frozenset[Thing]:
    """Everything but the agent. Cached: all states of an episode in a static world ask for the same."""
    return frozenset(
        Thing(kind, cell % width, cell // width, detail)
        for cell, word in enumerate(visible_words(cells))
        if word != EMPTY
        for kind, detail in [THINGS[word]]
    )


@lru_cache(maxsize=64)
def full_schema(width: int, height: int) -> BoardSchema:
    """All that a whole board can show: any object alone, the agent alone or where it can stand."""
    contents: dict[str, CellContent] = {EMPTY: (), **{word: (thing,) for word, thing in THINGS.items()}}
    for facing, arrow in zip(FACINGS, _AGENTS, strict=True):
        contents[arrow] = (("agent", facing),)
        for word in ENTERABLE:
            contents[arrow + word] = tuple(sorted([("agent", facing), THINGS[word]]))
    kinds: dict[str, tuple[str, ...]] = {"agent": FACINGS, **_details()}
    return BoardSchema(width, height, kinds, {content: word for word, content in contents.items()})


@lru_cache(maxsize=8)
def partial_schema(size: int) -> BoardSchema:
    """All that a view of ``size`` x ``size`` cells can show: objects, unknown cells, the agent and what it carries."""
    contents: dict[str, CellContent] = {EMPTY: (), **{word: (thing,) for word, thing in THINGS.items()}}
    contents[UNKNOWN] = (("unknown", ""),)
    agent = _AGENTS[3]
    contents[agent] = (("agent", ""),)
    for word, thing in [(word, THINGS[word]) for word in PORTABLE] + [(UNKNOWN, ("unknown", ""))]:
        contents[agent + word] = tuple(sorted([("agent", ""), thing]))
    kinds: dict[str, tuple[str, ...]] = {"agent": ("",), **_details(), "unknown": ("",)}
    return BoardSchema(size, size, kinds, {content: word for word, content in contents.items()})


def _details() -> dict[str, tuple[str, ...]]:
    return {kind: tuple(detail for name, detail in THINGS.values() if name == kind) for kind in _KINDS}


# ------------------------------------------------------------------------------------------------------------- tiles

# A tile shows a content in one of these ways; its number is code * LOOKS + look.
PLAIN = 0
AGENT = 1  # plus the direction number: with the agent on it
LIT = 5  # highlighted, as MiniGrid draws the cells an agent sees
LIT_AGENT = 6  # highlighted, with an agent that faces up
LOOKS = 7
LIT_TILES = np.arange(len(_CODED)) * LOOKS + LIT  # (codes,)
UNSEEN_TILE = CODES[EMPTY] * LOOKS + PLAIN


class Tiles:
    """MiniGrid's own tiles at one size, drawn when first needed: all of them would take seconds at 32 px."""

    def __init__(self, size: int) -> None:
        self.size = size
        count = len(_CODED) * LOOKS
        self._drawn = np.zeros(count, bool)
        self._atlas = TileAtlas(np.zeros((count, size, size, 3), np.uint8))

    def render(self, numbers: NDArray[np.intp]) -> NDArray[np.uint8]:
        """The images (B, H*t, W*t, 3) of boards given as tile numbers (B, H, W)."""
        if not self._drawn[numbers].all():
            for number in np.unique(numbers):
                if not self._drawn[number]:
                    self._atlas.put(number, self._draw(*divmod(int(number), LOOKS)))
                    self._drawn[number] = True
        return self._atlas.render(numbers)

    def _draw(self, code: int, look: int) -> NDArray[np.uint8]:
        facing = 3 if look == LIT_AGENT else look - AGENT if AGENT <= look < LIT else None
        thing = object_of(_CODED[code])
        return Grid.render_tile(thing, agent_dir=facing, highlight=look >= LIT, tile_size=self.size)


@lru_cache(maxsize=8)
def tiles(size: int) -> Tiles:
    """The tiles at one size, shared by all worlds of a process."""
    return Tiles(size)


@lru_cache(maxsize=1024)
def plain_tiles(cells: str) -> NDArray[np.intp]:
    """The number of each cell's tile without the agent, (H*W,). Not to be written to."""
    return codes_of(cells).astype(np.intp) * LOOKS + PLAIN

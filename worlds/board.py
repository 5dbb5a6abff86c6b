"""What the worlds share that draw their own frames.

:class:`EpisodeWorld` is the plumbing of an episode: seeds, splits, checked actions, frames. :class:`GridWorld` is one
whose frames are cells seen from above. :class:`BoardWorld` adds states that are immutable boards (a fixed ground, an
agent, movable boxes) moved on by a pure function, so that a world is only its rules, its tiles and its solver.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from operator import index as as_integer
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import NDArray

from worlds.core import (
    MAX_LAYOUT_TRIES,
    BoardSchema,
    CellContent,
    Facts,
    Frame,
    Snapshot,
    State,
    Thing,
    World,
    WorldError,
    check_enough_layouts,
    count_layouts,
    layout_seeds,
    wanted_split,
)
from worlds.tiles import MIN_TILE_SIZE, Canvas, TileAtlas, draw_tiles

DISTANCES_KEPT = 1 << 14  # boards whose distance from success a world remembers


_LAYOUTS: dict[tuple[Any, ...], int] = {}  # how many layouts were found, by their source


class EpisodeWorld(World):
    """A world whose observation is its rendered state.

    A terminated episode stays as it is: a further step changes nothing, pays 0 and is ``terminated`` again.
    """

    def __init__(self, id: str, *, frame: tuple[int, int], actions: tuple[str, ...], max_steps: int) -> None:
        """``frame`` is the height and the width of an observation in pixels."""
        if max_steps < 1:
            raise WorldError(f"world {id}: max_steps is {max_steps}; it must be at least 1")
        self.id = id
        self.actions = actions
        self.max_steps = max_steps
        self.observation_space = copy(_space(*frame))
        self.action_space = Discrete(len(actions))

    @abstractmethod
    def start(self, layout_seed: int) -> None:
        """Begin an episode in the layout and at the place that follow from the seed."""

    @abstractmethod
    def advance(self, action: int) -> float:
        """Take one step in an episode that has not terminated; returns the reward."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The present state, exactly."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many steps the episode has had."""

    @property
    @abstractmethod
    def success(self) -> bool:
        """Whether the present state is what the world asks for."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        split = wanted_split(options)
        if split is not None:
            check_enough_layouts(self.id, self.layouts())
        for layout_seed in layout_seeds(self.np_random):
            self.start(layout_seed)
            if split is None or self.split(self.snapshot()) == split:
                return self.render(), {"success": self.success}
        raise WorldError(
            f"world {self.id}: no layout of split {split!r} in {MAX_LAYOUT_TRIES} tries; "
            "it has too few layouts to be split"
        )

    def layouts(self) -> int:
        source = self.layout_source
        if source not in _LAYOUTS:
            _LAYOUTS[source] = count_layouts(self._drawn_layouts())
        return _LAYOUTS[source]

    @property
    def layout_source(self) -> tuple[Any, ...]:
        """Equal for worlds that draw their layouts in the same way, so that these are counted once per process."""
        return (type(self), self.id, self.max_steps)

    def _drawn_layouts(self) -> Iterator[str]:
        for layout_seed in layout_seeds(np.random.default_rng(0)):
            self.start(layout_seed)
            yield self.key(self.snapshot())

    def step(self, action: SupportsIndex) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        number = as_integer(action)
        if not 0 <= number < len(self.actions):
            raise WorldError(f"world {self.id}: action {number} is not one of 0 to {len(self.actions) - 1}")
        reward = 0.0 if self.terminated else self.advance(number)
        truncated = self.steps >= self.max_steps
        return self.render(), reward, self.terminated, truncated, {"success": self.success}

    def state(self) -> State:
        snapshot = self.snapshot()
        return State(snapshot, self.facts(snapshot))

    def render(self) -> Frame:  # type: ignore[override]
        return self.render_states([self.snapshot()])[0]


class GridWorld(EpisodeWorld):
    """A world of cells, each drawn as a square tile."""

    def __init__(
        self, id: str, *, width: int, height: int, tile_size: int, actions: tuple[str, ...], max_steps: int
    ) -> None:
        if tile_size < MIN_TILE_SIZE:
            raise WorldError(f"world {id}: tile_size is {tile_size} px; at least {MIN_TILE_SIZE} px can be told apart")
        super().__init__(id, frame=(height * tile_size, width * tile_size), actions=actions, max_steps=max_steps)
        self.width, self.height, self.tile_size = width, height, tile_size

    @property
    def layout_source(self) -> tuple[Any, ...]:
        return (type(self), self.id, self.width, self.height, self.max_steps)


_MOVERS = ("", "box", "agent")
BARE, BOX, AGENT = range(len(_MOVERS))


class Board(NamedTuple):
    """A state. Cells are numbered row by row: cell = y * width + x."""

    ground: str  # one glyph per cell, fixed for the episode
    agent: int
    boxes: tuple[int, ...] = ()  # sorted


@dataclass(frozen=True)
class Look:
    """How one content of a cell is written and drawn."""

    ground: str  # kind of the fixed thing, "" where the cell is bare
    mover: str  # "agent", "box", or "" for none
    glyph: str  # one character
    draw: Callable[[Canvas], None]


class BoardWorld(GridWorld):
    """A world whose states are boards.

    Subclasses list the ``kinds`` of things in writing order and the ``looks`` of every possible cell, and implement
    the abstract methods as pure functions of boards. In snapshots, ``map`` is the ground, written with the
    glyphs of bare cells.
    """

    kinds: ClassVar[tuple[str, ...]]
    looks: ClassVar[tuple[Look, ...]]

    board: Board
    _steps: int

    def __init__(self, id: str, *, size: int, tile_size: int, actions: tuple[str, ...], max_steps: int) -> None:
        super().__init__(id, width=size, height=size, tile_size=tile_size, actions=actions, max_steps=max_steps)
        self.size = size
        self._distances: dict[Board, int | None] = {}
        self.schema = BoardSchema(
            width=size,
            height=size,
            kinds=dict.fromkeys(self.kinds, ("",)),
            glyphs={_content(look): look.glyph for look in self.looks},
        )
        glyph_of_ground = {look.ground: look.glyph for look in self.looks if not look.mover}
        self._ground_kinds = tuple((glyph, kind) for kind, glyph in glyph_of_ground.items() if kind)
        # The number of the tile by what moves on a cell (BARE, BOX or AGENT) and the ASCII code of its ground.
        self.tiles_of = np.zeros((len(_MOVERS), 128), np.intp)
        for tile, look in enumerate(self.looks):
            self.tiles_of[_MOVERS.index(look.mover), ord(glyph_of_ground[look.ground])] = tile
        self.atlas = _atlas(tile_size, self.looks)

    @abstractmethod
    def generate(self, layout_seed: int) -> Board:
        """The random board of a seed, from which success can be reached and has not been; always the same."""

    @abstractmethod
    def transition(self, board: Board, action: int) -> tuple[Board, float]:
        """The next board and the reward."""

    @abstractmethod
    def is_success(self, board: Board) -> bool:
        """Whether the board is what the world asks for."""

    def is_terminal(self, board: Board) -> bool:
        """Whether the board ends the episode."""
        return self.is_success(board)

    def is_possible(self, board: Board) -> bool:
        """Whether a board that somebody imagined is one that ``transition`` can go on from."""
        return True

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        """By trying everything, layer by layer; a world with a solver of its own is faster."""
        return self._distance(board_of(snapshot))

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        board = board_of(snapshot)
        left = self._distance(board)
        if not left:
            return ()
        following = (self.transition(board, action)[0] for action in range(len(self.actions)))
        return tuple(action for action, after in enumerate(following) if self._distance(after) == left - 1)

    def _distance(self, board: Board) -> int | None:
        """The fewest steps from a board to success."""
        if board not in self._distances:
            if len(self._distances) >= DISTANCES_KEPT:
                self._distances.clear()
            self._distances[board] = self._search(board)
        return self._distances[board]

    def _search(self, board: Board) -> int | None:
        layer, seen, steps = [board], {board}, 0
        while layer:
            if any(map(self.is_success, layer)):
                return steps
            reached = {
                self.transition(before, action)[0]
                for before in layer
                if not self.is_terminal(before)
                for action in range(len(self.actions))
            }
            layer = list(reached - seen)
            seen |= reached
            steps += 1
        return None

    @property
    def steps(self) -> int:
        return self._steps

    @property
    def terminated(self) -> bool:
        return self.is_terminal(self.board)

    @property
    def success(self) -> bool:
        return self.is_success(self.board)

    def start(self, layout_seed: int) -> None:
        self.board = self.generate(layout_seed)
        self._steps = 0

    def advance(self, action: int) -> float:
        self.board, reward = self.transition(self.board, action)
        self._steps += 1
        return reward

    def snapshot(self) -> dict[str, Any]:
        ground, agent, boxes = self.board
        snapshot: dict[str, Any] = {"map": ground, "agent": agent, "steps": self._steps}
        if boxes:
            snapshot["boxes"] = list(boxes)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        self.board = board_of(snapshot)
        self._steps = snapshot["steps"]

    def layout(self, snapshot: Snapshot) -> str:
        return snapshot["map"]

    def facts(self, snapshot: Snapshot) -> Facts:
        ground, agent, boxes = board_of(snapshot)
        movers = [_thing("box", cell, self.size) for cell in boxes]
        movers.append(_thing("agent", agent, self.size))
        return Facts(_ground_things(ground, self.size, self._ground_kinds).union(movers))

    def realise(self, facts: Facts, like: Snapshot) -> dict[str, Any] | None:
        if not self.schema.allows(facts):
            return None
        glyphs = {kind: glyph for glyph, kind in self._ground_kinds}
        bare = next(look.glyph for look in self.looks if not (look.ground or look.mover))
        ground = [bare] * (self.size * self.size)
        movers: dict[str, list[int]] = {"agent": [], "box": []}
        for thing in facts.things:
            cell = thing.y * self.size + thing.x
            if thing.kind in glyphs:
                ground[cell] = glyphs[thing.kind]
            else:
                movers[thing.kind].append(cell)
        if len(movers["agent"]) != 1 or len(movers["box"]) != len(like.get("boxes", ())):
            return None
        realised = {**like, "map": "".join(ground), "agent": movers["agent"][0]}
        if movers["box"]:
            realised["boxes"] = sorted(movers["box"])
        return realised if self.is_possible(board_of(realised)) else None

    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        ground = "".join([snapshot["map"] for snapshot in snapshots]).encode("ascii")
        codes = np.frombuffer(ground, np.uint8)  # (B*H*W,), the boards behind each other
        places = list(zip(range(0, len(codes), self.size * self.size), snapshots, strict=True))
        boxes = [first + cell for first, snapshot in places for cell in snapshot.get("boxes", ())]
        agents = [first + snapshot["agent"] for first, snapshot in places]
        index = self.tiles_of[BARE][codes]
        index[boxes] = self.tiles_of[BOX, codes[boxes]]
        index[agents] = self.tiles_of[AGENT, codes[agents]]
        return self.atlas.render(index.reshape(-1, self.size, self.size))


@lru_cache
def _space(height: int, width: int) -> Space[Frame]:
    """What worlds with frames of a size copy: to set up a space takes longer than all else of a world."""
    return Box(0, 255, (height, width, 3), np.uint8)


@lru_cache
def _atlas(tile_size: int, looks: tuple[Look, ...]) -> TileAtlas:
    """The tiles of all worlds that look alike: to draw them takes longer than to play an episode."""
    return TileAtlas(draw_tiles(tile_size, [look.draw for look in looks]))


def board_of(snapshot: Snapshot) -> Board:
    """The board that a snapshot holds."""
    return Board(snapshot["map"], snapshot["agent"], tuple(snapshot.get("boxes", ())))


def _content(look: Look) -> CellContent:
    return tuple(sorted((kind, "") for kind in (look.ground, look.mover) if kind))


@lru_cache(maxsize=4096)
def _thing(kind: str, cell: int, width: int) -> Thing:
    return Thing(kind, cell % width, cell // width)


@lru_cache(maxsize=4096)
def _ground_things(ground: str, width: int, kinds: tuple[tuple[str, str], ...]) -> frozenset[Thing]:
    """The fixed things of a board; ``kinds`` pairs a glyph with its kind. Cached: every state of a level asks."""
    kind_of: Mapping[str, str] = dict(kinds)
    return frozenset(_thing(kind_of[glyph], cell, width) for cell, glyph in enumerate(ground) if glyph in kind_of)

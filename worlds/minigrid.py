"""Worlds of the ``minigrid`` package, seen whole and from above, and one of our own in the same package.

``Rooms`` is an ordinary MiniGrid environment with random inner walls, registered with gymnasium. ``MiniGrid`` makes a
world of any MiniGrid environment whose rules are those of ``MiniGridEnv`` itself.

Every content of a cell has one word (see ``_words``), and a snapshot holds the grid as such words. Box contents follow
in parentheses, ``xr(kg)``: a red box with a green key inside. They are part of the snapshot and not of the facts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
from minigrid.core.actions import Actions
from minigrid.core.constants import STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Box, Door, Floor, Goal, Key, Lava, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from worlds.board import GridWorld
from worlds.core import BoardSchema, CellContent, Facts, Snapshot, Thing, WorldError
from worlds.tiles import TileAtlas

# MiniGrid's actions in words of their own: elsewhere "left" moves the agent, here it turns.
_NUMBERS = {
    "turn left": Actions.left,
    "turn right": Actions.right,
    **{action.name: action for action in Actions if action not in (Actions.left, Actions.right)},
}
ALL_ACTIONS = tuple(_NUMBERS)
NAVIGATION = ("turn left", "turn right", "forward")  # enough where nothing but walls, goals, lava and floors stands
FACINGS = ("east", "south", "west", "north")  # by MiniGrid's direction number

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (dx, dy) by direction number
_EMPTY, _GOAL, _LAVA = ".", "G", "L"
_AGENTS = (">", "v", "<", "^")  # by direction number
_COLOUR_LETTERS = {"red": "r", "green": "g", "blue": "b", "purple": "p", "yellow": "y", "grey": "e"}
_MOVING_KINDS = (Door, Key, Ball, Box)  # objects that actions change; all others may be shared between grids

# ------------------------------------------------------------------------------------------------------------- rooms


class Rooms(MiniGridEnv):
    """Random inner walls, a goal and an agent anywhere; the goal can always be reached.

    As in MiniGrid, the reward is 1 - 0.9 * steps / max_steps at the goal and 0 before.
    """

    def __init__(self, size: int, max_steps: int | None = None, **kwargs: Any) -> None:
        super().__init__(
            mission_space=MissionSpace(mission_func=lambda: "get to the green goal square"),
            grid_size=size,
            max_steps=max_steps or 4 * size * size,
            **kwargs,
        )

    def _gen_grid(self, width: int, height: int) -> None:
        inner = [(x, y) for y in range(1, height - 1) for x in range(1, width - 1)]
        while True:
            walls = int(self.np_random.integers(1, width - 1))  # 1 to width - 2
            start, goal, *blocked = (inner[i] for i in self.np_random.permutation(len(inner))[: walls + 2])
            if _connected(start, goal, set(inner) - set(blocked)):
                break
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for x, y in blocked:
            self.grid.set(x, y, Wall())
        self.put_obj(Goal(), *goal)
        self.agent_pos = start
        self.agent_dir = int(self.np_random.integers(4))
        self.mission = "get to the green goal square"


def _connected(start: tuple[int, int], goal: tuple[int, int], free: set[tuple[int, int]]) -> bool:
    reached, stack = {start}, [start]
    while stack:
        x, y = stack.pop()
        for dx, dy in _STEPS:
            cell = (x + dx, y + dy)
            if cell in free and cell not in reached:
                reached.add(cell)
                stack.append(cell)
    return goal in reached


for _size in (6, 8):
    gymnasium.register(
        id=f"VAGEN-Rooms-{_size}x{_size}-v0", entry_point="worlds.minigrid:Rooms", kwargs={"size": _size}
    )

# ------------------------------------------------------------------------------------------------------------- words


def _words() -> dict[str, tuple[str, str]]:
    """Each object's word with its (kind, detail): letters for the kind, a door's state and the colour."""
    words = {"#": ("wall", ""), _GOAL: ("goal", ""), _LAVA: ("lava", "")}
    for colour, letter in _COLOUR_LETTERS.items():
        words |= {f"{kind[0]}{letter}": (kind, colour) for kind in ("floor", "key")}
        words |= {f"o{letter}": ("ball", colour), f"x{letter}": ("box", colour)}
        words |= {f"d{state[0]}{letter}": ("door", f"{colour} {state}") for state in STATE_TO_IDX}
    return words


_THINGS: Mapping[str, tuple[str, str]] = MappingProxyType(_words())
_WORDS: Mapping[tuple[str, str], str] = MappingProxyType({thing: word for word, thing in _THINGS.items()})


def _new_object(word: str) -> WorldObj:
    """The object that a word without contents names."""
    kind, detail = _THINGS[word]
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


_WORD_OF_CODE = {_new_object(word).encode(): word for word in _THINGS}  # by MiniGrid's (type, colour, state)
_SHARED = {word: thing for word in _THINGS if not isinstance(thing := _new_object(word), _MOVING_KINDS)}
_ENTERABLE = frozenset(word for word in _THINGS if _new_object(word).can_overlap())  # besides empty cells


def _word(thing: WorldObj | None) -> str:
    """The word of an object, with what it contains in parentheses."""
    if thing is None:
        return _EMPTY
    word = _WORD_OF_CODE.get(thing.encode())
    if word is None:
        raise WorldError(f"MiniGrid world: no word for a {thing.color} {thing.type}; only ordinary objects are known")
    return f"{word}({_word(thing.contains)})" if thing.contains is not None else word


def _thing(word: str) -> WorldObj | None:
    """The inverse of ``_word``. Objects that no action changes are shared, which makes restoring fast."""
    if word == _EMPTY:
        return None
    if word in _SHARED:
        return _SHARED[word]
    outer, _, contents = word.partition("(")
    thing = _new_object(outer)
    if contents:
        thing.contains = _thing(contents[:-1])  # pyright: ignore[reportAttributeAccessIssue]
    return thing


@lru_cache(maxsize=1024)
def _visible_words(cells: str) -> tuple[str, ...]:
    """The word of each cell, row by row, without what boxes contain."""
    return tuple(word.partition("(")[0] for word in cells.split())


@lru_cache(maxsize=1024)
def _visible_things(cells: str, width: int) -> frozenset[Thing]:
    """Everything but the agent. Cached: all states of an episode in a static world ask for the same."""
    return frozenset(
        Thing(kind, cell % width, cell // width, detail)
        for cell, word in enumerate(_visible_words(cells))
        if word != _EMPTY
        for kind, detail in [_THINGS[word]]
    )


def _schema(width: int, height: int) -> BoardSchema:
    """All that MiniGrid can show on a board of this size: any object alone, the agent alone or where it can stand."""
    contents: dict[str, CellContent] = {_EMPTY: (), **{word: (thing,) for word, thing in _THINGS.items()}}
    for facing, arrow in zip(FACINGS, _AGENTS, strict=True):
        contents[arrow] = (("agent", facing),)
        for word in _ENTERABLE:
            contents[arrow + word] = tuple(sorted([("agent", facing), _THINGS[word]]))
    kinds: dict[str, tuple[str, ...]] = {"agent": FACINGS}
    for kind in ("goal", "lava", "wall", "floor", "door", "key", "ball", "box"):
        kinds[kind] = tuple(detail for name, detail in _THINGS.values() if name == kind)
    return BoardSchema(width, height, kinds, {content: word for word, content in contents.items()})


# ------------------------------------------------------------------------------------------------------------- tiles


class _Tiles:
    """MiniGrid's own tiles at one size, drawn when first needed: all of them would take seconds at 32 px."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._numbers: dict[tuple[str, int | None], int] = {}
        self._tiles: list[NDArray[np.uint8]] = []
        self._atlas: TileAtlas | None = None

    def number(self, word: str, facing: int | None = None) -> int:
        """The number of the tile that shows an object and, where ``facing`` is given, the agent."""
        number = self._numbers.get((word, facing))
        if number is None:
            number = self._numbers[word, facing] = len(self._tiles)
            self._tiles.append(Grid.render_tile(_thing(word), agent_dir=facing, tile_size=self.size))
            self._atlas = None
        return number

    def atlas(self) -> TileAtlas:
        """All tiles numbered so far."""
        if self._atlas is None:
            self._atlas = TileAtlas(np.stack(self._tiles))
        return self._atlas


@lru_cache(maxsize=8)
def _tiles(size: int) -> _Tiles:
    """The tiles at one size, shared by all worlds of a process."""
    return _Tiles(size)


@lru_cache(maxsize=1024)
def _tile_numbers(cells: str, tile_size: int) -> NDArray[np.intp]:
    """The tile of each cell without the agent, (H*W,). Not to be written to."""
    tiles = _tiles(tile_size)
    return np.array([tiles.number(word) for word in _visible_words(cells)], np.intp)


# ------------------------------------------------------------------------------------------------------------- world

_NAVIGATION_RULES = (
    "The picture shows a grid seen from above; columns are counted from the left and rows from the top, both from 0. "
    "The red triangle is the agent and points where it faces (east is right, south is down), plain grey cells are "
    "walls, the green cell is the goal, and orange cells with waves are lava. "
    "Turn left and turn right turn the agent by 90 degrees on the spot, and forward moves it one cell on, unless a "
    "wall or another object stands there. "
)
_OBJECT_RULES = (
    "Floors, doors, keys, balls and boxes have colours; a door is open, closed or locked. "
    "Pickup takes the key, ball or box in front of the agent, drop puts it down there, and toggle opens or closes a "
    "door (a locked one needs the key of its colour) or opens a box; done does nothing. "
)
_ENDS = "Entering lava ends the episode. Success is to reach the goal."


class MiniGrid(GridWorld):
    """A MiniGrid environment with a full view of its grid."""

    def __init__(
        self,
        id: str,
        env_id: str,
        tile_size: int = 8,
        max_steps: int | None = None,
        actions: tuple[str, ...] = NAVIGATION,
    ) -> None:
        """``actions`` is a choice from ``ALL_ACTIONS``; ``max_steps`` defaults to the environment's."""
        unknown = [action for action in actions if action not in ALL_ACTIONS]
        if unknown or not actions:
            raise WorldError(f"world {id}: unknown actions {unknown}; choose from {', '.join(ALL_ACTIONS)}")
        self.env = _make_env(id, env_id)
        if max_steps is not None:
            self.env.max_steps = max_steps  # the environment's reward depends on it too
        super().__init__(
            id,
            width=self.env.width,
            height=self.env.height,
            tile_size=tile_size,
            actions=actions,
            max_steps=self.env.max_steps,
        )
        self.schema = _schema(self.width, self.height)
        self._numbers = tuple(_NUMBERS[action] for action in actions)
        self._static = set(actions) <= {*NAVIGATION, "done"}  # no action changes the grid
        self.fully_visible = "pickup" not in actions  # what the agent carries is not drawn
        self.visible_reward = False  # it falls with the steps taken
        self.rules = _NAVIGATION_RULES + ("" if self._static else _OBJECT_RULES) + _ENDS

    def start(self, layout_seed: int) -> None:
        self.env.reset(seed=layout_seed)
        self._cells = self._first_cells = self._read_cells()

    def advance(self, action: int) -> float:
        _, reward, _, _, _ = self.env.step(self._numbers[action])
        if self._numbers[action] > Actions.forward:  # turning and walking leave the grid as it is
            self._cells = self._read_cells()
        return float(reward)

    @property
    def steps(self) -> int:
        return self.env.step_count

    @property
    def terminated(self) -> bool:
        return self._ground() in (_GOAL, _LAVA)

    @property
    def success(self) -> bool:
        return self._ground() == _GOAL

    def snapshot(self) -> dict[str, Any]:
        x, y = self.env.agent_pos
        snapshot: dict[str, Any] = {
            "cells": self._cells,
            "x": int(x),
            "y": int(y),
            "direction": int(self.env.agent_dir),
            "carrying": _word(self.env.carrying),
            "steps": self.env.step_count,
            "mission": self.env.mission,
        }
        if not self._static:
            snapshot["first_cells"] = self._first_cells
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        env = self.env
        self._cells = snapshot["cells"]
        self._first_cells = snapshot.get("first_cells", self._cells)
        env.grid = Grid(self.width, self.height)
        env.grid.grid = [_thing(word) for word in self._cells.split()]
        env.agent_pos = (snapshot["x"], snapshot["y"])
        env.agent_dir = snapshot["direction"]
        env.carrying = _thing(snapshot["carrying"])
        env.step_count = snapshot["steps"]
        env.mission = snapshot["mission"]

    def layout(self, snapshot: Snapshot) -> str:
        return snapshot["cells"] if self._static else snapshot["first_cells"]

    def facts(self, snapshot: Snapshot) -> Facts:
        agent = Thing("agent", snapshot["x"], snapshot["y"], FACINGS[snapshot["direction"]])
        return Facts(_visible_things(snapshot["cells"], self.width).union((agent,)))

    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        tiles = _tiles(self.tile_size)
        index = np.empty((len(snapshots), self.height * self.width), np.intp)  # (B, H*W)
        for row, snapshot in zip(index, snapshots, strict=True):
            cells = snapshot["cells"]
            row[:] = _tile_numbers(cells, self.tile_size)
            agent = snapshot["y"] * self.width + snapshot["x"]
            row[agent] = tiles.number(_visible_words(cells)[agent], snapshot["direction"])
        return tiles.atlas().render(index.reshape(-1, self.height, self.width))

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Shortest ways by turning and walking alone: closed doors and objects are in the way."""
        far = distances(snapshot["cells"], self.width)
        cell = snapshot["y"] * self.width + snapshot["x"]
        direction = snapshot["direction"]
        left = far.get((cell, direction), 0) - 1
        if left < 0:
            return ()
        dx, dy = _STEPS[direction]
        after = {
            Actions.left: (cell, (direction - 1) % 4),
            Actions.right: (cell, (direction + 1) % 4),
            Actions.forward: (cell + dy * self.width + dx, direction),
        }
        return tuple(i for i, action in enumerate(self._numbers) if action in after and far.get(after[action]) == left)

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        """By turning and walking alone, as in ``optimal_actions``; lava is no place to go on from."""
        cell = snapshot["y"] * self.width + snapshot["x"]
        return distances(snapshot["cells"], self.width).get((cell, snapshot["direction"]))

    def realise(self, facts: Facts, like: Snapshot) -> dict[str, Any] | None:
        if not self.schema.allows(facts):
            return None
        words = [_EMPTY] * (self.width * self.height)
        agents: list[Thing] = []
        for thing in facts.things:
            if thing.kind == "agent":
                agents.append(thing)
            else:
                words[thing.y * self.width + thing.x] = _WORDS[thing.kind, thing.detail]
        if len(agents) != 1:
            return None
        # What a box contains is not seen: a box that stands where it stood contains what it contained.
        before = like["cells"].split()
        cells = [old if old.partition("(")[0] == new else new for old, new in zip(before, words, strict=True)]
        agent = agents[0]
        return {**like, "cells": " ".join(cells), "x": agent.x, "y": agent.y, "direction": FACINGS.index(agent.detail)}

    def _read_cells(self) -> str:
        return " ".join(_word(thing) for thing in self.env.grid.grid)

    def _ground(self) -> str:
        """The word of what the agent stands on."""
        x, y = self.env.agent_pos
        return _word(self.env.grid.get(x, y))


def _make_env(id: str, env_id: str) -> MiniGridEnv:
    """The environment without wrappers and without its own observation, which nobody here looks at."""
    env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    if not isinstance(env, MiniGridEnv):
        raise WorldError(f"world {id}: {env_id} is not a MiniGrid environment")
    if type(env).step is not MiniGridEnv.step:
        raise WorldError(
            f"world {id}: {env_id} has rules of its own (it overrides step), whose state a snapshot of the grid lacks"
        )
    # MiniGridEnv.step ends by encoding the agent's partial view, several times dearer than the step itself. The view
    # does not feed back into the dynamics, so it is left out.
    env.gen_obs = dict  # type: ignore[method-assign]
    return env


@lru_cache(maxsize=128)
def distances(cells: str, width: int) -> Mapping[tuple[int, int], int]:
    """Turns and moves to the nearest goal, by (cell, direction); poses that cannot reach one are left out."""
    words = _visible_words(cells)
    free = {i for i, word in enumerate(words) if word == _EMPTY or (word in _ENTERABLE and word not in (_GOAL, _LAVA))}
    far = {(i, direction): 0 for i, word in enumerate(words) if word == _GOAL for direction in range(4)}
    queue = deque(far)
    while queue:
        cell, direction = pose = queue.popleft()
        dx, dy = _STEPS[direction]
        before = [(cell - dy * width - dx, direction), (cell, (direction + 1) % 4), (cell, (direction - 1) % 4)]
        for earlier in before:
            if earlier not in far and earlier[0] in free:  # the episode ends at goals and in lava
                far[earlier] = far[pose] + 1
                queue.append(earlier)
    return far

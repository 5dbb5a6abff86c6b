"""FrozenLake: walk over the ice to the goal without falling into a hole.

Rules and action numbers are those of gymnasium's FrozenLake; the maps are our own, with the goal and the start
anywhere, so that they can be split by layout.
"""

from __future__ import annotations

import random
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worlds.board import Board, BoardWorld, Look, board_of
from worlds.core import Snapshot, WorldError
from worlds.tiles import Canvas

ACTIONS = ("left", "down", "right", "up")
ICE, HOLE, GOAL = "_", "O", "G"

_DIRECTIONS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (dx, dy) by action
SLIPS = (-1, 0, 1)  # a slip turns the action into one of its neighbours, with equal chances

_RULES = (
    "The picture shows a frozen lake seen from above; columns are counted from the left and rows from the top, both "
    "from 0. Pale blue cells are ice, dark round cells are holes, the red present with the golden ribbon is the goal, "
    "and the figure in the green coat is the agent. "
    "The actions left, down, right and up move the agent by one cell; at the edge of the lake it stays where it is. "
)
_ENDS = "Falling into a hole ends the episode. Success is to reach the goal."
_SLIPPERY = (
    "The ice is slippery: the agent goes where it wants with a chance of one third, and to either side of that "
    "direction with a chance of one third each. "
)

# ------------------------------------------------------------------------------------------------------------- tiles


def _draw_ice(canvas: Canvas) -> None:
    canvas.fill((168, 208, 234))
    canvas.rectangle(0.03, 0.03, 1, 1, (206, 232, 248))
    canvas.line((0.2, 0.4), (0.4, 0.2), 0.05, (244, 252, 255))
    canvas.line((0.55, 0.8), (0.8, 0.55), 0.05, (244, 252, 255))


def _draw_hole(canvas: Canvas) -> None:
    _draw_ice(canvas)
    canvas.disc(0.5, 0.5, 0.47, (70, 120, 180))
    canvas.disc(0.5, 0.52, 0.42, (8, 22, 66))
    canvas.disc(0.5, 0.58, 0.32, (4, 10, 38))


def _draw_goal(canvas: Canvas) -> None:
    _draw_ice(canvas)
    canvas.rectangle(0.1, 0.3, 0.9, 0.94, (206, 24, 52))
    canvas.rectangle(0.06, 0.24, 0.94, 0.42, (236, 44, 70))
    canvas.rectangle(0.42, 0.24, 0.58, 0.94, (255, 204, 32))
    canvas.disc(0.36, 0.17, 0.12, (255, 204, 32))
    canvas.disc(0.64, 0.17, 0.12, (255, 204, 32))


def _draw_head(canvas: Canvas, y: float) -> None:
    canvas.disc(0.5, y, 0.23, (246, 204, 160))
    canvas.rectangle(0.26, y - 0.24, 0.74, y - 0.06, (250, 120, 20))
    canvas.disc(0.5, y - 0.22, 0.08, (255, 255, 255))


def _draw_figure(canvas: Canvas) -> None:
    canvas.disc(0.5, 0.7, 0.33, (18, 128, 52))
    canvas.rectangle(0.17, 0.7, 0.83, 0.95, (18, 128, 52))
    _draw_head(canvas, 0.36)


def _draw_agent(canvas: Canvas) -> None:
    _draw_ice(canvas)
    _draw_figure(canvas)


def _draw_agent_in_hole(canvas: Canvas) -> None:
    _draw_hole(canvas)
    canvas.line((0.3, 0.75), (0.17, 0.4), 0.14, (18, 128, 52))
    canvas.line((0.7, 0.75), (0.83, 0.4), 0.14, (18, 128, 52))
    _draw_head(canvas, 0.6)


def _draw_agent_on_goal(canvas: Canvas) -> None:
    canvas.fill((236, 44, 70))
    canvas.rectangle(0.1, 0.1, 0.9, 0.9, (255, 204, 32))
    _draw_figure(canvas)


# ------------------------------------------------------------------------------------------------------------- world


class FrozenLake(BoardWorld):
    """FrozenLake on a square lake. Snapshots of a slippery lake hold the state of its random generator."""

    kinds = ("agent", "goal", "hole")
    looks = (
        Look("", "", ICE, _draw_ice),
        Look("hole", "", HOLE, _draw_hole),
        Look("goal", "", GOAL, _draw_goal),
        Look("", "agent", "@", _draw_agent),
        Look("hole", "agent", "x", _draw_agent_in_hole),
        Look("goal", "agent", "+", _draw_agent_on_goal),
    )

    def __init__(self, id: str, size: int, tile_size: int = 8, slippery: bool = False, max_steps: int = 100) -> None:
        """``size`` counts cells along a side; ``tile_size`` is in px."""
        if size < 3:
            raise WorldError(f"world {id}: size is {size}; a lake has at least 3 x 3 cells")
        super().__init__(id, size=size, tile_size=tile_size, actions=ACTIONS, max_steps=max_steps)
        self.slippery = slippery
        self.deterministic = not slippery
        self.rules = _RULES + (_SLIPPERY if slippery else "") + _ENDS

    def generate(self, layout_seed: int) -> Board:
        return _lake(layout_seed, self.size)

    def transition(self, board: Board, action: int) -> tuple[Board, float]:
        """The move in the direction of ``action``, without slipping."""
        to = _neighbour(board.agent, action, self.size)
        return board._replace(agent=to), float(board.ground[to] == GOAL)

    def is_success(self, board: Board) -> bool:
        return board.ground[board.agent] == GOAL

    def is_terminal(self, board: Board) -> bool:
        return board.ground[board.agent] != ICE

    def advance(self, action: int) -> float:
        if self.slippery:
            action = (action + SLIPS[int(self.np_random.integers(len(SLIPS)))]) % len(ACTIONS)
        return super().advance(action)

    def snapshot(self) -> dict[str, Any]:
        snapshot = super().snapshot()
        if self.slippery:
            snapshot["rng"] = self.np_random.bit_generator.state
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        if self.slippery:
            self.np_random.bit_generator.state = snapshot["rng"]

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        """On slippery ice: every action with the best chance of success in the steps that are left."""
        board = board_of(snapshot)
        if self.is_terminal(board):
            return ()
        if self.slippery:
            return self._safest_actions(board, max(self.max_steps - snapshot["steps"], 0))
        far = distances(board.ground, self.size)
        left = far.get(board.agent, 0) - 1
        neighbours = [_neighbour(board.agent, action, self.size) for action in range(len(ACTIONS))]
        return tuple(action for action, cell in enumerate(neighbours) if left >= 0 and far.get(cell) == left)

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        """Without slipping; on slippery ice no number of steps is sure to be enough."""
        if self.slippery:
            raise WorldError(f"world {self.id}: slippery ice has no certain number of steps to go")
        return distances(snapshot["map"], self.size).get(snapshot["agent"])

    def outcomes(self, snapshot: Snapshot, action: int) -> tuple[tuple[float, Snapshot], ...]:
        if not self.slippery:
            return super().outcomes(snapshot, action)
        if self.is_terminal(board_of(snapshot)):
            return ((1.0, snapshot),)
        chances: dict[int, float] = {}
        for slip in SLIPS:
            cell = _neighbour(snapshot["agent"], (action + slip) % len(ACTIONS), self.size)
            chances[cell] = chances.get(cell, 0.0) + 1 / len(SLIPS)
        after = {**snapshot, "steps": snapshot["steps"] + 1}
        return tuple((chance, {**after, "agent": cell}) for cell, chance in sorted(chances.items()))

    def _safest_actions(self, board: Board, steps_left: int) -> tuple[int, ...]:
        chances = success_chances(board.ground, self.size, self.max_steps)[steps_left, board.agent]  # (actions,)
        best = chances.max()
        return tuple(int(action) for action in np.flatnonzero((chances > best - 1e-12) & (best > 0)))


def _neighbour(cell: int, action: int, size: int) -> int:
    dx, dy = _DIRECTIONS[action]
    x = min(max(cell % size + dx, 0), size - 1)
    y = min(max(cell // size + dy, 0), size - 1)
    return y * size + x


@lru_cache(maxsize=16)
def neighbours(size: int) -> NDArray[np.intp]:
    """Where each action leads from each cell without slipping, (cells, actions)."""
    actions = range(len(ACTIONS))
    return np.array([[_neighbour(cell, action, size) for action in actions] for cell in range(size * size)], np.intp)


# ------------------------------------------------------------------------------------------------------------ levels


@lru_cache(maxsize=1024)
def _lake(seed: int, size: int) -> Board:
    """A random lake whose goal is in reach; kept, for groups of episodes begin in one."""
    rng = random.Random(seed)
    while True:
        board = _random_board(rng, size)
        if board.agent in distances(board.ground, size):
            return board


def _random_board(rng: random.Random, size: int) -> Board:
    """Holes, the goal and the agent in random cells; the goal may be out of reach."""
    cells = size * size
    agent, goal, *holes = rng.sample(range(cells), 2 + rng.randint(1, cells // 3))
    ground = [ICE] * cells
    ground[goal] = GOAL
    for cell in holes:
        ground[cell] = HOLE
    return Board("".join(ground), agent)


# ----------------------------------------------------------------------------------------------------------- solvers


@lru_cache(maxsize=4096)
def distances(ground: str, size: int) -> dict[int, int]:
    """Steps to the goal on ice that is not slippery, by cell; cells that cannot reach it are left out."""
    far = {cell: 0 for cell, glyph in enumerate(ground) if glyph == GOAL}
    queue = deque(far)
    while queue:
        cell = queue.popleft()
        for action in range(len(ACTIONS)):
            before = _neighbour(cell, action, size)  # moves can be undone, so neighbours are predecessors
            if before not in far and ground[before] == ICE:
                far[before] = far[cell] + 1
                queue.append(before)
    return far


@lru_cache(maxsize=32)
def success_chances(ground: str, size: int, max_steps: int) -> NDArray[np.float64]:
    """Chances of reaching the goal over slippery ice, (steps left, cell, action), playing best after that action."""
    cells, actions = len(ground), len(ACTIONS)
    to = neighbours(size)
    slips = np.stack([np.roll(to, -slip, axis=1) for slip in SLIPS])  # (slip, cell, action) -> cell
    ice = np.array([glyph == ICE for glyph in ground])
    value = np.array([float(glyph == GOAL) for glyph in ground])  # with no step left
    chances = np.zeros((max_steps + 1, cells, actions))
    for steps_left in range(1, max_steps + 1):
        chances[steps_left] = value[slips].mean(axis=0)
        value = np.where(ice, chances[steps_left].max(axis=1), value)
    return chances

"""Sokoban: push every box onto a target.

Levels are made by pulling boxes away from their targets, each pull the inverse of a push, so every level can be
solved. Rewards are the usual ones of Sokoban environments: -0.1 a step, +1 / -1 for a box put on / taken off a target,
+10 when all boxes are on targets.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from worlds.board import Board, BoardWorld, Look, board_of
from worlds.core import Snapshot, WorldError
from worlds.tiles import Canvas

ACTIONS = ("up", "down", "left", "right")
FLOOR, WALL, TARGET = "_", "#", "."

STEP_REWARD = -0.1
BOX_REWARD = 1.0
SUCCESS_REWARD = 10.0

WANDERING = 40  # longest way back from a solved board when a level is made, in steps per cell of a side and box

_RULES = (
    "The picture shows a Sokoban board seen from above; columns are counted from the left and rows from the top, "
    "both from 0. Grey bricks are walls, brown crates are boxes, red round plates are targets, and the blue figure "
    "is the agent; a box that stands on a target is green. "
    "The actions up, down, left and right move the agent by one cell. "
    "Moving against a box pushes it one cell on if the cell behind it holds neither a wall nor a box; otherwise "
    "nothing moves, and boxes can never be pulled. "
    "Success is to have every box on a target."
)

# ------------------------------------------------------------------------------------------------------------- tiles


def _draw_floor(canvas: Canvas) -> None:
    canvas.fill((206, 198, 178))
    canvas.rectangle(0.03, 0.03, 1, 1, (226, 219, 201))


def _draw_wall(canvas: Canvas) -> None:
    canvas.fill((38, 41, 50))
    for row, joints in enumerate(((0.5,), (0.0, 1.0), (0.5,), (0.0, 1.0))):
        top = row / 4
        canvas.rectangle(0, top + 0.03, 1, top + 0.23, (92, 97, 112))
        for joint in joints:
            canvas.rectangle(joint - 0.03, top, joint + 0.03, top + 0.25, (38, 41, 50))


def _draw_target(canvas: Canvas) -> None:
    _draw_floor(canvas)
    canvas.disc(0.5, 0.5, 0.46, (196, 30, 40))
    canvas.disc(0.5, 0.5, 0.34, (250, 205, 200))
    canvas.disc(0.5, 0.5, 0.24, (220, 30, 40))


def _draw_crate(canvas: Canvas, frame: tuple[int, int, int], planks: tuple[int, int, int]) -> None:
    canvas.rectangle(0.06, 0.06, 0.94, 0.94, frame)
    canvas.rectangle(0.18, 0.18, 0.82, 0.82, planks)
    canvas.line((0.22, 0.78), (0.78, 0.22), 0.14, frame)


def _draw_box(canvas: Canvas) -> None:
    _draw_floor(canvas)
    _draw_crate(canvas, (120, 66, 18), (214, 140, 52))


def _draw_box_on_target(canvas: Canvas) -> None:
    _draw_target(canvas)
    _draw_crate(canvas, (14, 92, 36), (70, 200, 84))


def _draw_figure(canvas: Canvas) -> None:
    canvas.disc(0.5, 0.72, 0.36, (24, 62, 200))
    canvas.rectangle(0.14, 0.72, 0.86, 0.95, (24, 62, 200))
    canvas.disc(0.5, 0.28, 0.25, (60, 30, 16))
    canvas.disc(0.5, 0.34, 0.19, (246, 204, 160))


def _draw_agent(canvas: Canvas) -> None:
    _draw_floor(canvas)
    _draw_figure(canvas)


def _draw_agent_on_target(canvas: Canvas) -> None:
    canvas.fill((196, 30, 40))
    canvas.rectangle(0.1, 0.1, 0.9, 0.9, (250, 150, 140))
    _draw_figure(canvas)


# ------------------------------------------------------------------------------------------------------------- world


class Sokoban(BoardWorld):
    """Sokoban on a square board with a wall around it."""

    kinds = ("agent", "box", "target", "wall")
    looks = (
        Look("", "", FLOOR, _draw_floor),
        Look("wall", "", WALL, _draw_wall),
        Look("target", "", TARGET, _draw_target),
        Look("", "box", "$", _draw_box),
        Look("target", "box", "*", _draw_box_on_target),
        Look("", "agent", "@", _draw_agent),
        Look("target", "agent", "+", _draw_agent_on_target),
    )
    rules = _RULES

    def __init__(self, id: str, size: int, boxes: int, tile_size: int = 8, max_steps: int = 100) -> None:
        """``size`` counts cells along a side, the outer wall included; ``tile_size`` is in px."""
        if size < 5 or not 1 <= boxes <= (size - 2) ** 2 // 4:
            raise WorldError(
                f"world {id}: {boxes} boxes do not fit a board of size {size}; "
                "take a size of at least 5 and at most a quarter of its inner cells as boxes"
            )
        super().__init__(id, size=size, tile_size=tile_size, actions=ACTIONS, max_steps=max_steps)
        self.boxes = boxes

    def generate(self, layout_seed: int) -> Board:
        return _level(layout_seed, self.size, self.boxes)

    def transition(self, board: Board, action: int) -> tuple[Board, float]:
        return push(board, action, self.size)

    def is_success(self, board: Board) -> bool:
        return _is_solved(board)

    def is_possible(self, board: Board) -> bool:
        """All within the outer wall, and nothing in a wall or in another's place."""
        ground, agent, boxes = board
        rows = [ground[start : start + self.size] for start in range(0, len(ground), self.size)]
        rim = "".join([rows[0], rows[-1], *(row[0] + row[-1] for row in rows)])
        return set(rim) == {WALL} and agent not in boxes and all(ground[cell] != WALL for cell in (agent, *boxes))

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        return solve(board_of(snapshot), self.size).actions

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        return solve(board_of(snapshot), self.size).steps


def push(board: Board, action: int, size: int) -> tuple[Board, float]:
    """The board after a move, and the reward."""
    offset = offsets(size)[action]
    ground, agent, boxes = board
    to = agent + offset
    if ground[to] == WALL:
        return board, STEP_REWARD
    if to not in boxes:
        return Board(ground, to, boxes), STEP_REWARD
    beyond = to + offset
    if ground[beyond] == WALL or beyond in boxes:
        return board, STEP_REWARD
    pushed = tuple(sorted([beyond, *(cell for cell in boxes if cell != to)]))
    reward = STEP_REWARD + BOX_REWARD * ((ground[beyond] == TARGET) - (ground[to] == TARGET))
    if all(ground[cell] == TARGET for cell in pushed):
        reward += SUCCESS_REWARD
    return Board(ground, to, pushed), reward


def offsets(size: int) -> tuple[int, int, int, int]:
    """By how much each action changes a cell's number."""
    return (-size, size, -1, 1)


# ------------------------------------------------------------------------------------------------------------ levels


@lru_cache(maxsize=1024)
def _level(seed: int, size: int, boxes: int) -> Board:
    """A random level; kept, for groups of episodes begin in one."""
    rng = random.Random(seed)
    while True:
        board = _pull_boxes(rng, _random_ground(rng, size, boxes), size)
        if not _is_solved(board):
            return board


def _is_solved(board: Board) -> bool:
    return all(board.ground[cell] == TARGET for cell in board.boxes)


def _random_ground(rng: random.Random, size: int, boxes: int) -> str:
    """A walled board with some inner walls and one target per box."""
    inner = [y * size + x for y in range(1, size - 1) for x in range(1, size - 1)]
    walls = rng.randint(1, len(inner) // 4)
    chosen = rng.sample(inner, boxes + walls)
    ground = [WALL] * (size * size)
    for cell in inner:
        ground[cell] = FLOOR
    for cell in chosen[:boxes]:
        ground[cell] = TARGET
    for cell in chosen[boxes:]:
        ground[cell] = WALL
    return "".join(ground)


def _pull_boxes(rng: random.Random, ground: str, size: int) -> Board:
    """Wander from a solved board, pulling each box passed: every step undoes a move, so the way back solves it."""
    boxes = {cell for cell, glyph in enumerate(ground) if glyph == TARGET}
    moves = offsets(size)
    agent = rng.choice([cell for cell, glyph in enumerate(ground) if glyph == FLOOR])
    for _ in range(rng.randint(size, WANDERING * size * len(boxes))):
        offset = moves[int(4 * rng.random())]
        to, behind = agent + offset, agent - offset
        if ground[to] == WALL or to in boxes:
            continue
        if behind in boxes:
            boxes.remove(behind)
            boxes.add(agent)
        agent = to
    return Board(ground, agent, tuple(sorted(boxes)))


# ------------------------------------------------------------------------------------------------------------ solver


class Solution(NamedTuple):
    """``steps`` of the shortest solutions (``None``: there is none) and the first ``actions`` of all of them."""

    steps: int | None
    actions: tuple[int, ...] = ()


@lru_cache(maxsize=1 << 14)
def solve(board: Board, size: int) -> Solution:
    """All shortest solutions of a board.

    Breadth-first search over (boxes, agent), layer by layer. A state is one integer, the set of boxes as bits above
    the agent's cell; each carries the set of first actions (as bits) that reach it in the fewest steps.
    """
    targets, walls, dead = _masks(board.ground, size)
    shift = (size * size).bit_length()
    agent_bits = (1 << shift) - 1
    boxes = sum(1 << cell for cell in board.boxes)
    start = boxes << shift | board.agent
    if boxes == targets:
        return Solution(0)
    if boxes & dead:
        return Solution(None)
    moves = offsets(size)
    seen = {start}
    layer = {start: 0}
    steps = 0
    while layer:
        steps += 1
        following: dict[int, int] = {}
        solved = 0
        for state, firsts in layer.items():
            boxes, agent = state >> shift, state & agent_bits
            for action, offset in enumerate(moves):
                to = agent + offset
                bit = 1 << to
                if walls & bit:
                    continue
                moved = boxes
                if boxes & bit:
                    beyond = 1 << (to + offset)
                    if (boxes | dead) & beyond:
                        continue
                    moved = boxes ^ bit ^ beyond
                reached = moved << shift | to
                if reached in seen:
                    continue
                starts = firsts or 1 << action
                following[reached] = following.get(reached, 0) | starts
                if moved == targets:
                    solved |= starts
        if solved:
            return Solution(steps, tuple(action for action in range(len(moves)) if solved >> action & 1))
        seen.update(following)
        layer = following
    return Solution(None)


@lru_cache(maxsize=4096)
def _masks(ground: str, size: int) -> tuple[int, int, int]:
    """Bit sets of cells: targets, walls, and where no box may be: walls, and cells it cannot leave for a target."""
    cells = range(size * size)
    targets = [cell for cell in cells if ground[cell] == TARGET]
    live, stack = set(targets), list(targets)
    while stack:
        cell = stack.pop()
        for offset in offsets(size):
            origin = cell - offset  # pushed from here, with the agent one cell further back
            if origin not in live and ground[origin] != WALL and ground[origin - offset] != WALL:
                live.add(origin)
                stack.append(origin)
    walls = sum(1 << cell for cell in cells if ground[cell] == WALL)
    dead = sum(1 << cell for cell in cells if cell not in live)
    return sum(1 << cell for cell in targets), walls, dead

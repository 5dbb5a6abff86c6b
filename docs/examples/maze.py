"""A maze: walk to the flag. A world of one's own, its solver included."""

import random

from worlds import register
from worlds.board import Board, BoardWorld, Look

MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # (dx, dy) by action


class Maze(BoardWorld):
    kinds = ("agent", "flag", "wall")
    looks = (
        Look("", "", "_", lambda canvas: canvas.fill((235, 235, 225))),
        Look("wall", "", "#", lambda canvas: canvas.fill((70, 70, 90))),
        Look("flag", "", "F", lambda canvas: canvas.fill((40, 160, 60))),
        Look("", "agent", "@", lambda canvas: canvas.disc(0.5, 0.5, 0.45, (210, 60, 40))),
        Look("flag", "agent", "+", lambda canvas: canvas.fill((250, 200, 40))),
    )
    rules = (
        "The picture shows a maze seen from above. Dark cells are walls, the green cell is the flag, and the red disc "
        "is the agent. Up, down, left and right move it by one cell, unless a wall or the edge is there. "
        "Success is to reach the flag."
    )

    def __init__(self, id: str, size: int = 6, tile_size: int = 8) -> None:
        super().__init__(id, size=size, tile_size=tile_size, actions=("up", "down", "left", "right"), max_steps=60)

    def generate(self, layout_seed: int) -> Board:
        rng = random.Random(layout_seed)
        while True:
            agent, flag, *walls = rng.sample(range(self.size**2), 2 + self.size)
            cells = {flag: "F", **dict.fromkeys(walls, "#")}
            board = Board("".join(cells.get(cell, "_") for cell in range(self.size**2)), agent)
            if self._search(board):
                return board

    def transition(self, board: Board, action: int) -> tuple[Board, float]:
        x, y = board.agent % self.size + MOVES[action][0], board.agent // self.size + MOVES[action][1]
        blocked = not (0 <= x < self.size and 0 <= y < self.size) or board.ground[y * self.size + x] == "#"
        after = board if blocked else board._replace(agent=y * self.size + x)
        return after, float(self.is_success(after))

    def is_success(self, board: Board) -> bool:
        return board.ground[board.agent] == "F"


def register_worlds() -> None:
    register("maze-6x6", "maze:Maze", size=6)

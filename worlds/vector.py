"""Many Sokoban boards or frozen lakes at once: one gymnasium vector environment over arrays.

A step is a handful of array operations however many boards there are, and all images are gathered in one go. Each
board behaves as the single world does. Levels are made beforehand, one by one, and episodes draw from them: making one
costs more than many steps.

This module knows nothing about the rules of levels, text, models and training.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worlds import frozen_lake, sokoban
from worlds.board import AGENT, BARE, BOX, Board, BoardWorld, board_of
from worlds.core import Split, WorldError, check_enough_layouts, layout_seeds, make
from worlds.frozen_lake import FrozenLake
from worlds.sokoban import Sokoban

Frames = NDArray[np.uint8]  # (N, H, W, 3) RGB


class VectorBoards(VectorEnv[Frames, NDArray[np.integer], NDArray[Any]]):
    """``N`` boards of one kind.

    The state is ``ground`` (N, cells) ASCII codes of glyphs, ``agent`` (N,) cells, ``boxes`` (N, cells) bool and
    ``steps`` (N,); cells are numbered row by row.

    Autoreset is gymnasium's ``NEXT_STEP`` (the step after an episode's end ignores its action, pays 0 and shows the
    first state of the next episode) or ``SAME_STEP`` (the step that ends an episode already shows the next one, and
    ``final_obs`` and ``final_info`` hold what ended).
    """

    def __init__(
        self,
        world: BoardWorld,
        num_envs: int,
        levels: int = 1024,
        split: Split | None = None,
        autoreset: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        """Boards like those of ``world``, which is used up; see :func:`make_vector`."""
        if num_envs < 1 or levels < 1:
            raise WorldError(f"world {world.id}: {num_envs} boards, {levels} levels; there must be at least 1 of each")
        if autoreset not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise WorldError(f"world {world.id}: autoreset {autoreset}; choose NEXT_STEP or SAME_STEP")
        if split is not None:
            check_enough_layouts(world.id, world.layouts())
        self.world = world
        self.num_envs = num_envs
        self.levels = levels
        self.split: Split | None = split
        self.metadata = {**world.metadata, "autoreset_mode": autoreset}
        self.render_mode = "rgb_array"
        self.single_observation_space = world.observation_space
        self.single_action_space = world.action_space
        self.observation_space = batch_space(world.observation_space, num_envs)
        self.action_space = batch_space(world.action_space, num_envs)
        self._same_step = autoreset == AutoresetMode.SAME_STEP
        self._rows = np.arange(num_envs)
        self._pool: _Pool | None = None

    @abstractmethod
    def _move(self, actions: NDArray[np.intp]) -> NDArray[np.float64]:
        """Move all boards on; returns the rewards (N,)."""

    @abstractmethod
    def _ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which boards have ended their episode, and which of them with success, (N,) each."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Begin an episode on every board. A seed draws the levels anew, too."""
        if isinstance(seed, list):
            raise WorldError(f"world {self.world.id}: one seed for all boards, not a list")
        super().reset(seed=seed)
        if self._pool is None or seed is not None:
            self._pool = _draw_pool(self.world, self.levels, self.split, self.np_random)
        everyone = np.ones(self.num_envs, bool)
        self.ground = np.empty((self.num_envs, self._pool.ground.shape[1]), np.uint8)
        self.agent = np.empty(self.num_envs, np.intp)
        self.boxes = np.empty(self.ground.shape, bool)
        self.steps = np.zeros(self.num_envs, np.intp)
        self._over = ~everyone
        self._begin(everyone)
        return self.render(), self._info(~everyone)

    def step(
        self, actions: NDArray[np.integer]
    ) -> tuple[Frames, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        chosen = np.asarray(actions)
        count = len(self.world.actions)
        if chosen.shape != (self.num_envs,) or not np.issubdtype(chosen.dtype, np.integer):
            raise WorldError(f"world {self.world.id}: {self.num_envs} actions are needed, one integer for each board")
        if chosen.min() < 0 or chosen.max() >= count:
            raise WorldError(f"world {self.world.id}: actions must lie between 0 and {count - 1}")
        begun = self._over  # with NEXT_STEP: what ended a step ago begins anew instead of moving
        if begun.any():
            self._begin(begun)
        # A board that begins now is moved as all others are, and put back.
        before = (self.agent[begun], self.boxes[begun])
        rewards = self._move(chosen.astype(np.intp))
        self.steps += 1
        self.agent[begun], self.boxes[begun] = before
        self.steps[begun], rewards[begun] = 0, 0.0
        terminated, success = self._ends()
        truncated = self.steps >= self.world.max_steps
        over = terminated | truncated
        if not self._same_step:
            self._over = over
            return self.render(), rewards, terminated, truncated, self._info(success)
        info = self._info(success & ~over)
        if over.any():
            info |= self._final(over, success)
            self._begin(over)
        return self.render(), rewards, terminated, truncated, info

    def render(self) -> Frames:  # type: ignore[override]
        table = self.world.tiles_of
        numbers = table[BARE][self.ground]  # (N, cells)
        if self.boxes.any():
            numbers = np.where(self.boxes, table[BOX][self.ground], numbers)
        numbers[self._rows, self.agent] = table[AGENT][self.ground[self._rows, self.agent]]
        return self.world.atlas.render(numbers.reshape(self.num_envs, self.world.height, self.world.width))

    def snapshots(self) -> list[dict[str, Any]]:
        """The states as snapshots of the single world; of slippery lakes without the random generator."""
        states = []
        for ground, agent, boxes, steps in zip(self.ground, self.agent, self.boxes, self.steps, strict=True):
            state: dict[str, Any] = {"map": ground.tobytes().decode("ascii"), "agent": int(agent), "steps": int(steps)}
            if boxes.any():
                state["boxes"] = np.flatnonzero(boxes).tolist()
            states.append(state)
        return states

    def _begin(self, which: NDArray[np.bool_]) -> None:
        """Put boards at the beginning of a level of the pool."""
        assert self._pool is not None, "reset comes first"
        drawn = self.np_random.integers(self.levels, size=int(which.sum()))
        self.ground[which] = self._pool.ground[drawn]
        self.agent[which] = self._pool.agent[drawn]
        self.boxes[which] = self._pool.boxes[drawn]
        self.steps[which] = 0

    def _info(self, success: NDArray[np.bool_]) -> dict[str, Any]:
        return {"success": success, "_success": np.ones(self.num_envs, bool)}

    def _final(self, over: NDArray[np.bool_], success: NDArray[np.bool_]) -> dict[str, Any]:
        """What gymnasium's ``SAME_STEP`` reports of episodes that have just ended."""
        frames, shown = np.full(self.num_envs, None, object), self.render()
        for board in np.flatnonzero(over):
            frames[board] = shown[board]
        final = {"success": success & over, "_success": over}
        return {"final_obs": frames, "_final_obs": over, "final_info": final, "_final_info": over}


class VectorSokoban(VectorBoards):
    """Sokoban on ``N`` boards."""

    def _move(self, actions: NDArray[np.intp]) -> NDArray[np.float64]:
        rows, offset = self._rows, np.array(sokoban.offsets(self.world.size))[actions]
        to = self.agent + offset
        against = self.boxes[rows, to]
        beyond = np.where(against, to + offset, to)
        wall = ord(sokoban.WALL)
        stuck = (self.ground[rows, to] == wall) | (self.ground[rows, beyond] == wall)
        stuck |= against & self.boxes[rows, beyond]
        pushed = against & ~stuck
        self.boxes[rows[pushed], to[pushed]] = False
        self.boxes[rows[pushed], beyond[pushed]] = True
        self.agent = np.where(stuck, self.agent, to)
        target = self.ground == ord(sokoban.TARGET)  # (N, cells)
        gained = np.where(pushed, target[rows, beyond].astype(int) - target[rows, to], 0)
        rewards = sokoban.STEP_REWARD + sokoban.BOX_REWARD * gained
        rewards[pushed & self._solved()] += sokoban.SUCCESS_REWARD
        return rewards

    def _ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        solved = self._solved()
        return solved, solved

    def _solved(self) -> NDArray[np.bool_]:
        return ~(self.boxes & (self.ground != ord(sokoban.TARGET))).any(axis=1)


class VectorFrozenLake(VectorBoards):
    """``N`` frozen lakes, slippery ones as well."""

    world: FrozenLake

    def _move(self, actions: NDArray[np.intp]) -> NDArray[np.float64]:
        if self.world.slippery:
            slips = np.array(frozen_lake.SLIPS)
            drawn = self.np_random.integers(len(slips), size=self.num_envs)
            actions = (actions + slips[drawn]) % len(frozen_lake.ACTIONS)
        self.agent = frozen_lake.neighbours(self.world.size)[self.agent, actions]
        return (self._under_agent() == ord(frozen_lake.GOAL)).astype(np.float64)

    def _ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        ground = self._under_agent()
        return ground != ord(frozen_lake.ICE), ground == ord(frozen_lake.GOAL)

    def _under_agent(self) -> NDArray[np.uint8]:
        return self.ground[self._rows, self.agent]


class _Pool:
    """Levels as arrays: ``ground`` (L, cells), ``agent`` (L,), ``boxes`` (L, cells)."""

    def __init__(self, boards: list[Board]) -> None:
        self.ground = np.stack([np.frombuffer(board.ground.encode("ascii"), np.uint8) for board in boards])
        self.agent = np.array([board.agent for board in boards], np.intp)
        self.boxes = np.zeros(self.ground.shape, bool)
        for row, board in zip(self.boxes, boards, strict=True):
            row[list(board.boxes)] = True


def _draw_pool(world: BoardWorld, levels: int, split: Split | None, rng: np.random.Generator) -> _Pool:
    """The first states of ``levels`` episodes of a split."""
    boards: list[Board] = []
    while len(boards) < levels:
        found = len(boards)
        for layout_seed in layout_seeds(rng):
            world.start(layout_seed)
            snapshot = world.snapshot()
            if split is None or world.split(snapshot) == split:
                boards.append(board_of(snapshot))
                if len(boards) == levels:
                    break
        if len(boards) == found:
            raise WorldError(f"world {world.id}: no layout of split {split!r} was found")
    return _Pool(boards)


def make_vector(
    id: str,
    num_envs: int,
    levels: int = 1024,
    split: Split | None = None,
    autoreset: AutoresetMode = AutoresetMode.NEXT_STEP,
) -> VectorBoards:
    """``num_envs`` boards of a registered Sokoban or FrozenLake world.

    Args:
        id: of the single world.
        num_envs: boards side by side.
        levels: how many levels are made by the first reset, and by resets with a seed; episodes draw from them.
        split: take only layouts of this split.
        autoreset: what happens when an episode ends.

    Raises:
        WorldError: no such world, or one of another kind; too few layouts for a split.
    """
    world = make(id)
    if isinstance(world, Sokoban):
        return VectorSokoban(world, num_envs, levels, split, autoreset)
    if isinstance(world, FrozenLake):
        return VectorFrozenLake(world, num_envs, levels, split, autoreset)
    raise WorldError(f"world {id} cannot be vectorised: only Sokoban and FrozenLake worlds can")

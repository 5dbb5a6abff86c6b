"""Worlds of the ``minigrid`` package, and one of our own in the same package.

``Rooms`` is an ordinary MiniGrid environment with random inner walls, registered with gymnasium. ``world`` makes a
world of any MiniGrid or BabyAI environment, seen whole from above (``MiniGrid``) or as its agent sees it
(``Egocentric``). Where the grid and the agent are all there is to a state, its snapshot holds them as words (see
``minigrid_cells``). Environments with rules of their own keep objects, instructions and counters that a grid does not
show; ``Replayed`` repeats their episodes from the seed and the actions instead.
"""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from functools import cached_property, lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.spaces import Box
from minigrid.core.actions import Actions
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Door, Floor, Goal, Lava, Wall
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError
from numpy.typing import NDArray

from worlds.board import GridWorld
from worlds.core import Facts, Snapshot, Thing, WorldError
from worlds.minigrid_cells import (
    AGENT,
    CODES,
    EMPTY,
    ENTERED,
    FACINGS,
    GOAL,
    LAVA,
    LIT,
    LIT_AGENT,
    LIT_TILES,
    PLAIN,
    STEPS,
    THINGS,
    UNKNOWN,
    UNSEEN_TILE,
    WALL,
    WORDS,
    describe,
    full_schema,
    object_of,
    partial_schema,
    plain_tiles,
    seen_of,
    tiles,
    visible_things,
    visible_words,
    word_of,
    word_of_code,
)
from worlds.minigrid_rules import ALL_ACTIONS, NAVIGATION, NUMBERS, play_of
from worlds.minigrid_rules import describe as describe_rules
from worlds.minigrid_solver import Place, Search, distances, place_of, reach_goal, search
from worlds.minigrid_view import MAX_SIZE, look, offsets

CHECKPOINT_EVERY = 16  # steps between the copies from which episodes are replayed
CHECKPOINTS = 64  # copies kept by a world
MOST_SEARCHES = 200  # of the BabyAI bot before one action; where it finds its way it takes ten at most

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
        for dx, dy in STEPS:
            cell = (x + dx, y + dy)
            if cell in free and cell not in reached:
                reached.add(cell)
                stack.append(cell)
    return goal in reached


for _size in (6, 8):
    gymnasium.register(
        id=f"VAGEN-Rooms-{_size}x{_size}-v0", entry_point="worlds.minigrid:Rooms", kwargs={"size": _size}
    )

# -------------------------------------------------------------------------------------------------------- full view


class MiniGrid(GridWorld):
    """A MiniGrid environment whose states are its grid and its agent, seen whole and from above."""

    def __init__(
        self,
        id: str,
        env_id: str,
        tile_size: int = 8,
        max_steps: int | None = None,
        actions: tuple[str, ...] | None = None,
    ) -> None:
        """``actions`` is a choice from ``ALL_ACTIONS``, by default those that do something in the environment.

        ``max_steps`` defaults to the environment's.
        """
        self.env = self._make_env(id, env_id, max_steps)
        self._play = play_of(self.env)
        actions = self._play.actions if actions is None else actions
        unknown = [action for action in actions if action not in ALL_ACTIONS]
        if unknown or not actions:
            raise WorldError(f"world {id}: unknown actions {unknown}; choose from {', '.join(ALL_ACTIONS)}")
        super().__init__(
            id,
            width=self.env.width,
            height=self.env.height,
            tile_size=tile_size,
            actions=actions,
            max_steps=self.env.max_steps,
        )
        self.env_id = env_id
        self.schema = full_schema(self.width, self.height)
        self.deterministic = not self._play.wanders
        self.fully_visible = not self._play.hides
        self.visible_reward = False  # it falls with the steps taken
        self.has_solver = self._play.task is not None and set(actions) <= set(self._play.actions)
        self.rules = describe_rules(self.env, actions, None)
        self._numbers = tuple(NUMBERS[action] for action in actions)
        self._static = set(actions) <= {*NAVIGATION, "done"} and not self._play.wanders  # no action changes the grid

    def _make_env(self, id: str, env_id: str, max_steps: int | None) -> MiniGridEnv:
        env = _make_env(id, env_id, max_steps)
        if type(env).step is not MiniGridEnv.step:
            raise WorldError(
                f"world {id}: {env_id} has rules of its own (it overrides step), whose state a snapshot of the grid "
                "lacks; take worlds.minigrid:world, which replays its episodes"
            )
        return env

    @property
    def layout_source(self) -> tuple[Any, ...]:
        return ("minigrid", self.env_id)

    # -------------------------------------------------------------------------------------------------- the episode

    def start(self, layout_seed: int) -> None:
        with redirect_stdout(io.StringIO()):  # BabyAI prints when it draws a level anew
            self.env.reset(seed=layout_seed)
        self.max_steps = self.env.max_steps
        self._words = self._read_words()
        self._first_cells = self._cells

    def advance(self, action: int) -> float:
        number = self._numbers[action]
        _, reward, _, _, _ = self.env.step(number)
        if number > Actions.forward:  # turning and walking leave the grid as it is
            self._read_front()
        return float(reward)

    @property
    def steps(self) -> int:
        return self.env.step_count

    @property
    def terminated(self) -> bool:
        return self._ground() in (GOAL, LAVA)

    @property
    def success(self) -> bool:
        return self._ground() == GOAL

    def snapshot(self) -> dict[str, Any]:
        snapshot = {**self._visible_state(), "steps": self.env.step_count}
        if not self._static:
            snapshot["first_cells"] = self._first_cells
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        env = self.env
        self._words = snapshot["cells"].split()
        self._first_cells = snapshot.get("first_cells", self._cells)
        env.grid = Grid(self.width, self.height)
        env.grid.grid = [object_of(word) for word in self._words]
        env.agent_pos = (snapshot["x"], snapshot["y"])
        env.agent_dir = snapshot["direction"]
        env.carrying = object_of(snapshot["carrying"])
        env.step_count = snapshot["steps"]
        env.mission = snapshot["mission"]

    def _visible_state(self) -> dict[str, Any]:
        x, y = self.env.agent_pos
        return {
            "cells": self._cells,
            "x": int(x),
            "y": int(y),
            "direction": int(self.env.agent_dir),
            "carrying": word_of(self.env.carrying),
            "mission": self.env.mission,
        }

    def _read_words(self) -> list[str]:
        return [word_of(thing) for thing in self.env.grid.grid]

    def _read_front(self) -> None:
        """The only cell that pickup, drop and toggle can change is the one in front of the agent."""
        x, y = (int(place) for place in self.env.front_pos)
        self._words[y * self.width + x] = word_of(self.env.grid.get(x, y))

    @property
    def _cells(self) -> str:
        return " ".join(self._words)

    def _ground(self) -> str:
        """The word of what the agent stands on."""
        x, y = self.env.agent_pos
        return self._words[y * self.width + x]

    # ------------------------------------------------------------------------------------------------- what is seen

    def layout(self, snapshot: Snapshot) -> Any:
        return snapshot["cells"] if self._static else snapshot["first_cells"]

    def mission(self, snapshot: Snapshot) -> str:
        return snapshot["mission"] if self._play.mission else ""

    def inventory(self, snapshot: Snapshot) -> str:
        held = seen_of(snapshot["carrying"])
        return "" if held == EMPTY else f"a {describe(held)}"

    def facts(self, snapshot: Snapshot) -> Facts:
        agent = Thing("agent", snapshot["x"], snapshot["y"], FACINGS[snapshot["direction"]])
        return Facts(visible_things(snapshot["cells"], self.width).union((agent,)))

    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        boards = [plain_tiles(snapshot["cells"]) for snapshot in snapshots]
        numbers = np.concatenate([np.zeros(0, np.intp), *boards])  # (B*H*W,), the boards behind each other
        firsts = range(0, len(numbers), self.height * self.width)
        agents = [first + s["y"] * self.width + s["x"] for first, s in zip(firsts, snapshots, strict=True)]
        numbers[agents] += np.array([AGENT - PLAIN + s["direction"] for s in snapshots], np.intp)
        return tiles(self.tile_size).render(numbers.reshape(-1, self.height, self.width))

    def foreseeable(self, snapshot: Snapshot, action: int) -> bool:
        if self._play.hides and self._numbers[action] == Actions.toggle:
            return not self._front_word(snapshot).startswith("x")  # a box, which may hold something
        return self.deterministic

    def _front_word(self, snapshot: Snapshot) -> str:
        dx, dy = STEPS[snapshot["direction"]]
        return visible_words(snapshot["cells"])[(snapshot["y"] + dy) * self.width + snapshot["x"] + dx]

    def realise(self, facts: Facts, like: Snapshot) -> dict[str, Any] | None:
        if not self.schema.allows(facts):
            return None
        words = [EMPTY] * (self.width * self.height)
        agents: list[Thing] = []
        for thing in facts.things:
            if thing.kind == "agent":
                agents.append(thing)
            else:
                words[thing.y * self.width + thing.x] = WORDS[thing.kind, thing.detail]
        if len(agents) != 1:
            return None
        agent = agents[0]
        pose = {"x": agent.x, "y": agent.y, "direction": FACINGS.index(agent.detail)}
        realised = self._rearranged(like, words, pose)
        return realised if self._can_be(realised, like) and self.facts(realised) == facts else None

    def _can_be(self, imagined: Snapshot, like: Snapshot) -> bool:
        """Whether the agent stands where agents can, and is still walled in: MiniGrid knows no steps off the board."""
        if imagined == like:
            return True
        cell = imagined["y"] * self.width + imagined["x"]
        now, before = visible_words(imagined["cells"]), visible_words(like["cells"])
        closed = all(now[place] == before[place] for place in self._rim)
        return closed and cell not in self._rim and now[cell] in ENTERED and not self._leads_out(now, cell)

    def _leads_out(self, words: Sequence[str], cell: int) -> bool:
        """Whether a way leads from a cell to an edge that is no wall, as there may be around rooms.

        Doors on the way may be opened, unless that ends the episode, and things picked up.
        """
        if all(self._bars(words[place]) for place in self._rim):  # nearly every world; and every answer asks
            return False
        reached, ahead = {cell}, [cell]
        while ahead:
            here = ahead.pop()
            if here in self._rim:
                return True
            beside = {here + 1, here - 1, here + self.width, here - self.width} - reached
            new = {place for place in beside if not self._bars(words[place])}
            reached |= new
            ahead += new
        return False

    def _bars(self, word: str) -> bool:
        """Whether no agent goes through a cell, now or later."""
        return word == WALL or (self._play.toggle_ends and _is_door(word))

    @cached_property
    def _rim(self) -> frozenset[int]:
        """The outermost cells."""
        cells = np.arange(self.height * self.width).reshape(self.height, self.width)
        return frozenset(cells.flatten().tolist()).difference(cells[1:-1, 1:-1].flatten().tolist())

    def _rearranged(self, like: Snapshot, words: list[str], changes: dict[str, Any]) -> dict[str, Any]:
        """``like`` with other visible words on its board, and other ``changes``; boxes hold what they held."""
        before = [*like["cells"].split(), like["carrying"]]
        wanted = [*words, changes.get("carrying", seen_of(like["carrying"]))]
        *cells, carried = (word for word, _ in _arrange(before, wanted))
        return {**like, **changes, "cells": " ".join(cells), "carrying": carried}

    # ------------------------------------------------------------------------------------------------- what is best

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        self._require_solver()
        if self._ended(snapshot):
            return ()
        if self._walks_to_goal:
            return self._way_to_goal(snapshot)
        best = self._search(snapshot).optimal_actions(self._place(snapshot))
        return tuple(i for i, number in enumerate(self._numbers) if number in best)

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        """Lava and other ends without success are no place to go on from."""
        self._require_solver()
        if self._ended(snapshot):
            return 0 if self._succeeded(snapshot) else None
        if self._walks_to_goal:
            cell = snapshot["y"] * self.width + snapshot["x"]
            return distances(snapshot["cells"], self.width).get((cell, snapshot["direction"]))
        return self._search(snapshot).steps_to_go(self._place(snapshot))

    def _require_solver(self) -> None:
        if not self.has_solver:
            raise WorldError(f"world {self.id} has no solver: shortest ways to success are not known")

    @property
    def _walks_to_goal(self) -> bool:
        return self._static and self._play.task is reach_goal

    def _ended(self, snapshot: Snapshot) -> bool:
        ground = visible_words(snapshot["cells"])[snapshot["y"] * self.width + snapshot["x"]]
        return ground in (GOAL, LAVA)

    def _succeeded(self, snapshot: Snapshot) -> bool:
        return visible_words(snapshot["cells"])[snapshot["y"] * self.width + snapshot["x"]] == GOAL

    def _way_to_goal(self, snapshot: Snapshot) -> tuple[int, ...]:
        far = distances(snapshot["cells"], self.width)
        cell = snapshot["y"] * self.width + snapshot["x"]
        direction = snapshot["direction"]
        left = far.get((cell, direction), 0) - 1
        if left < 0:
            return ()
        dx, dy = STEPS[direction]
        after = {
            Actions.left: (cell, (direction - 1) % 4),
            Actions.right: (cell, (direction + 1) % 4),
            Actions.forward: (cell + dy * self.width + dx, direction),
        }
        return tuple(i for i, action in enumerate(self._numbers) if action in after and far.get(after[action]) == left)

    def _search(self, snapshot: Snapshot) -> Search:
        task = self._play.task
        assert task is not None, "asked only of worlds with a solver"
        first = snapshot["cells"] if self._static else snapshot["first_cells"]
        numbers = tuple(int(number) for number in self._numbers)
        return search(task, first, self.width, snapshot["mission"], numbers)

    def _place(self, snapshot: Snapshot) -> Place:
        carried = seen_of(snapshot["carrying"])
        return place_of(snapshot["cells"], self.width, snapshot["x"], snapshot["y"], snapshot["direction"], carried)


def _make_env(id: str, env_id: str, max_steps: int | None) -> MiniGridEnv:
    """The environment without wrappers and without its own observation, which nobody here looks at."""
    limit = {} if max_steps is None else {"max_steps": max_steps}  # the environment's reward depends on it too
    made = gymnasium.spec(env_id)
    env_class = _class_of(made)
    if not issubclass(env_class, MiniGridEnv):
        raise WorldError(f"world {id}: {env_id} is not a MiniGrid environment")
    env = env_class(**{**made.kwargs, **limit})
    env.spec = made
    # MiniGridEnv.step ends by encoding the agent's partial view, several times dearer than the step itself. The view
    # does not feed back into the dynamics, so it is left out.
    env.gen_obs = dict  # type: ignore[method-assign]
    if env.max_steps < 1:  # BabyAI sets it anew in every episode
        with redirect_stdout(io.StringIO()):
            env.reset(seed=0)
    return env


def _class_of(spec: EnvSpec) -> type:
    """The class that an environment is made of; ``object`` where a function makes it."""
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    return creator if isinstance(creator, type) else object


def _arrange(before: list[str], wanted: list[str]) -> list[tuple[str, int | None]]:
    """Move the things on a board so that ``wanted`` is seen on each cell.

    Returns each cell's whole word, box contents included, and the cell it comes from; ``None`` where it is new. What
    need not move does not, and what is moved comes from the first cell that can spare it.
    """
    spare: dict[str, list[int]] = {}
    for cell, (old, new) in enumerate(zip(before, wanted, strict=True)):
        if seen_of(old) != new:
            spare.setdefault(seen_of(old), []).append(cell)
    arranged: list[tuple[str, int | None]] = []
    for cell, (old, new) in enumerate(zip(before, wanted, strict=True)):
        if seen_of(old) == new:
            arranged.append((old, cell))
        elif new != EMPTY and spare.get(new):
            source = spare[new].pop(0)
            arranged.append((before[source], source))
        else:
            arranged.append((new, None))
    return arranged


# ------------------------------------------------------------------------------------------- rules of their own


class Replayed(MiniGrid):
    """A MiniGrid environment with rules of its own; restored by repeating its episode from the seed and the actions.

    A snapshot holds ``seed`` and ``past`` (one digit per action, MiniGrid's number) beside what there is to see.
    States that were imagined by ``realise`` add ``imagined``: after how many actions which board and pose were put in
    place.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._checkpoints: OrderedDict[tuple[int, str, str], MiniGridEnv] = OrderedDict()
        self._adviser: _Adviser | None = None

    def _make_env(self, id: str, env_id: str, max_steps: int | None) -> MiniGridEnv:
        return _make_env(id, env_id, max_steps)

    def start(self, layout_seed: int) -> None:
        super().start(layout_seed)
        self._seed, self._past, self._imagined = layout_seed, "", []
        self._terminated = self._success = False
        self._layout = self._static_layout()

    def advance(self, action: int) -> float:
        number = int(self._numbers[action])
        _, reward, self._terminated, _, _ = self.env.step(number)
        self._success = self._terminated and float(reward) > 0
        self._past += str(number)
        if self._play.wanders:
            self._words = self._read_words()
        elif number > Actions.forward:
            self._read_front()
        return float(reward)

    @property
    def terminated(self) -> bool:
        return self._terminated

    @property
    def success(self) -> bool:
        return self._success

    def snapshot(self) -> dict[str, Any]:
        snapshot = {
            "seed": self._seed,
            "past": self._past,
            **self._visible_state(),
            "layout": self._layout,
            "terminated": self._terminated,
            "success": self._success,
        }
        if self._imagined:
            snapshot["imagined"] = self._imagined
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        seed, past, imagined = snapshot["seed"], snapshot["past"], list(snapshot.get("imagined", []))
        self.env = self._env_at(seed, past, imagined)
        self.max_steps = self.env.max_steps
        self._seed, self._past, self._imagined = seed, past, imagined
        self._words = snapshot["cells"].split()
        self._layout = snapshot["layout"]
        self._terminated, self._success = snapshot["terminated"], snapshot["success"]

    def layout(self, snapshot: Snapshot) -> Any:
        return snapshot["layout"]

    def _static_layout(self) -> list[str]:
        """The first board and what is asked for. Objects that move by themselves are as little static as the agent."""
        words = [EMPTY if self._play.wanders and word.startswith("o") else word for word in self._words]
        return [" ".join(words), self.env.mission if self._play.mission else ""]

    def _ended(self, snapshot: Snapshot) -> bool:
        return snapshot["terminated"]

    def _succeeded(self, snapshot: Snapshot) -> bool:
        return snapshot["success"]

    def _search(self, snapshot: Snapshot) -> Search:
        task = self._play.task
        assert task is not None, "asked only of worlds with a solver"
        numbers = tuple(int(number) for number in self._numbers)
        return search(task, snapshot["layout"][0], self.width, snapshot["mission"], numbers)

    def _rearranged(self, like: Snapshot, words: list[str], changes: dict[str, Any]) -> dict[str, Any]:
        realised = super()._rearranged(like, words, changes)
        if realised == like:
            return realised
        after = len(like["past"])
        imagined = [entry for entry in like.get("imagined", []) if entry["after"] < after]
        shown = {key: realised[key] for key in ("cells", "x", "y", "direction", "carrying")}
        opened = self._play.toggle_ends and any(_is_door(word) and word in ENTERED for word in words)
        realised |= {"imagined": [*imagined, {"after": after, **shown}], "terminated": opened, "success": False}
        return realised

    # ---------------------------------------------------------------------------------------------------- replaying

    def _env_at(self, seed: int, past: str, imagined: list[dict[str, Any]]) -> MiniGridEnv:
        """The environment after the actions ``past``; the caller's own.

        Steps on from where the world is, if that lies a little before, else from the nearest checkpoint.
        """
        ahead = len(past) - len(self._past) if self._is_on(seed, past, imagined) else CHECKPOINT_EVERY
        if 0 <= ahead < CHECKPOINT_EVERY:
            env, done = self.env, len(self._past)
        else:
            env, done = self._nearest(seed, past, imagined)
        for number in range(done, len(past)):
            if number % CHECKPOINT_EVERY == 0:
                self._keep(seed, past[:number], imagined, env)
            env.step(int(past[number]))
        return env

    def _is_on(self, seed: int, past: str, imagined: list[dict[str, Any]]) -> bool:
        """Whether the world's present state lies on the way to another one."""
        on_it = getattr(self, "_seed", None) == seed and past.startswith(self._past) and imagined == self._imagined
        return on_it and not self._terminated

    def _nearest(self, seed: int, past: str, imagined: list[dict[str, Any]]) -> tuple[MiniGridEnv, int]:
        """A copy of the environment at a point before ``past``'s end, and how many actions it has had."""
        first = imagined[-1]["after"] if imagined else 0
        for number in range(len(past) // CHECKPOINT_EVERY * CHECKPOINT_EVERY, first - 1, -CHECKPOINT_EVERY):
            kept = self._checkpoints.get((seed, past[:number], str(imagined)))
            if kept is not None:
                self._checkpoints.move_to_end((seed, past[:number], str(imagined)))
                return _copy_of(kept), number
        if not imagined:
            env = _copy_of(self.env)
            with redirect_stdout(io.StringIO()):
                env.reset(seed=seed)
            return env, 0
        env = _copy_of(self._env_at(seed, past[:first], imagined[:-1]))
        _put_in_place(env, imagined[-1])
        return env, first

    def _keep(self, seed: int, past: str, imagined: list[dict[str, Any]], env: MiniGridEnv) -> None:
        key = (seed, past, str(imagined))
        if key not in self._checkpoints:
            self._checkpoints[key] = _copy_of(env)
            if len(self._checkpoints) > CHECKPOINTS:
                self._checkpoints.popitem(last=False)

    # --------------------------------------------------------------------------------------------------------- expert

    def expert_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Optimal actions, or in BabyAI levels the one that the package's own bot takes."""
        if self.has_solver or not isinstance(self.env, RoomGridLevel):
            return super().expert_actions(snapshot)
        seed, past = snapshot["seed"], snapshot["past"]
        if snapshot["terminated"] or snapshot.get("imagined"):
            return ()
        if self._adviser is None or not self._adviser.is_on(seed, past):
            with redirect_stdout(io.StringIO()):
                env = _copy_of(self.env)
                env.reset(seed=seed)
            self._adviser = _Adviser(env, seed)
        advice = self._adviser.advise(past)
        return tuple(i for i, number in enumerate(self._numbers) if number == advice)


def _is_door(word: str) -> bool:
    return THINGS.get(word, ("", ""))[0] == "door"


class _LostError(RuntimeError):
    """The bot plans in circles."""


class _Bot(BabyAIBot):
    """MiniGrid's bot, which knows when it plans in circles: left alone, it would do so for ever."""

    def replan(self, action_taken: int | None = None) -> Any:
        self._searches = 0
        return super().replan(action_taken)

    def _breadth_first_search(self, *args: Any, **kwargs: Any) -> Any:
        self._searches += 1
        if self._searches > MOST_SEARCHES:
            raise _LostError
        return super()._breadth_first_search(*args, **kwargs)


class _Adviser:
    """MiniGrid's BabyAI bot, which must see an episode from its beginning."""

    def __init__(self, env: MiniGridEnv, seed: int) -> None:
        self._env, self._seed, self._past = env, seed, ""
        self._bot: _Bot | None = _Bot(env)
        self._advice = self._ask(None)

    def is_on(self, seed: int, past: str) -> bool:
        return seed == self._seed and past.startswith(self._past)

    def advise(self, past: str) -> int | None:
        """The bot's action after the actions ``past``; ``None`` once it has given up."""
        for digit in past[len(self._past) :]:
            self._env.step(int(digit))
            self._advice = self._ask(int(digit))
        self._past = past
        return self._advice

    def _ask(self, taken: int | None) -> int | None:
        if self._bot is None:
            return None
        try:
            advice = self._bot.replan(taken)
        except (_LostError, DisappearedBoxError, AssertionError, AttributeError, TypeError, IndexError):
            self._bot = None  # the bot does not understand the situation, which it says in many ways
            return None
        return None if advice is None else int(advice)


def _copy_of(env: MiniGridEnv) -> MiniGridEnv:
    """An independent copy in the same state. What never changes within an episode is shared."""
    twin = copy.copy(env)
    memo: dict[int, Any] = {id(env): twin, id(env.gen_obs): env.gen_obs}
    for thing in env.grid.grid:
        if isinstance(thing, (Wall, Floor, Goal, Lava)):
            memo[id(thing)] = thing
    for shared in (env.spec, env.action_space, env.observation_space):
        memo[id(shared)] = shared
    twin.__dict__ = {name: copy.deepcopy(value, memo) for name, value in vars(env).items()}
    return twin


def _put_in_place(env: MiniGridEnv, imagined: dict[str, Any]) -> None:
    """Change what is seen of an environment. Things keep their identity where they can, doors always."""
    old = [*env.grid.grid, env.carrying]
    wanted = [seen_of(word) for word in [*imagined["cells"].split(), imagined["carrying"]]]
    new = list(old)
    for cell, (word, source) in enumerate(_arrange([word_of(thing) for thing in old], wanted)):
        if source == cell:
            continue
        here = old[cell]
        thing = old[source] if source is not None else object_of(word)
        if isinstance(here, Door) and isinstance(thing, Door) and here.color == thing.color:
            here.is_open, here.is_locked = thing.is_open, thing.is_locked
            continue
        new[cell] = thing
        if thing is not None:
            thing.cur_pos = (cell % env.width, cell // env.width) if cell < len(env.grid.grid) else (-1, -1)
    *env.grid.grid, env.carrying = new
    env.agent_pos, env.agent_dir = (imagined["x"], imagined["y"]), imagined["direction"]
    if isinstance(env, RoomGridLevel):
        env.update_objs_poss()


# ------------------------------------------------------------------------------------------------------ partial view


class Egocentric(MiniGrid):
    """Any of the above as its agent sees it: MiniGrid's own point-of-view image, and facts in its coordinates."""

    def __init__(self, id: str, env_id: str, tile_size: int = 8, **kwargs: Any) -> None:
        super().__init__(id, env_id, tile_size, **kwargs)
        size = self.env.agent_view_size
        if size > MAX_SIZE:
            raise WorldError(f"world {id}: its view is {size} cells wide; at most {MAX_SIZE} can be drawn")
        self.view = "partial"
        self.view_size = size
        self.schema = partial_schema(size)
        self.observation_space = Box(0, 255, (size * tile_size, size * tile_size, 3), np.uint8)
        self.fully_visible = False
        self.rules = describe_rules(self.env, self.actions, size)
        self._agent = size * (size - 1) + size // 2  # its cell in the view, always the same

    def inventory(self, snapshot: Snapshot) -> str:
        return ""  # it is drawn

    def facts(self, snapshot: Snapshot) -> Facts:
        return Facts(_view_things(self._view(snapshot), self.view_size))

    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        size = self.view_size
        if not snapshots:
            return np.empty((0, *(self.observation_space.shape or ())), np.uint8)
        poses = np.array([(s["x"], s["y"], s["direction"]) for s in snapshots], np.intp)
        boards = [s["cells"] for s in snapshots]
        codes, seen = look(boards, self.width, poses, size, self.env.see_through_walls)
        codes[:, self._agent] = [CODES[seen_of(s["carrying"])] for s in snapshots]
        numbers = np.where(seen, LIT_TILES[codes], UNSEEN_TILE)
        numbers[:, self._agent] += LIT_AGENT - LIT
        return tiles(self.tile_size).render(numbers.reshape(-1, size, size))

    def belief(self, seen: Sequence[Snapshot], asked: Snapshot) -> Facts:
        """The agent's view at ``asked`` as far as it follows from the images of ``seen``.

        A cell is known if any of them shows that place of the board; then its content is the one at ``asked``, which
        follows from the actions between. What the agent carries is known once anything like it was seen. Where things
        move by themselves, their present places are told nevertheless.
        """
        known: set[tuple[int, int]] = set()
        shown: set[str] = {EMPTY}
        for snapshot in seen:
            view = self._view(snapshot)
            known.update(place for place, word in zip(self._places(snapshot), view, strict=True) if word != UNKNOWN)
            shown.update(view)
        words = []
        for cell, (x, y) in enumerate(self._places(asked)):
            if cell == self._agent:
                held = seen_of(asked["carrying"])
                words.append(held if held in shown else UNKNOWN)
            else:
                words.append(self._word_at(asked, x, y) if (x, y) in known else UNKNOWN)
        return Facts(_view_things(tuple(words), self.view_size))

    def realise(self, facts: Facts, like: Snapshot) -> dict[str, Any] | None:
        """The agent stands where it stands in ``like``, and the cells that are unknown are as they are there."""
        if not self.schema.allows(facts):
            return None
        words = list(visible_words(like["cells"]))
        shown = _view_words(facts, self.view_size)
        if shown is None or shown[self._agent] == UNKNOWN:
            return None
        for cell, (word, (x, y)) in enumerate(zip(shown, self._places(like), strict=True)):
            inside = 0 <= x < self.width and 0 <= y < self.height
            if cell != self._agent and word != UNKNOWN and inside:
                words[y * self.width + x] = word
        realised = self._rearranged(like, words, {"carrying": shown[self._agent]})
        return realised if self._can_be(realised, like) and self.facts(realised) == facts else None

    def _view(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The visible word of each cell of the view, row by row, with what the agent carries in its own cell."""
        pose = (snapshot["x"], snapshot["y"], snapshot["direction"])
        words = _view(snapshot["cells"], self.width, pose, self.view_size, self.env.see_through_walls)
        return (*words[: self._agent], seen_of(snapshot["carrying"]), *words[self._agent + 1 :])

    def _places(self, snapshot: Snapshot) -> Iterable[tuple[int, int]]:
        """Where each cell of the view lies on the board, or beyond its edges."""
        x, y = snapshot["x"], snapshot["y"]
        return [(x + dx, y + dy) for dx, dy in offsets(self.view_size)[snapshot["direction"]].tolist()]

    def _word_at(self, snapshot: Snapshot, x: int, y: int) -> str:
        if 0 <= x < self.width and 0 <= y < self.height:
            return visible_words(snapshot["cells"])[y * self.width + x]
        return WALL


class EgocentricReplayed(Egocentric, Replayed):
    """An environment with rules of its own, as its agent sees it."""


@lru_cache(maxsize=4096)
def _view(cells: str, width: int, pose: tuple[int, int, int], size: int, through_walls: bool) -> tuple[str, ...]:
    """One agent's view as visible words."""
    codes, seen = look([cells], width, np.array([pose], np.intp), size, through_walls)
    return tuple(word_of_code(code) if shown else UNKNOWN for code, shown in zip(codes[0], seen[0], strict=True))


@lru_cache(maxsize=4096)
def _view_things(words: tuple[str, ...], size: int) -> frozenset[Thing]:
    """The things in a view, the agent included."""
    agent = Thing("agent", size // 2, size - 1)
    return frozenset(
        Thing(kind, cell % size, cell // size, detail)
        for cell, word in enumerate(words)
        if word != EMPTY
        for kind, detail in [("unknown", "") if word == UNKNOWN else THINGS[word]]
    ).union((agent,))


def _view_words(facts: Facts, size: int) -> list[str] | None:
    """The inverse of ``_view_things``; ``None`` where the agent is not in its place."""
    words = [EMPTY] * (size * size)
    agents: list[Thing] = []
    for thing in facts.things:
        if thing.kind == "agent":
            agents.append(thing)
        else:
            word = UNKNOWN if thing.kind == "unknown" else WORDS[thing.kind, thing.detail]
            words[thing.y * size + thing.x] = word
    return words if agents == [Thing("agent", size // 2, size - 1)] else None


# -------------------------------------------------------------------------------------------------------- any of them


def world(id: str, env_id: str, partial: bool = False, tile_size: int = 8, **kwargs: Any) -> MiniGrid:
    """A world of any MiniGrid environment, seen whole or ``partial``; other settings as for :class:`MiniGrid`."""
    own_rules = getattr(_class_of(gymnasium.spec(env_id)), "step", None) is not MiniGridEnv.step
    kinds = {
        (False, False): MiniGrid,
        (False, True): Replayed,
        (True, False): Egocentric,
        (True, True): EgocentricReplayed,
    }
    return kinds[partial, own_rules](id, env_id, tile_size, **kwargs)

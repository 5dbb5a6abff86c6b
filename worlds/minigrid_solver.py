"""Shortest ways to success in MiniGrid worlds, by searching the states that a board and an agent can be in.

Boards are bytes of codes (see ``minigrid_cells``); MiniGrid's rules are a pure function of states here, written down
anew, so that a test can hold them against the package's own. Boxes are taken to be empty.

This module knows nothing about text, images and episodes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from minigrid.core.actions import Actions

from worlds.core import WorldError
from worlds.minigrid_cells import (
    CODES,
    EMPTY,
    ENTERABLE,
    GOAL,
    LAVA,
    PORTABLE,
    STEPS,
    THINGS,
    WORDS,
    visible_words,
)

MAX_STATES = 400_000  # states of one episode that a search may visit; the worlds that have a solver stay well below
KEPT_STATES = 2_000_000  # states of past searches that are kept, some 200 bytes each

_NOTHING = CODES[EMPTY]
_GOAL, _LAVA = CODES[GOAL], CODES[LAVA]
_ENTERABLE = frozenset({_NOTHING, *(CODES[word] for word in ENTERABLE)})
_PORTABLE = frozenset(CODES[word] for word in PORTABLE)


class Place(NamedTuple):
    """A state: the agent's cell (y * width + x), its direction number, what it carries (a code) and the board."""

    cell: int
    direction: int
    carried: int
    board: bytes


# Whether a step ended the episode with success (True), without (False), or not at all (None): judged by the state
# before, MiniGrid's action number and the state after.
Judge = Callable[[Place, int, Place], bool | None]


# ------------------------------------------------------------------------------------------------------------- rules


def _toggled() -> dict[int, int]:
    """What toggling makes of doors that are not locked and of empty boxes, by code."""
    after = {}
    for word, (kind, detail) in THINGS.items():
        colour, _, state = detail.partition(" ")
        if kind == "box":
            after[CODES[word]] = _NOTHING
        elif kind == "door" and state != "locked":
            other = "closed" if state == "open" else "open"
            after[CODES[word]] = CODES[WORDS["door", f"{colour} {other}"]]
    return after


_TOGGLED: Mapping[int, int] = MappingProxyType(_toggled())
_OPEN = frozenset(CODES[word] for word, (kind, detail) in THINGS.items() if kind == "door" and detail.endswith("open"))
_UNLOCKED: Mapping[int, tuple[int, int]] = MappingProxyType(  # code of a locked door -> (its key, the door open)
    {
        CODES[word]: (CODES[WORDS["key", colour]], CODES[WORDS["door", f"{colour} open"]])
        for word, (kind, detail) in THINGS.items()
        for colour, _, state in [detail.partition(" ")]
        if kind == "door" and state == "locked"
    }
)


def step(place: Place, action: int, width: int) -> Place:
    """The state after an action, by ``MiniGridEnv``'s rules."""
    cell, direction, carried, board = place
    if action == Actions.left:
        return Place(cell, (direction - 1) % 4, carried, board)
    if action == Actions.right:
        return Place(cell, (direction + 1) % 4, carried, board)
    dx, dy = STEPS[direction]
    front = cell + dy * width + dx
    code = board[front]
    if action == Actions.forward:
        return Place(front, direction, carried, board) if code in _ENTERABLE else place
    if action == Actions.pickup and code in _PORTABLE and carried == _NOTHING:
        return Place(cell, direction, code, _put(board, front, _NOTHING))
    if action == Actions.drop and code == _NOTHING and carried != _NOTHING:
        return Place(cell, direction, _NOTHING, _put(board, front, carried))
    if action == Actions.toggle:
        if code in _UNLOCKED:
            key, opened = _UNLOCKED[code]
            return Place(cell, direction, carried, _put(board, front, opened)) if carried == key else place
        return Place(cell, direction, carried, _put(board, front, _TOGGLED.get(code, code)))
    return place


def _put(board: bytes, cell: int, code: int) -> bytes:
    return board[:cell] + bytes([code]) + board[cell + 1 :]


# ------------------------------------------------------------------------------------------------------------ search


class Search:
    """Steps to success from every state of one episode, found when first asked for."""

    def __init__(self, judge: Judge, actions: tuple[int, ...], width: int) -> None:
        self._judge = judge
        self._actions = actions
        self._width = width
        self._steps: dict[Place, int | None] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def steps_to_go(self, place: Place) -> int | None:
        """From a state that has not ended the episode; ``None`` where success is out of reach."""
        if place not in self._steps:
            self._explore(place)
        return self._steps[place]

    def optimal_actions(self, place: Place) -> tuple[int, ...]:
        """The numbers of the actions that start a shortest way."""
        left = self.steps_to_go(place)
        if left is None:
            return ()
        chosen = []
        for action in self._actions:
            after = step(place, action, self._width)
            verdict = self._judge(place, action, after)
            if (verdict is True and left == 1) or (
                verdict is None and after != place and self.steps_to_go(after) == left - 1
            ):
                chosen.append(action)
        return tuple(chosen)

    def _explore(self, start: Place) -> None:
        """Visit all that can be reached, then count back from success.

        Closing doors is left out: whatever succeeds from a state with a closed door does so with it open as well, so
        that no shortest way closes one. States that are reached only so are explored when they are asked for.
        """
        before: dict[Place, list[Place]] = {start: []}
        queue = deque([start])
        last: list[Place] = []  # one step before success
        while queue:
            place = queue.popleft()
            for action in self._actions:
                if action == Actions.toggle and place.board[self._front(place)] in _OPEN:
                    continue
                after = step(place, action, self._width)
                verdict = self._judge(place, action, after)
                if verdict:
                    last.append(place)
                elif verdict is None and after != place:
                    if after not in before:
                        before[after] = []
                        queue.append(after)
                    before[after].append(place)
            if len(before) > MAX_STATES:
                raise WorldError(f"more than {MAX_STATES} states can be reached here: no shortest way can be found")
        steps: dict[Place, int | None] = dict.fromkeys(last, 1)
        queue = deque(steps)
        while queue:
            place = queue.popleft()
            for earlier in before[place]:
                if earlier not in steps:
                    steps[earlier] = (steps[place] or 0) + 1
                    queue.append(earlier)
        self._steps |= dict.fromkeys(before) | steps

    def _front(self, place: Place) -> int:
        dx, dy = STEPS[place.direction]
        return place.cell + dy * self._width + dx


# ------------------------------------------------------------------------------------------------------------- tasks
# What each kind of environment asks for. All of them see the board as words and the mission.


def reach_goal(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Walk onto a goal; lava ends the episode."""

    def judge(before: Place, action: int, after: Place) -> bool | None:
        if after.cell == before.cell:
            return None
        ground = after.board[after.cell]
        return True if ground == _GOAL else False if ground == _LAVA else None

    return judge


def match_the_sample(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Of the two objects at the end of the corridor, walk beside the one like the object at its beginning."""
    height = len(words) // width
    middle = height // 2
    sample = words[(middle - 1) * width + 1]
    column = next(x for x in range(2, width) if words[(middle - 2) * width + x] in PORTABLE)
    upper, lower = (middle - 1) * width + column, (middle + 1) * width + column
    right, wrong = (upper, lower) if words[(middle - 2) * width + column] == sample else (lower, upper)

    def judge(before: Place, action: int, after: Place) -> bool | None:
        return True if after.cell == right else False if after.cell == wrong else None

    return judge


def fetch(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Pick up the object that the mission names and no other: "go fetch a red ball"."""
    wanted = _named(mission.split()[-2:])

    def judge(before: Place, action: int, after: Place) -> bool | None:
        return None if after.carried == _NOTHING else after.carried == wanted

    return judge


def go_beside(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Say "done" in one of the four cells beside what the mission names: "go to the red door"; toggle ends it too."""
    colour, kind = mission.split()[-2:]
    target = next(
        cell
        for cell, word in enumerate(words)
        if THINGS.get(word, ("", ""))[0] == kind and THINGS[word][1].partition(" ")[0] == colour
    )
    beside = {target - 1, target + 1, target - width, target + width}

    def judge(before: Place, action: int, after: Place) -> bool | None:
        if action == Actions.done:
            return before.cell in beside
        return False if action == Actions.toggle else None

    return judge


def open_door(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Open the only door."""

    def judge(before: Place, action: int, after: Place) -> bool | None:
        return True if action == Actions.toggle and not _OPEN.isdisjoint(after.board) else None

    return judge


def open_red_then_blue(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Open the blue door while the red one is open; opening it earlier ends the episode."""
    red, blue = (CODES[WORDS["door", f"{colour} open"]] for colour in ("red", "blue"))

    def judge(before: Place, action: int, after: Place) -> bool | None:
        return red in before.board if blue in after.board else None

    return judge


def put_near(words: tuple[str, ...], width: int, mission: str) -> Judge:
    """Drop what the mission names around another object: "put the red ball near the blue key"; one try only."""
    named = mission.split()
    moved, target = _named(named[2:4]), _named(named[-2:])

    def judge(before: Place, action: int, after: Place) -> bool | None:
        if action == Actions.pickup and after.carried != _NOTHING:
            return None if after.carried == moved else False
        if action != Actions.drop or before.carried == _NOTHING:
            return None
        dx, dy = STEPS[before.direction]
        y, x = divmod(before.cell, width)
        goal_y, goal_x = divmod(before.board.index(target), width)
        near = abs(x + dx - goal_x) <= 1 and abs(y + dy - goal_y) <= 1
        return near and after.carried == _NOTHING

    return judge


def _named(words: list[str]) -> int:
    """The code of a "red ball"."""
    colour, kind = words
    return CODES[WORDS[kind, colour]]


Task = Callable[[tuple[str, ...], int, str], Judge]


_SEARCHES: OrderedDict[tuple[Task, str, int, str, tuple[int, ...]], Search] = OrderedDict()


def search(task: Task, cells: str, width: int, mission: str, actions: tuple[int, ...]) -> Search:
    """The search of an episode that began with the board ``cells``, shared by all its states, kept for some time."""
    key = (task, cells, width, mission, actions)
    if key not in _SEARCHES:
        while sum(map(len, _SEARCHES.values())) > KEPT_STATES:
            _SEARCHES.popitem(last=False)
        _SEARCHES[key] = Search(task(visible_words(cells), width, mission), actions, width)
    _SEARCHES.move_to_end(key)
    return _SEARCHES[key]


# ---------------------------------------------------------------------------------------------------- bare navigation


@lru_cache(maxsize=128)
def distances(cells: str, width: int) -> Mapping[tuple[int, int], int]:
    """Turns and moves to the nearest goal where nothing ever changes, by (cell, direction); left out where none is."""
    words = visible_words(cells)
    free = {i for i, word in enumerate(words) if word == EMPTY or (word in ENTERABLE and word not in (GOAL, LAVA))}
    far = {(i, direction): 0 for i, word in enumerate(words) if word == GOAL for direction in range(4)}
    queue = deque(far)
    while queue:
        cell, direction = pose = queue.popleft()
        dx, dy = STEPS[direction]
        before = [(cell - dy * width - dx, direction), (cell, (direction + 1) % 4), (cell, (direction - 1) % 4)]
        for earlier in before:
            if earlier not in far and earlier[0] in free:  # the episode ends at goals and in lava
                far[earlier] = far[pose] + 1
                queue.append(earlier)
    return far


def place_of(cells: str, width: int, x: int, y: int, direction: int, carried: str) -> Place:
    """A state by the board's words, the agent's pose and the visible word of what it carries."""
    board = bytes(CODES[word] for word in visible_words(cells))
    return Place(y * width + x, direction, CODES[carried], board)

"""What is asked for in each kind of MiniGrid environment, in which words and with which actions.

The environments themselves come from the package; this is what a player must be told, and what a solver must know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from minigrid.core.actions import Actions
from minigrid.minigrid_env import MiniGridEnv

from worlds import minigrid_solver as solver

# MiniGrid's actions in words of their own: elsewhere "left" moves the agent, here it turns.
NUMBERS: Mapping[str, Actions] = MappingProxyType(
    {
        "turn left": Actions.left,
        "turn right": Actions.right,
        **{action.name: action for action in Actions if action not in (Actions.left, Actions.right)},
    }
)
ALL_ACTIONS = tuple(NUMBERS)
NAVIGATION = ("turn left", "turn right", "forward")  # enough where nothing but walls, goals, lava and floors stands
OBJECTS = (*NAVIGATION, "pickup", "drop", "toggle")


@dataclass(frozen=True)
class Play:
    """How one kind of environment is played.

    Attributes:
        actions: those that do something there, in MiniGrid's order.
        ends: what ends an episode and what success is, in one to three sentences.
        task: what the solver searches for; ``None`` where its search would be too long or nothing is asked for.
        mission: whether episodes differ in what they ask for, so that the mission must be told.
        hides: whether boxes may hold something.
        wanders: whether objects move by themselves, at random.
        toggle_ends: whether toggling ends the episode, so that no agent goes through a door.
    """

    actions: tuple[str, ...]
    ends: str
    task: solver.Task | None = None
    mission: bool = False
    hides: bool = False
    wanders: bool = False
    toggle_ends: bool = False


_GOAL = "Entering lava ends the episode. Success is to reach the goal."
_BESIDE = (
    "Done says that the agent has arrived, and like toggle it ends the episode. "
    "Success is to be done in one of the four cells beside what the mission names."
)
_PICK_UP = "Success is to pick up the object that the mission names."
_BABYAI = (
    "Going to an object means to stand before it and to face it. Success is to do what the mission says, in its order."
)

_NAVIGATE = Play(NAVIGATION, _GOAL, solver.reach_goal)
_BRING = Play(OBJECTS, _PICK_UP, mission=True)

# By the name of the environment's class or of the nearest of its bases that is listed.
_PLAYS: Mapping[str, Play] = MappingProxyType(
    {
        "MiniGridEnv": _NAVIGATE,
        "MultiRoomEnv": Play((*NAVIGATION, "toggle"), _GOAL, solver.reach_goal),
        "DoorKeyEnv": Play((*NAVIGATION, "pickup", "toggle"), _GOAL, solver.reach_goal),
        "LockedRoomEnv": Play(OBJECTS, _GOAL, mission=True),
        "PlaygroundEnv": Play(OBJECTS, "Nothing is asked for, so there is no success."),
        "DynamicObstaclesEnv": Play(
            NAVIGATION,
            "At every step each ball moves to a random free cell around it. "
            "Moving forward against anything but the goal ends the episode. Success is to reach the goal.",
            wanders=True,
        ),
        "MemoryEnv": Play(
            NAVIGATION,
            "Of the two objects at the end of the corridor, one is like the object at its beginning. "
            "Success is to reach the cell beside that one; the cell beside the other ends the episode.",
            solver.match_the_sample,
        ),
        "FetchEnv": Play(
            (*NAVIGATION, "pickup"),
            "Picking something up ends the episode. Success is to pick up what the mission names.",
            solver.fetch,
            mission=True,
        ),
        "GoToDoorEnv": Play(
            (*NAVIGATION, "toggle", "done"), _BESIDE, solver.go_beside, mission=True, toggle_ends=True
        ),
        "GoToObjectEnv": Play(
            (*NAVIGATION, "toggle", "done"), _BESIDE, solver.go_beside, mission=True, toggle_ends=True
        ),
        "PutNearEnv": Play(
            (*NAVIGATION, "pickup", "drop"),
            "Picking up anything but the object to be moved ends the episode, and so does drop while carrying. "
            "Success is to drop it in one of the eight cells around the object that the mission names.",
            solver.put_near,
            mission=True,
        ),
        "RedBlueDoorEnv": Play(
            (*NAVIGATION, "toggle"),
            "Opening the blue door ends the episode. Success is to open it while the red door is open.",
            solver.open_red_then_blue,
        ),
        "UnlockEnv": Play((*NAVIGATION, "pickup", "toggle"), "Success is to open the door.", solver.open_door),
        "UnlockPickupEnv": _BRING,
        "BlockedUnlockPickupEnv": _BRING,
        "KeyCorridorEnv": _BRING,
        "ObstructedMazeEnv": Play(OBJECTS, _PICK_UP, mission=True, hides=True),
        "RoomGridLevel": Play(OBJECTS, _BABYAI, mission=True),
        "KeyInBox": Play(OBJECTS, _BABYAI, mission=True, hides=True),
    }
)


def play_of(env: MiniGridEnv) -> Play:
    """How an environment is played."""
    return next(_PLAYS[base.__name__] for base in type(env).__mro__ if base.__name__ in _PLAYS)


# ------------------------------------------------------------------------------------------------------------- words

_FULL = (
    "The picture shows a grid seen from above; columns are counted from the left and rows from the top, both from 0. "
    "The red triangle is the agent and points where it faces (east is right, south is down), plain grey cells are "
    "walls, the green cell is the goal, and orange cells with waves are lava. "
)
_PARTIAL = (
    "The picture shows the {size} x {size} cells in front of the agent, turned so that it faces up; columns are "
    "counted from the left and rows from the top, both from 0. "
    "The red triangle in the middle of the bottom row is the agent, with what it carries in the same cell; lit cells "
    "are seen and black ones are unknown, plain grey cells are walls, the green cell is the goal, and orange cells "
    "with waves are lava. "
)
_WALK = (
    "Turn left and turn right turn the agent by 90 degrees on the spot, and forward moves it one cell on, unless a "
    "wall or another object stands there. "
)
_COLOURS = "Floors, doors, keys, balls and boxes have colours; a door is open, closed or locked. "
_HANDLE = {
    "pickup": "pickup takes the key, ball or box in front of an agent that carries nothing",
    "drop": "drop puts it down in front, if nothing is there",
    "toggle": "toggle opens or closes the door in front (a locked one needs the key of its colour) or opens a box",
    "done": "done changes nothing in the grid",
}


def describe(env: MiniGridEnv, actions: tuple[str, ...], view_size: int | None) -> str:
    """The rules for a player with these actions; ``view_size`` in cells where the view is partial."""
    shows = _FULL if view_size is None else _PARTIAL.format(size=view_size)
    handle = [sentence for action, sentence in _HANDLE.items() if action in actions]
    # Moving balls have colours, too; where nothing but walls, goals and lava stands, colours would only confuse.
    colours = _COLOURS if handle else ""
    handling = "; ".join(handle)
    handling = f"{handling[0].upper()}{handling[1:]}. " if handling else ""
    return f"{shows}{_WALK}{colours}{handling}{play_of(env).ends}{_strict(env)}"


def _strict(env: MiniGridEnv) -> str:
    """BabyAI's strict levels end when the right thing is done to a wrong object."""
    strict = getattr(env, "strict", False) or getattr(env, "debug", False)
    return " Doing it to a wrong object ends the episode." if strict else ""

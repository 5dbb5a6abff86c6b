"""A furnished room as a world: an agent walks among things and sees what lies ahead of it, in three dimensions.

The floor is a board of squares of one metre, each free or taken by one thing. Facts are what the picture shows, on a
board in the agent's own coordinates (it stands in the middle of the lowest row and looks up): things, walls, free
squares, and "unknown" where something else or the edge of the room is in the way. Whether a square is seen is counted
in pixels, by segmentation, in a picture of the size of the observation.

Frames are a function of the state on one machine. Another OpenGL driver draws slightly different pixels (see
``worlds.scene.TOLERANCE``), so shards are collected anew where the driver changes; loading them says so.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worlds.board import EpisodeWorld
from worlds.core import BoardSchema, CellContent, Facts, Family, Snapshot, Thing, WorldError, WorldSpec
from worlds.rooms import CEILINGS, COLOURS, FIXTURES, FLOORS, KINDS, WALL_COLOURS, Camera, Item, Room
from worlds.scene import NOBODY, SceneRenderer, axes, why_missing

ACTIONS = ("turn left", "turn right", "forward")
STEPS = (
    (1, 0),
    (0, -1),
    (-1, 0),
    (0, 1),
)  # (dx, dy) by the quarters turned counter-clockwise from east; y counts down
NOUNS = tuple(kind.name for kind in KINDS.values() if kind.all_round)

REACH = 3  # squares to either side of the agent that facts tell of
SEEN = 0.25  # the share of its own pixels from which on a thing, or the middle of a free square, counts as seen
EYE = dict(height=1.3, pitch=-20.0, fov=90.0)
BEHIND = 0.45  # metres from the middle of the agent's square back to its eye: the square ahead is in full view
FLOOR_RADIUS = 0.3  # metres around the middle of a square that must be seen of its floor
POSES_KEPT = 4096  # poses whose facts a world remembers

UNKNOWN = "unknown"

Square = tuple[int, int]  # column and row of the room's floor, from its north-west corner


class Layout(NamedTuple):
    """What stays as it is in an episode: things as (kind, colour, x, y, quarters turned), sorted by y and x."""

    things: tuple[tuple[str, str, int, int, int], ...]
    walls: tuple[str, ...]
    fixtures: tuple[str, ...]
    floor: str
    ceiling: str


class Pose(NamedTuple):
    """Where the agent stands, and the quarters it is turned counter-clockwise from east."""

    x: int
    y: int
    quarters: int


def find(prefix: str) -> Family:
    """The rooms, or why there are none."""
    reason = why_missing()
    ids = {f"{prefix}{size}x{size}": dict(size=size, things=things) for size, things in ((5, 5), (6, 6), (8, 10))}
    if reason:
        return Family({}, dict.fromkeys(ids, reason))
    entry = "worlds.scene_world:FurnishedRoom"
    return Family({id: WorldSpec(id, entry, settings) for id, settings in ids.items()})


class FurnishedRoom(EpisodeWorld):
    """Go to the thing that the mission names: stand before it and face it. Pays 1 there and ends."""

    facts_tell_all: ClassVar[bool] = False  # which way things face is not asked, nor what is far to the side

    def __init__(
        self, id: str, size: int = 5, things: int = 5, pixels: int = 112, max_steps: int | None = None
    ) -> None:
        """
        Args:
            id: the name of the world.
            size: squares along each wall.
            things: how many stand in the room.
            pixels: width and height of an observation.
            max_steps: of an episode; by default as many as it has squares, times four.

        Raises:
            WorldError: MuJoCo or OpenGL is missing, or the room is too small for its things.
        """
        if not 3 <= size <= 12:
            raise WorldError(f"world {id}: size is {size}; rooms of 3 to 12 squares can be built")
        if not 1 <= things <= size * size // 4:
            raise WorldError(f"world {id}: {things} things in {size} x {size} squares; 1 to {size * size // 4} fit")
        super().__init__(id, frame=(pixels, pixels), actions=ACTIONS, max_steps=max_steps or 4 * size * size)
        self.size, self.things, self.pixels = size, things, pixels
        self.schema = _schema(size)
        self.view = "partial"
        self.fully_visible = False
        self.rules = (
            f"You walk in a room of {size} x {size} squares of one metre and see what lies ahead of you. "
            "turn left and turn right turn you by a quarter. "
            "forward takes you to the square ahead unless a thing or a wall is there. "
            f"Positions are squares in your own view: you stand at column {REACH} of the lowest row, row {size}, and "
            "the rows above are further ahead. "
            "A square that is hidden is unknown. "
            "The episode ends with reward 1 when you stand before the thing that you are sent to and face it."
        )
        self._renderer = SceneRenderer()
        self._facts: OrderedDict[tuple[Layout, Pose], frozenset[Thing]] = OrderedDict()

    def packages(self) -> tuple[str, ...]:
        return ("gymnasium", "mujoco", "numpy")

    # -------------------------------------------------------------------------------------------------- the episode

    def start(self, layout_seed: int) -> None:
        rng = np.random.default_rng(layout_seed)
        while True:
            layout = self._furnish(rng)
            free = _free(layout, self.size)
            kind, colour, *_ = layout.things[rng.integers(len(layout.things))]
            x, y = free[rng.integers(len(free))]
            pose = Pose(x, y, int(rng.integers(4)))
            if _connected(free) and _distances(layout, self.size, (kind, colour)).get(pose, 0) > 0:
                break
        self._layout, self._target, self._pose, self._steps = layout, (kind, colour), pose, 0

    def _furnish(self, rng: np.random.Generator) -> Layout:
        """Things that differ in kind, in colour or in both, so that neither alone tells them apart."""
        few = max(2, math.ceil(math.sqrt(2 * self.things)))
        nouns, colours = (_some(rng, words, few) for words in (NOUNS, tuple(COLOURS)))
        pairs = [(noun, colour) for noun in nouns for colour in colours]
        named = [pairs[i] for i in rng.permutation(len(pairs))[: self.things]]
        squares = rng.permutation(self.size * self.size)[: self.things]
        things = [
            (noun, colour, int(square) % self.size, int(square) // self.size, int(rng.integers(4)))
            for (noun, colour), square in zip(named, squares, strict=True)
        ]
        [floor], [ceiling] = (_some(rng, tuple(words), 1) for words in (FLOORS, CEILINGS))
        walls, fixtures = (tuple(_some(rng, words, 4)) for words in (tuple(WALL_COLOURS), FIXTURES))
        return Layout(_sorted(things), walls, fixtures, floor, ceiling)

    def advance(self, action: int) -> float:
        self._pose = _moved(self._layout, self.size, self._pose, action)
        self._steps += 1
        return float(self.success)

    @property
    def steps(self) -> int:
        return self._steps

    @property
    def success(self) -> bool:
        return _arrived(self._layout, self._pose, self._target)

    @property
    def terminated(self) -> bool:
        return self.success

    def snapshot(self) -> dict[str, Any]:
        return {
            **_as_json(self._layout),
            "x": self._pose.x,
            "y": self._pose.y,
            "quarters": self._pose.quarters,
            "target": list(self._target),
            "steps": self._steps,
        }

    def restore(self, snapshot: Snapshot) -> None:
        self._layout, self._pose, self._target = _layout(snapshot), _pose(snapshot), _target(snapshot)
        self._steps = snapshot["steps"]

    def layout(self, snapshot: Snapshot) -> Any:
        return _as_json(_layout(snapshot))

    def mission(self, snapshot: Snapshot) -> str:
        kind, colour = _target(snapshot)
        return f"go to the {colour} {kind}"

    # ------------------------------------------------------------------------------------------------- what is seen

    def room(self, snapshot: Snapshot) -> Room:
        """The room of a state, to be drawn from anywhere."""
        return _room(_layout(snapshot), self.size)

    def camera(self, snapshot: Snapshot) -> Camera:
        """The agent's view in a state."""
        return _camera(_pose(snapshot), self.size)

    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        frames = np.empty((len(snapshots), *(self.observation_space.shape or ())), np.uint8)
        layouts = [_layout(snapshot) for snapshot in snapshots]
        for layout in dict.fromkeys(layouts):
            rows = [row for row, other in enumerate(layouts) if other == layout]
            cameras = [self.camera(snapshots[row]) for row in rows]
            frames[rows] = self._renderer.render(_room(layout, self.size), cameras, self.pixels)
        return frames

    def facts(self, snapshot: Snapshot) -> Facts:
        view = (_layout(snapshot), _pose(snapshot))
        if view not in self._facts:
            self._facts[view] = self._look(*view)
            if len(self._facts) > POSES_KEPT:
                self._facts.popitem(last=False)
        return Facts(self._facts[view])

    def _look(self, layout: Layout, pose: Pose) -> frozenset[Thing]:
        """What the picture shows, counted in its pixels."""
        room, cameras = _room(layout, self.size), [_camera(pose, self.size)]
        shown = self._renderer.segment(room, cameras, self.pixels)[0]
        floors = _floors(self.size, self.pixels)
        bare = np.bincount(floors[shown == NOBODY], minlength=len(_cone(self.size)) + 1)
        clear = bare >= SEEN * np.bincount(floors.ravel(), minlength=len(bare))
        shares = self._renderer.visible(room, cameras, self.pixels)[0]
        seen = {
            place
            for place, is_clear in zip(_places(pose, self.size), clear[1:], strict=True)
            if is_clear or not _is_inside(place, self.size)
        }
        for share, (_, _, x, y, _) in zip(shares, layout.things, strict=True):
            if share >= SEEN:
                seen.add((x, y))
            else:
                seen.discard((x, y))
        return self._told(layout, pose, seen)

    def _told(self, layout: Layout, pose: Pose, known: set[Square]) -> frozenset[Thing]:
        """The facts of somebody at ``pose`` who knows what is on these squares of the room and on no others."""
        content = {(x, y): Thing(kind, 0, 0, colour) for kind, colour, x, y, _ in layout.things}
        content |= self._walls(layout.walls)
        told = {Thing("agent", REACH, self.size)}
        for (column, row), place in zip(_cone(self.size), _places(pose, self.size), strict=True):
            beyond = not _is_inside(place, self.size) and place not in content
            if place not in known or beyond:
                told.add(Thing(UNKNOWN, column, row))
            elif place in content:
                thing = content[place]
                told.add(Thing(thing.kind, column, row, thing.detail))
        return frozenset(told)

    def _walls(self, walls: Sequence[str]) -> dict[Square, Thing]:
        """The squares around the room, corners excepted, with the walls that stand on them."""
        east, north, west, south = (Thing("wall", 0, 0, colour) for colour in walls)
        along = range(self.size)
        return {
            **{(self.size, y): east for y in along},
            **{(x, -1): north for x in along},
            **{(-1, y): west for y in along},
            **{(x, self.size): south for x in along},
        }

    def belief(self, seen: Sequence[Snapshot], asked: Snapshot) -> Facts:
        """The agent's view at ``asked`` as far as it follows from the images of ``seen``.

        A square is known if any of them shows it; nothing in the room moves.
        """
        known: set[Square] = set()
        for snapshot in seen:
            told = {(thing.x, thing.y) for thing in self.facts(snapshot).of_kind(UNKNOWN)}
            places = zip(_cone(self.size), _places(_pose(snapshot), self.size), strict=True)
            known.update(place for cell, place in places if cell not in told)
        return Facts(self._told(_layout(asked), _pose(asked), known))

    def realise(self, facts: Facts, like: Snapshot) -> dict[str, Any] | None:
        """The agent stands where it stands in ``like``, and what it does not see is as it is there."""
        if not self.schema.allows(facts):
            return None
        layout, pose = _layout(like), _pose(like)
        place_of = dict(zip(_cone(self.size), _places(pose, self.size), strict=True))
        unknown = {(thing.x, thing.y) for thing in facts.of_kind(UNKNOWN)}
        shown = {place for cell, place in place_of.items() if cell not in unknown}
        turned = {thing[:2]: thing[4] for thing in layout.things}
        things = [thing for thing in layout.things if thing[2:4] not in shown]
        for thing in facts.things:
            place = place_of.get((thing.x, thing.y))
            if thing.kind not in KINDS:
                continue
            if place is None or not _is_inside(place, self.size):
                return None
            things.append((thing.kind, thing.detail, *place, turned.get((thing.kind, thing.detail), 0)))
        if len({thing[:2] for thing in things}) < len(things) or (pose.x, pose.y) in {thing[2:4] for thing in things}:
            return None
        realised = {**like, **_as_json(layout._replace(things=_sorted(things)))}
        return realised if self.facts(realised) == facts else None

    # ------------------------------------------------------------------------------------------------- what is best

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        left = self.steps_to_go(snapshot)
        if not left:
            return ()
        distances = _distances(_layout(snapshot), self.size, _target(snapshot))
        following = [_moved(_layout(snapshot), self.size, _pose(snapshot), a) for a in range(len(ACTIONS))]
        return tuple(action for action, after in enumerate(following) if distances.get(after) == left - 1)

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        return _distances(_layout(snapshot), self.size, _target(snapshot)).get(_pose(snapshot))


# ------------------------------------------------------------------------------------------------------------- rules


def _free(layout: Layout, size: int) -> list[Square]:
    """The squares without a thing."""
    taken = {(x, y) for _, _, x, y, _ in layout.things}
    return [(x, y) for y in range(size) for x in range(size) if (x, y) not in taken]


def _is_inside(square: Square, size: int) -> bool:
    return min(square) >= 0 and max(square) < size


def _moved(layout: Layout, size: int, pose: Pose, action: int) -> Pose:
    """Where an action leads."""
    if action < 2:
        return pose._replace(quarters=(pose.quarters + (1, -1)[action]) % 4)
    ahead = _ahead(pose)
    blocked = not _is_inside(ahead, size) or any(ahead == thing[2:4] for thing in layout.things)
    return pose if blocked else Pose(*ahead, pose.quarters)


def _arrived(layout: Layout, pose: Pose, target: tuple[str, str]) -> bool:
    """Whether the target is on the square ahead."""
    ahead = _ahead(pose)
    return any(thing[:2] == target and thing[2:4] == ahead for thing in layout.things)


@lru_cache(maxsize=256)
def _distances(layout: Layout, size: int, target: tuple[str, str]) -> Mapping[Pose, int]:
    """The fewest steps from each pose to standing before the target, where it can be reached."""
    poses = [Pose(x, y, quarters) for x, y in _free(layout, size) for quarters in range(4)]
    before: dict[Pose, list[Pose]] = {pose: [] for pose in poses}
    for pose in poses:
        for action in range(len(ACTIONS)):
            before[_moved(layout, size, pose, action)].append(pose)
    found = {pose: 0 for pose in poses if _arrived(layout, pose, target)}
    queue = deque(found)
    while queue:
        pose = queue.popleft()
        for earlier in before[pose]:
            if earlier not in found:
                found[earlier] = found[pose] + 1
                queue.append(earlier)
    return found


# --------------------------------------------------------------------------------------------------------- snapshots


def _as_json(layout: Layout) -> dict[str, Any]:
    things = [list(thing) for thing in layout.things]
    return {
        "things": things,
        "walls": list(layout.walls),
        "fixtures": list(layout.fixtures),
        "floor": layout.floor,
        "ceiling": layout.ceiling,
    }


def _layout(snapshot: Snapshot) -> Layout:
    things = tuple((kind, colour, x, y, quarters) for kind, colour, x, y, quarters in snapshot["things"])
    walls, fixtures = tuple(snapshot["walls"]), tuple(snapshot["fixtures"])
    return Layout(things, walls, fixtures, snapshot["floor"], snapshot["ceiling"])


def _pose(snapshot: Snapshot) -> Pose:
    return Pose(snapshot["x"], snapshot["y"], snapshot["quarters"])


def _target(snapshot: Snapshot) -> tuple[str, str]:
    kind, colour = snapshot["target"]
    return kind, colour


def _sorted(things: Sequence[tuple[str, str, int, int, int]]) -> tuple[tuple[str, str, int, int, int], ...]:
    return tuple(sorted(things, key=lambda thing: (thing[3], thing[2])))


def _some(rng: np.random.Generator, words: Sequence[str], count: int) -> list[str]:
    return [words[int(i)] for i in rng.permutation(len(words))[:count]]


def _connected(squares: Sequence[Square]) -> bool:
    """Whether one can walk from any of the squares to any other."""
    left = set(squares)
    stack = [left.pop()]
    while stack:
        x, y = stack.pop()
        for dx, dy in STEPS:
            if (x + dx, y + dy) in left:
                left.remove((x + dx, y + dy))
                stack.append((x + dx, y + dy))
    return not left


# ---------------------------------------------------------------------------------------------------------- geometry


def _ahead(pose: Pose) -> Square:
    dx, dy = STEPS[pose.quarters]
    return pose.x + dx, pose.y + dy


@lru_cache(maxsize=256)
def _room(layout: Layout, size: int) -> Room:
    items = tuple(
        Item(kind, colour, *_metres(x, y, size), 90.0 * quarters) for kind, colour, x, y, quarters in layout.things
    )
    return Room(size, size, items, layout.walls, layout.fixtures, layout.floor, layout.ceiling)


def _metres(x: float, y: float, size: int) -> tuple[float, float]:
    """The middle of a square."""
    return x + 0.5 - size / 2, size / 2 - 0.5 - y


def _camera(pose: Pose, size: int) -> Camera:
    dx, dy = STEPS[pose.quarters]
    return Camera(*_metres(pose.x - BEHIND * dx, pose.y - BEHIND * dy, size), yaw=90.0 * pose.quarters, **EYE)


@lru_cache(maxsize=16)
def _cone(size: int) -> tuple[tuple[int, int], ...]:
    """The squares (column, row) of the agent's board that a picture can show, the agent's own excepted."""
    return tuple(
        (REACH + right, size - ahead)
        for ahead in range(1, size + 1)
        for right in range(-min(ahead, REACH), min(ahead, REACH) + 1)
    )


def _places(pose: Pose, size: int) -> Iterator[Square]:
    """Where in the room each square of ``_cone`` lies, or beyond its walls."""
    dx, dy = STEPS[pose.quarters]
    for column, row in _cone(size):
        right, ahead = column - REACH, size - row
        yield pose.x + ahead * dx - right * dy, pose.y + ahead * dy + right * dx


@lru_cache(maxsize=16)
def _floors(size: int, pixels: int) -> NDArray[np.intp]:
    """Which square's floor each pixel would show in an empty and endless room: 1 + its number in ``_cone``, or 0.

    Only the middle of a square counts, ``FLOOR_RADIUS`` around.
    """
    camera = Camera(-BEHIND, 0, 0, **EYE)  # the agent's square is around the origin; it looks along x
    steps = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    half = math.tan(math.radians(camera.fov) / 2)
    local = np.stack(np.broadcast_arrays(half * steps, -half * steps[:, None], 1.0), -1)  # (row, column, 3)
    rays = local @ axes(camera)
    down = np.minimum(rays[..., 2], -1e-9)
    ahead, left = camera.x - camera.height / down * rays[..., 0], -camera.height / down * rays[..., 1]
    labels = np.zeros((pixels, pixels), np.intp)
    for number, (column, row) in enumerate(_cone(size), 1):
        labels[np.hypot(ahead - (size - row), left + (column - REACH)) <= FLOOR_RADIUS] = number
    return labels


@lru_cache(maxsize=16)
def _schema(size: int) -> BoardSchema:
    """All that a view can show: the agent, walls by colour, things by colour, and squares that are unknown."""
    kinds: dict[str, tuple[str, ...]] = {
        "agent": ("",),
        **dict.fromkeys(NOUNS, tuple(COLOURS)),
        "wall": tuple(WALL_COLOURS),
        UNKNOWN: ("",),
    }
    glyphs: dict[CellContent, str] = {(): ".", (("agent", ""),): "^", ((UNKNOWN, ""),): "?"}
    glyphs |= {(("wall", colour),): f"{colour}-wall" for colour in WALL_COLOURS}
    glyphs |= {((noun, colour),): f"{colour}-{noun}" for noun in NOUNS for colour in COLOURS}
    return BoardSchema(2 * REACH + 1, size + 1, kinds, glyphs)

"""Pictures of rooms, and what can be seen in them, drawn by MuJoCo.

The optional extra ``scene`` brings MuJoCo; OpenGL comes from EGL or, where the machine has none, from OSMesa. A
process makes its OpenGL context when it draws for the first time and uses it from then on for every room: making one
takes longer than a hundred pictures. A process that forks leaves it to the parent; the child makes its own.

On one machine equal views give equal pictures. Another OpenGL driver rounds colours and edges in its own way, see
``TOLERANCE``. Knows nothing about questions, actions or rewards.
"""

from __future__ import annotations

import ctypes.util
import importlib
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worlds.core import WorldError
from worlds.furniture import paint, parts
from worlds.meshes import mesh
from worlds.rooms import CEILINGS, FLOORS, KINDS, WALL_COLOURS, WALL_HEIGHT, Camera, Colour, Item, Room

TOLERANCE = 2.0  # mean absolute difference, in grey levels of 255, between two drivers' pictures of one view
MAX_GEOMS = 4000
MAX_SIZE = 1024  # pixels
NEAR, FAR = 0.03, 60.0  # metres in front of a camera between which things are drawn
SEEN_SIZE = 224  # pixels of the views in which ``visible`` counts
Array = NDArray[np.float64]

NOBODY = -1  # in ``segment``: walls, floor and ceiling

_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}  # the ways to OpenGL without a screen
_INSTALL = "pip install 'vagen-cloze[scene]'"
_DRIVERS = "install Mesa (on Debian and Ubuntu: apt install libegl1 libgl1-mesa-dri, or libosmesa6)"
_MODEL = """
<mujoco>
  <visual>
    <global offwidth="{size}" offheight="{size}"/>
    <quality offsamples="{samples}" shadowsize="2048" numslices="16" numstacks="8" numquads="1"/>
    <headlight active="0"/>
    <map shadowclip="8"/>
  </visual>
  <statistic extent="1" center="0 0 1"/>
  <worldbody>
    <light type="directional" pos="2.2 1.5 4.5" dir="-0.45 -0.3 -0.85" castshadow="true"
      ambient="0 0 0" diffuse="0.52 0.52 0.51" specular="0.15 0.15 0.15"/>
    <light type="directional" dir="0.55 0.65 -0.5" castshadow="false"
      ambient="0.45 0.45 0.46" diffuse="0.34 0.34 0.36" specular="0 0 0"/>
  </worldbody>
</mujoco>
"""


def why_missing() -> str:
    """Why nothing can be drawn here, and what to install; "" where it can, as far as is known without trying."""
    if find_spec("mujoco") is None:
        return f"it needs MuJoCo, which is not installed: {_INSTALL}"
    if sys.platform == "linux" and not opengl():
        wanted = _wanted_opengl()
        missing = f"MUJOCO_GL={wanted} is not" if wanted else "neither EGL nor OSMesa is"
        return f"it needs OpenGL without a screen, and {missing} there: {_DRIVERS}"
    return ""


def axes(camera: Camera) -> NDArray[np.float64]:
    """(3, 3): the directions right, up and forward of a camera, as rows."""
    yaw, pitch = math.radians(camera.yaw), math.radians(camera.pitch)
    right = [math.sin(yaw), -math.cos(yaw), 0.0]
    up = [-math.sin(pitch) * math.cos(yaw), -math.sin(pitch) * math.sin(yaw), math.cos(pitch)]
    forward = [math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)]
    return np.array([right, up, forward])


def project(camera: Camera, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where points of a room, (P, 3), appear: (P, 3) column, row and depth.

    Columns and rows run from 0 at the left and upper edge of the picture to 1 at the right and lower edge. The depth
    is the distance in front of the camera along its axis in metres; column and row mean nothing where it is not
    positive.
    """
    local = (np.asarray(points, float) - (camera.x, camera.y, camera.height)) @ axes(camera).T
    depth = local[:, 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    half = math.tan(math.radians(camera.fov) / 2)
    return np.stack([0.5 + local[:, 0] / safe / half / 2, 0.5 - local[:, 1] / safe / half / 2, depth], axis=1)


class SceneRenderer:
    """Draws rooms. Cheap to make: the renderers of a thread share what is expensive."""

    def __init__(self, shadows: bool = False, samples: int = 4) -> None:
        """
        Args:
            shadows: whether things cast shadows; more than doubles the time of a picture.
            samples: per pixel, for smooth edges; 0 or 1 for none.

        Raises:
            WorldError: MuJoCo or OpenGL is missing; says what to install.
        """
        reason = why_missing()
        if reason:
            raise WorldError(f"rooms cannot be drawn: {reason}")
        self.shadows = shadows
        self.samples = samples

    def render(self, room: Room, cameras: Sequence[Camera], size: int = 224) -> NDArray[np.uint8]:
        """Views of a room, (N, size, size, 3) RGB."""
        _check_size(size)
        stage = _stage(self.samples)
        stage.furnish(room)
        stage.resize(size)
        pictures = np.empty((len(cameras), size, size, 3), np.uint8)
        for camera, picture in zip(cameras, pictures, strict=True):
            stage.draw(camera, picture, self.shadows)
        return pictures[:, ::-1]

    def segment(self, room: Room, cameras: Sequence[Camera], size: int = SEEN_SIZE) -> NDArray[np.int16]:
        """The number in ``room.items`` of what each pixel shows, (N, size, size); ``NOBODY`` elsewhere."""
        _check_size(size)
        stage = _stage(0)
        stage.furnish(room)
        stage.resize(size)
        shown = np.empty((len(cameras), size, size), np.int16)
        for camera, picture in zip(cameras, shown, strict=True):
            picture[:] = stage.identify(camera, range(len(room.items)))
        return shown[:, ::-1]

    def visible(self, room: Room, cameras: Sequence[Camera], size: int = SEEN_SIZE) -> NDArray[np.float64]:
        """The share of each item's own pixels that is seen, (N, items).

        An item's own pixels are those it would have alone in a picture without edges; 0 means that it is hidden or
        out of view, 1 that all of it is there. ``size`` is that of the pictures in which pixels are counted.
        """
        _check_size(size)
        stage = _stage(0)
        stage.furnish(room)
        seen = np.zeros((len(cameras), len(room.items)))
        for row, camera in zip(seen, cameras, strict=True):
            stage.resize(size)
            shown = stage.identify(camera, range(len(room.items)))
            counts = np.bincount(shown[shown != NOBODY], minlength=len(room.items))
            covered = (counts > 0) & ~_in_the_open(camera, room.items, counts > 0)
            own = np.where(covered, stage.own_pixels(camera, covered, size), counts)
            row[:] = counts / np.maximum(own, 1)
        return np.minimum(seen, 1.0)


def _check_size(size: int) -> None:
    if not 1 <= size <= MAX_SIZE:
        raise WorldError(f"a picture cannot be {size} pixels wide; choose 1 to {MAX_SIZE}")


# ------------------------------------------------------------------------------------------------------------ OpenGL


def opengl() -> str:
    """How OpenGL is reached without a screen on Linux: "egl", "osmesa", or "" for not at all."""
    ways = [_wanted_opengl()] if _wanted_opengl() else list(_LIBRARIES)
    return next((way for way in ways if ctypes.util.find_library(_LIBRARIES[way])), "")


def _wanted_opengl() -> str:
    """The way that the user chose, if it is one of ours."""
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    return wanted if wanted in _LIBRARIES else ""


def _open_gl() -> Any:
    """A new OpenGL context that draws into memory."""
    way = opengl() if sys.platform == "linux" else ""
    # Mesa's renderer without a GPU: in this thread, since threads of its own would be missing after a fork.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if way:
        os.environ.setdefault("MUJOCO_GL", way)
    try:
        if way:
            return importlib.import_module(f"mujoco.{way}").GLContext(MAX_SIZE, MAX_SIZE)
        return importlib.import_module("mujoco").GLContext(MAX_SIZE, MAX_SIZE)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        what = " ".join(str(error).split())
        raise WorldError(
            f"rooms cannot be drawn: OpenGL through {way or sys.platform} does not start ({what}); "
            f"{_DRIVERS}, or set MUJOCO_GL to egl or osmesa"
        ) from error


_LOCAL = threading.local()  # OpenGL contexts belong to the thread that made them


def _stage(samples: int) -> _Stage:
    """The stage of this process and thread, made when it is first asked for."""
    stages: dict[int, _Stage] = _LOCAL.__dict__.setdefault("stages", {})
    if samples not in stages:
        stages[samples] = _Stage(samples)
    stages[samples].make_current()
    return stages[samples]


def _forget_stages() -> None:
    """After a fork, the parent's contexts are of no use to the child, and must not be freed by it."""
    global _LOCAL
    _LEFT_BEHIND.append(_LOCAL)
    _LOCAL = threading.local()


_LEFT_BEHIND: list[threading.local] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_stages)


class _Stage:
    """One OpenGL context with one scene, whose solids are exchanged from room to room."""

    def __init__(self, samples: int) -> None:
        self.gl = _open_gl()
        self.gl.make_current()
        self.mujoco = mujoco = importlib.import_module("mujoco")
        model, self.surfaces = _model(mujoco, samples)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self.scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        mujoco.mjv_updateScene(
            model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), mujoco.mjtCatBit.mjCAT_ALL.value, self.scene
        )
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self.context)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False
        self.box, self.mesh = mujoco.mjtGeom.mjGEOM_BOX.value, mujoco.mjtGeom.mjGEOM_MESH.value
        self.room: Room | None = None
        self.owners: list[int] = []  # of the bodies in the scene, the numbers of their items; ``NOBODY`` for the room
        self.shown: list[int] = []  # the segmentation numbers that they have at present
        self.size = 0

    def make_current(self) -> None:
        self.gl.make_current()

    def resize(self, size: int) -> None:
        """Make the buffer this many pixels wide and high."""
        if size != self.size:
            self.mujoco.mjr_resizeOffscreen(size, size, self.context)
            self.rect = self.mujoco.MjrRect(0, 0, size, size)
            self.size = size

    def furnish(self, room: Room) -> None:
        """Put a room and its things into the scene."""
        if room == self.room:
            return
        blocks = shell(room)
        owners = [number for number, item in enumerate(room.items) for _ in self.surfaces[item.kind]]
        owners += [NOBODY] * len(blocks)
        if len(owners) > MAX_GEOMS:
            raise WorldError(f"a room of {len(room.items)} items has {len(owners)} surfaces; {MAX_GEOMS} can be drawn")
        geoms = iter(self.scene.geoms)
        for item in room.items:
            self._stand(item, geoms)
        for block in reversed(
            blocks
        ):  # things before walls, fixtures before walls: what is hidden is not coloured first
            geom = next(geoms)
            self._add(geom, self.box, block.size, block.at, block.axes, block.colour)
            geom.specular = geom.shininess = 0
            geom.emission = GLOW
            geom.castshadow = False  # the lamps hang above the ceiling
        self.scene.ngeom = len(owners)
        self.owners, self.shown = owners, [NOBODY] * len(owners)
        self.room = room

    def _stand(self, item: Item, geoms: Iterator[Any]) -> None:
        """Put a thing into the next places of the scene."""
        turn, place = _turn(math.radians(item.yaw)), (item.x, item.y, 0)
        for surface in self.surfaces[item.kind]:
            geom = next(geoms)
            colour = paint(surface.paint, item.colour)
            self._add(geom, self.mesh, np.zeros(3), turn @ surface.at + place, turn @ surface.axes, colour)
            geom.dataid = surface.number
            geom.specular = geom.shininess = GLOSS

    def _add(self, geom: Any, type: int, size: Array, at: Array, axes: Array, colour: Colour) -> None:
        self.mujoco.mjv_initGeom(geom, type, size, at, axes.ravel(), np.array([*colour, 1.0], np.float32))
        geom.segid = NOBODY

    def draw(self, camera: Camera, picture: NDArray[np.uint8], shadows: bool) -> None:
        """One view, upside down."""
        self._look(camera)
        self.scene.flags[self.mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self.mujoco.mjr_render(self.rect, self.scene, self.context)
        self.mujoco.mjr_readPixels(picture, None, self.rect, self.context)

    def identify(self, camera: Camera, numbers: Sequence[int], widen: float = 1.0) -> NDArray[np.int16]:
        """The item that each pixel shows where only these items are there; upside down."""
        self._look(camera, widen)
        for index, owner in enumerate(self.owners):
            wanted = owner if owner in numbers else NOBODY
            if self.shown[index] != wanted:
                self.scene.geoms[index].segid = self.shown[index] = wanted
        flags = self.mujoco.mjtRndFlag
        self.scene.flags[flags.mjRND_SHADOW] = False
        self.scene.flags[flags.mjRND_SEGMENT] = self.scene.flags[flags.mjRND_IDCOLOR] = True
        pixels = np.empty((self.size, self.size, 3), np.uint8)
        self.mujoco.mjr_render(self.rect, self.scene, self.context)
        self.mujoco.mjr_readPixels(pixels, None, self.rect, self.context)
        self.scene.flags[flags.mjRND_SEGMENT] = self.scene.flags[flags.mjRND_IDCOLOR] = False
        return (pixels[..., 0] + pixels[..., 1].astype(np.int16) * 256) - 1  # number + 1, least byte first

    def own_pixels(self, camera: Camera, wanted: NDArray[np.bool_], size: int) -> NDArray[np.intp]:
        """(items,): how many pixels each wanted item would have alone, beyond the edges of the picture as well."""
        assert self.room is not None
        own = np.zeros(len(wanted), np.intp)
        inside = _inside(camera, self.room.items)
        for widen, those in ((1, wanted & inside), (3, wanted & ~inside)):
            if those.any():
                self.resize(size * widen)
            for number in np.flatnonzero(those).tolist():
                own[number] = np.count_nonzero(self.identify(camera, (number,), widen) == number)
        return own

    def _look(self, camera: Camera, widen: float = 1.0) -> None:
        _, up, forward = axes(camera)
        top = NEAR * math.tan(math.radians(camera.fov) / 2) * widen
        for view in self.scene.camera:
            view.pos = (camera.x, camera.y, camera.height)
            view.forward, view.up = forward, up
            view.frustum_bottom, view.frustum_top, view.frustum_center = -top, top, 0
            view.frustum_near, view.frustum_far = NEAR, FAR


def _frames(camera: Camera, items: Sequence[Item]) -> NDArray[np.float64]:
    """(items, 6): the least and the largest column, row and depth of the box around each item."""
    corners = [
        (item.x + kind.radius * x, item.y + kind.radius * y, z)
        for item in items
        for kind in (KINDS[item.kind],)
        for x in (-1, 1)
        for y in (-1, 1)
        for z in (0.0, kind.height)
    ]
    places = project(camera, np.reshape(corners, (-1, 3))).reshape(-1, 8, 3)
    return np.concatenate([places.min(1), places.max(1)], axis=1)


def _inside(camera: Camera, items: Sequence[Item]) -> NDArray[np.bool_]:
    """(items,): whether the whole of an item surely lies within the edges of a view."""
    left, upper, near, right, lower, _ = _frames(camera, items).T
    return (near > NEAR) & (left >= 0) & (upper >= 0) & (right <= 1) & (lower <= 1)


def _in_the_open(camera: Camera, items: Sequence[Item], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(items,): whether an item surely lies within the edges of a view with nothing before it.

    ``seen`` tells which items some pixel shows; the others hide nothing that those do not hide.
    """
    frames = _frames(camera, items)
    left, upper, near, right, lower, far = frames.T
    margin = 0.01  # of the picture: edges are drawn to whole pixels
    apart = (left[:, None] > right + margin) | (right[:, None] < left - margin)
    apart |= (upper[:, None] > lower + margin) | (lower[:, None] < upper - margin)
    apart &= near > NEAR  # the box around what reaches behind the camera is not where it seems
    nearer = (near < far[:, None]) & ~np.eye(len(items), dtype=bool)
    return _inside(camera, items) & ~(nearer & ~apart & seen).any(1)


# ------------------------------------------------------------------------------------------------------------ bodies


class Surface(NamedTuple):
    """All of a kind of thing that has one paint, as a mesh of the model.

    Attributes:
        number: by which a scene knows the mesh.
        at, axes: (3,) and (3, 3), the place and, as columns, the axes of the mesh in the thing's own coordinates.
        paint: ``MAIN``, ``SHADE`` or one of ``furniture.PAINTS``.
    """

    number: int
    at: Array
    axes: Array
    paint: str


def _model(mujoco: Any, samples: int) -> tuple[Any, Mapping[str, tuple[Surface, ...]]]:
    """A model of two lamps and the meshes of all kinds of things, and which meshes are whose.

    A thing is drawn as a few meshes, one for each paint: a call of OpenGL takes longer than the triangles of a part.
    """
    spec = mujoco.MjSpec.from_string(_MODEL.format(size=MAX_SIZE, samples=samples if samples > 1 else 0))
    painted = {kind: sorted({part.paint for part in parts(kind)}) for kind in KINDS}
    for kind, paints in painted.items():
        for name in paints:
            surface = mesh([part for part in parts(kind) if part.paint == name])
            spec.add_mesh(
                name=f"{kind} {name}",
                inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
                uservert=surface.points.ravel(),
                usernormal=surface.normals.ravel(),
                userface=surface.faces.ravel(),
                userfacenormal=surface.faces.ravel(),
            )
    model = spec.compile()
    return model, {
        kind: tuple(_surface(mujoco, model, kind, name) for name in paints) for kind, paints in painted.items()
    }


def _surface(mujoco: Any, model: Any, kind: str, paint: str) -> Surface:
    """Where MuJoCo has moved a mesh (into its own middle and main axes), and its number in scenes."""
    id = model.mesh(f"{kind} {paint}").id
    axes = np.empty(9)
    mujoco.mju_quat2Mat(axes, model.mesh_quat[id])
    return Surface(2 * id, model.mesh_pos[id].copy(), axes.reshape(3, 3), paint)  # odd numbers are convex hulls


@dataclass(frozen=True)
class Block:
    """A box that belongs to the room itself, in its place.

    Attributes:
        size: (3,), half its extents along its own axes.
        at: (3,), the place of its middle.
        axes: (3, 3), its own axes as columns.
        colour: red, green, blue.
    """

    size: Array
    at: Array
    axes: Array
    colour: Colour


def shell(room: Room) -> tuple[Block, ...]:
    """Floor, ceiling and walls with what is on them."""
    return _shell(room.width, room.depth, room.walls, room.fixtures, room.floor, room.ceiling)


def _turn(yaw: float) -> NDArray[np.float64]:
    return np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])


_THICK = 0.1
GLOW = 0.25  # walls, floor and ceiling are bright wherever the lamps shine
GLOSS = 0.25  # of furniture
_WOOD, _FRAME, _GLASS, _BRASS = (0.50, 0.34, 0.20), (0.96, 0.96, 0.94), (0.60, 0.83, 0.97), (0.93, 0.76, 0.26)
_DARK_WOOD, _SEA, _LAND, _SUN = (0.25, 0.18, 0.12), (0.25, 0.45, 0.55), (0.35, 0.55, 0.25), (0.98, 0.85, 0.35)
_SLATE, _IRON = (0.12, 0.20, 0.17), (0.55, 0.55, 0.54)
Corner = Sequence[float]


@lru_cache(maxsize=64)
def _shell(
    width: float, depth: float, walls: tuple[str, ...], fixtures: tuple[str, ...], floor: str, ceiling: str
) -> tuple[Block, ...]:
    found: list[Block] = []

    def add(low: Corner, high: Corner, colour: Colour) -> None:
        found.append(_block(np.array(low), np.array(high), np.eye(3), colour))

    add((-width / 2, -depth / 2, -_THICK), (width / 2, depth / 2, 0), FLOORS[floor])
    add((-width / 2, -depth / 2, WALL_HEIGHT), (width / 2, depth / 2, WALL_HEIGHT + _THICK), CEILINGS[ceiling])
    for column in range(math.ceil(width)):  # a chequered floor, in squares of one metre
        for row in range(column % 2, math.ceil(depth), 2):
            low = (column - width / 2, row - depth / 2, 0)
            add(low, (min(low[0] + 1, width / 2), min(low[1] + 1, depth / 2), 0.001), _darker(FLOORS[floor], 0.88))
    for side, (colour, fixture) in enumerate(zip(walls, fixtures, strict=True)):
        away, length = ((width, depth), (depth, width))[side % 2]
        found.extend(_wall(side, away, length, WALL_COLOURS[colour], fixture))
    return tuple(found)


def _wall(side: int, away: float, length: float, colour: Colour, fixture: str) -> Iterator[Block]:
    """A wall and what is on it, built as the east wall of a room ``away`` wide and turned."""
    turn = _turn(math.pi / 2 * side)

    def block(low: Corner, high: Corner, colour: Colour) -> Block:
        """Between two corners, each given as (how far off the wall into the room, along it, up)."""
        places = np.array([(away / 2 - off, along, up) for off, along, up in (low, high)])
        return _block(places.min(0), places.max(0), turn, colour)

    yield block((0, -length / 2, 0), (-_THICK, length / 2, WALL_HEIGHT), colour)
    yield block((0, -length / 2, 0), (0.02, length / 2, 0.12), _darker(colour, 0.6))
    match fixture:
        case "window":
            yield block((0, -0.65, 1.2), (0.03, 0.65, 2.2), _FRAME)
            for left in (-0.58, 0.04):
                for low in (1.27, 1.74):
                    yield block((0, left, low), (0.04, left + 0.54, low + 0.40), _GLASS)
        case "door":
            yield block((0, -0.50, 0), (0.03, 0.50, 2.1), _FRAME)
            yield block((0, -0.42, 0), (0.04, 0.42, 2.02), _WOOD)
            yield block((0, 0.28, 0.98), (0.09, 0.36, 1.06), _BRASS)
        case "picture":
            yield block((0, -0.55, 1.3), (0.04, 0.55, 2.1), _DARK_WOOD)
            yield block((0, -0.47, 1.38), (0.05, 0.47, 2.02), _SEA)
            yield block((0, -0.47, 1.38), (0.055, 0.47, 1.62), _LAND)
            yield block((0, 0.12, 1.78), (0.055, 0.30, 1.95), _SUN)
        case "blackboard":
            yield block((0, -0.80, 1.05), (0.04, 0.80, 2.0), _WOOD)
            yield block((0, -0.74, 1.11), (0.05, 0.74, 1.94), _SLATE)
            yield block((0, -0.45, 1.66), (0.055, 0.15, 1.70), _FRAME)
            yield block((0, -0.45, 1.48), (0.055, 0.35, 1.52), _FRAME)
        case "radiator":
            yield block((0, -0.55, 0.20), (0.06, 0.55, 0.80), _IRON)
            for rib in range(8):
                along = -0.54 + 0.14 * rib
                yield block((0, along, 0.16), (0.11, along + 0.09, 0.84), _FRAME)
        case _:  # shelves
            for up in (1.35, 1.80):
                yield block((0, -0.60, up), (0.18, 0.60, up + 0.05), _WOOD)


def _block(low: NDArray[np.float64], high: NDArray[np.float64], turn: NDArray[np.float64], colour: Colour) -> Block:
    """A box between two corners, turned around the middle of the room."""
    return Block((high - low) / 2, turn @ ((high + low) / 2), turn, colour)


def _darker(colour: Colour, share: float) -> Colour:
    red, green, blue = colour
    return share * red, share * green, share * blue

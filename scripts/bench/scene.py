"""Scenes and pictures per second of our one reused renderer against a new MuJoCo model and renderer for each scene.

    python scripts/bench/scene.py [--size 224] [--views 4] [--seconds 3]

A scene is a new room with six things, seen from several places; both draw the same without shadows, which is checked
first: the peer part by part, as models are commonly written, ours with all parts of one colour in a mesh. The most
that reuse can bring is how fast our renderer draws rooms without things: the ``bound`` is a share of that. Prints one
JSON line per comparison. Wants one core: run it with ``taskset -c 0`` where there are more.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from measure import comparison, rates
from numpy.typing import NDArray

from worlds import scene
from worlds.furniture import paint, parts
from worlds.rooms import COLOURS, KINDS, MAX_RADIUS, Camera, Colour, Item, Room, overlap
from worlds.scene import GLOSS, GLOW, Array, SceneRenderer, axes, shell

os.environ.setdefault("MUJOCO_GL", scene.opengl())  # for the peer; read when mujoco is imported
mujoco: Any = importlib.import_module("mujoco")  # of the extra "scene"
ROOMS = 64
TARGET = 50
ALIKE = 4.0  # mean difference in grey levels up to which both pictures count as the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rooms = [furnished(rng) for _ in range(ROOMS)]
    around = np.arange(args.views) * 2 * math.pi / args.views
    cameras = [Camera(2.7 * math.cos(a), 2.7 * math.sin(a), 180 + math.degrees(a)) for a in around]
    for samples in (0, 4):
        renderer = SceneRenderer(samples=samples)
        pictures = renderer.render(rooms[0], cameras, args.size)
        difference = np.abs(pictures - anew(rooms[0], cameras, args.size, samples).astype(float)).mean()
        assert difference < ALIKE, f"the two draw different pictures: {difference} grey levels apart"
        for what, per_scene in (("scenes", 1), (f"pictures of {args.size} px", args.views)):
            print(lines(f"{what}/s, {args.views} views, {samples} samples", per_scene, rooms, cameras, args, samples))


def lines(
    what: str, per_scene: int, rooms: list[Room], cameras: list[Camera], args: argparse.Namespace, samples: int
) -> str:
    renderer = SceneRenderer(samples=samples)
    furnished, same, bare = (itertools.cycle(some) for some in (rooms, rooms, [replace(r, items=()) for r in rooms]))

    def reused(which: Iterator[Room]) -> int:
        renderer.render(next(which), cameras, args.size)
        return per_scene

    def new() -> int:
        anew(next(same), cameras, args.size, samples)
        return per_scene

    works = {"ours": partial(reused, furnished), "theirs": new, "bare": partial(reused, bare)}
    found = rates(works, rounds=3, seconds=args.seconds)
    bound = statistics.median(mine / other for mine, other in zip(found["bare"], found["theirs"], strict=True))
    packages = ("mujoco", "numpy")
    return json.dumps(
        comparison(what, "new_renderer", found["ours"], found["theirs"], packages, bound=bound, target=TARGET)
    )


def furnished(rng: np.random.Generator, things: int = 6, size: float = 6.0) -> Room:
    """A room with things anywhere that do not touch."""
    items: list[Item] = []
    while len(items) < things:
        kind, colour = str(rng.choice(list(KINDS))), str(rng.choice(list(COLOURS)))
        x, y = (float(v) for v in rng.uniform(MAX_RADIUS - size / 2, size / 2 - MAX_RADIUS, 2))
        item = Item(kind, colour, x, y, float(rng.uniform(0, 360)))
        if not any(overlap(item, other) for other in items):
            items.append(item)
    return Room(size, size, tuple(items))


def anew(room: Room, cameras: Sequence[Camera], size: int, samples: int) -> NDArray[np.uint8]:
    """The same pictures as MuJoCo is commonly used: a model of the scene, compiled, and a renderer for it."""
    model = mujoco.MjModel.from_xml_string(model_of(room, cameras, size, samples))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, size, size) as renderer:
        pictures = []
        for number in range(len(cameras)):
            renderer.update_scene(data, camera=number)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = False
            pictures.append(renderer.render())
    return np.stack(pictures)


def model_of(room: Room, cameras: Sequence[Camera], size: int, samples: int) -> str:
    materials, bodies = [], []
    for number, (shape, extent, at, turned, colour, gloss, glow) in enumerate(solids(room)):
        rgba = " ".join(map(str, (*colour, 1)))
        materials.append(
            f'<material name="m{number}" rgba="{rgba}" emission="{glow}" specular="{gloss}" shininess="{gloss}"/>'
        )
        half = extent if shape in ("box", "ellipsoid") else extent[[0, 2]]
        along = turned[:, :2].T.ravel()
        bodies.append(
            f'<geom type="{shape}" material="m{number}" size="{_numbers(half)}" pos="{_numbers(at)}" '
            f'xyaxes="{_numbers(along)}" contype="0" conaffinity="0"/>'
        )
    for camera in cameras:
        right, up, _ = axes(camera)
        at = _numbers((camera.x, camera.y, camera.height))
        bodies.append(f'<camera pos="{at}" xyaxes="{_numbers((*right, *up))}" fovy="{camera.fov}"/>')
    return f"""
<mujoco>
  <visual>
    <global offwidth="{size}" offheight="{size}"/>
    <quality offsamples="{samples}" numslices="16" numstacks="8" numquads="1"/>
    <headlight active="0"/>
  </visual>
  <statistic extent="1" center="0 0 1"/>
  <asset>{"".join(materials)}</asset>
  <worldbody>
    <light type="directional" dir="-0.45 -0.3 -0.85" diffuse="0.52 0.52 0.51" specular="0.15 0.15 0.15"/>
    <light type="directional" dir="0.55 0.65 -0.5" ambient="0.45 0.45 0.46" diffuse="0.34 0.34 0.36" specular="0 0 0"/>
    {"".join(bodies)}
  </worldbody>
</mujoco>
"""


def solids(room: Room) -> Iterator[tuple[str, Array, Array, Array, Colour, float, float]]:
    """Shape, half extents, place, axes, colour, gloss and glow of every part of every thing, and of the room."""
    for block in shell(room):
        yield "box", block.size, block.at, block.axes, block.colour, 0.0, GLOW
    for item in room.items:
        angle = math.radians(item.yaw)
        turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        for part in parts(item.kind):
            at = turn @ part.at + (item.x, item.y, 0)
            yield part.shape, np.array(part.size), at, turn @ part.axes, paint(part.paint, item.colour), GLOSS, 0.0


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " ".join(repr(float(value)) for value in values)


if __name__ == "__main__":
    main()

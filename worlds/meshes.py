"""Triangles of furniture: all parts of a kind that have one paint, as a single surface that is drawn at once.

Knows nothing about rooms, colours or how surfaces are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from worlds.furniture import Part, Shape

_FINEST = 16  # faces around a large round shape; half as many from one pole of a ball to the other
_COARSEST = 6  # around one without a radius
_PER_METRE = 100  # more of them for each metre of radius


@dataclass(frozen=True)
class Mesh:
    """A surface of triangles.

    Attributes:
        points: (V, 3), corners in the thing's own coordinates, in metres.
        normals: (V, 3), of length one, the way out at each corner.
        faces: (F, 3), the corners of each triangle, counter-clockwise as seen from outside.
    """

    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    faces: NDArray[np.intp]


def mesh(parts: Sequence[Part]) -> Mesh:
    """The surfaces of some parts, one after the other."""
    return _joined([_placed(part) for part in parts])


def _placed(part: Part) -> Mesh:
    slices = min(_COARSEST + 2 * round(_PER_METRE * max(part.size[:2]) / 2), _FINEST)
    unit = _unit(part.shape, slices)
    if part.shape == "capsule":
        points = part.size[0] * unit.points + part.size[2] * np.sign(unit.points[:, 2:]) * (0, 0, 1)
        normals = unit.normals
    else:
        points = unit.points * part.size
        normals = unit.normals / part.size
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(points @ part.axes.T + part.at, normals @ part.axes.T, unit.faces)


@cache
def _unit(shape: Shape, slices: int) -> Mesh:
    """The shape with half extents of one; of a capsule, the ball that its ends make. Round ones have so many faces."""
    if shape == "box":
        return _box()
    if shape == "cylinder":
        outlines = ((((1, -1), (1, 1)), (1, 0)), (((1, 1), (0, 1)), (0, 1)), (((0, -1), (1, -1)), (0, -1)))
        return _joined([_turned(np.array(outline), np.array([normal] * 2), slices) for outline, normal in outlines])
    stacks = 2 * round(slices / 4)
    latitudes = np.linspace(-np.pi / 2, np.pi / 2, stacks + 1)
    if shape == "capsule":  # the middle ring twice, for the straight part between the halves
        latitudes = np.insert(latitudes, stacks // 2, -1e-9)
        latitudes[stacks // 2 + 1] = 1e-9
    outline = np.stack([np.cos(latitudes), np.sin(latitudes)], 1)
    return _turned(outline, outline, slices)


def _box() -> Mesh:
    """A cube from -1 to 1, each face with corners of its own."""
    faces = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            normal, first = np.zeros(3), np.zeros(3)
            normal[axis], first[(axis + 1) % 3] = side, 1
            second = np.cross(normal, first)
            points = [normal + a * first + b * second for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            faces.append(Mesh(np.array(points), np.tile(normal, (4, 1)), np.array([[0, 1, 2], [0, 2, 3]])))
    return _joined(faces)


def _turned(outline: NDArray[np.float64], normals: NDArray[np.float64], slices: int) -> Mesh:
    """What an outline of (radius, height), from below, sweeps around the upright axis; normals likewise, (R, 2)."""
    angles = np.arange(slices) * 2 * np.pi / slices
    around = np.stack([np.cos(angles), np.sin(angles)], 1)  # (slices, 2)

    def swept(rings: NDArray[np.float64]) -> NDArray[np.float64]:
        level = np.broadcast_to(rings[:, None, 1:], (len(rings), slices, 1))
        return np.concatenate([rings[:, None, :1] * around, level], -1).reshape(-1, 3)

    ring, slice_ = np.meshgrid(np.arange(len(outline) - 1) * slices, np.arange(slices), indexing="ij")
    following = (slice_ + 1) % slices
    low, low_next, high, high_next = ring + slice_, ring + following, ring + slices + slice_, ring + slices + following
    corners = np.stack([low, low_next, high_next, low, high_next, high], -1).reshape(-1, 3)
    points = swept(outline)
    first, second, third = points[corners].transpose(1, 0, 2)
    areas = np.linalg.norm(np.cross(second - first, third - first), axis=1)
    return Mesh(points, swept(normals), corners[areas > 1e-12])  # at a pole every other triangle is none


def _joined(meshes: Sequence[Mesh]) -> Mesh:
    """One surface of several."""
    starts = np.cumsum([0, *(len(one.points) for one in meshes[:-1])])
    return Mesh(
        np.concatenate([one.points for one in meshes]),
        np.concatenate([one.normals for one in meshes]),
        np.concatenate([one.faces + start for one, start in zip(meshes, starts, strict=True)]),
    )

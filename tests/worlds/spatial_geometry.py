"""What cameras see, computed from plain geometry: things are upright cylinders, seen through a pinhole.

A peer of the renderer for tests that need no pixels, and the independent check of every answer about a direction. It
knows rooms, and nothing about maps, questions or how pictures are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worlds.rooms import KINDS, Camera, Item, Room

SAMPLES = 9  # per side of the upright rectangle that stands for a thing


def in_camera(camera: Camera, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (..., 3) of the room in the camera's own axes: to its right, upwards, and ahead, in metres."""
    yaw, pitch = math.radians(camera.yaw), math.radians(camera.pitch)
    ahead = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    return (points - np.array([camera.x, camera.y, camera.height])) @ np.stack(
        [right, np.cross(right, ahead), ahead]
    ).T


def projected(camera: Camera, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where points (..., 3) are in the picture: (..., 2), both from -1 to 1; not a number for what is behind."""
    own = in_camera(camera, points)
    ahead = np.where(own[..., 2:] > 0, own[..., 2:], np.nan)
    return own[..., :2] / ahead / math.tan(math.radians(camera.fov / 2))


class GeometricVisibility:
    """Shares of things seen, from points spread over an upright rectangle that faces the camera."""

    def visible(self, room: Room, cameras: Sequence[Camera]) -> NDArray[np.float64]:
        return np.array([[_share(room, camera, item) for item in room.items] for camera in cameras])


def _share(room: Room, camera: Camera, item: Item) -> float:
    points = _points(camera, item)
    with np.errstate(invalid="ignore"):
        seen = (np.abs(projected(camera, points)) <= 1).all(-1)
    for other in room.items:
        if other is not item:
            seen &= ~_hides(camera, other, points)
    return float(seen.mean())


def _points(camera: Camera, item: Item) -> NDArray[np.float64]:
    """(SAMPLES², 3)"""
    kind = KINDS[item.kind]
    away = math.atan2(item.y - camera.y, item.x - camera.x)
    across = np.linspace(-0.8, 0.8, SAMPLES) * kind.radius
    up = np.linspace(0.1, 0.9, SAMPLES) * kind.height
    a, u = (grid.ravel() for grid in np.meshgrid(across, up))
    return np.stack([item.x - a * math.sin(away), item.y + a * math.cos(away), u], axis=-1)


def _hides(camera: Camera, other: Item, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a thing is between the camera and each point."""
    kind = KINDS[other.kind]
    start, middle = np.array([camera.x, camera.y]), np.array([other.x, other.y])
    way = points[:, :2] - start
    share = np.clip((way @ (middle - start)) / (way**2).sum(-1), 0, 1)  # of the way, where it passes nearest
    gap = np.linalg.norm(start + share[:, None] * way - middle, axis=-1)
    height = camera.height + share * (points[:, 2] - camera.height)
    return (share > 0) & (share < 0.999) & (gap < 0.8 * kind.radius) & (height < kind.height)

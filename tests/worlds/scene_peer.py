"""What rays from a camera meet, in plain float64: what tests hold MuJoCo's segmentation against."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from worlds.furniture import Part, parts
from worlds.rooms import Camera, Room


def rays(camera: Camera, size: int) -> NDArray[np.float64]:
    """(size * size, 3): the directions through the middles of the pixels, row by row."""
    half = math.tan(math.radians(camera.fov) / 2)
    across = ((np.arange(size) + 0.5) / size * 2 - 1) * half
    right, up = np.meshgrid(across, -across)
    yaw, pitch = math.radians(camera.yaw), math.radians(camera.pitch)
    ahead = np.cos(pitch) - up * np.sin(pitch)
    x = ahead * np.cos(yaw) + right * np.sin(yaw)
    y = ahead * np.sin(yaw) - right * np.cos(yaw)
    return np.stack([x, y, np.sin(pitch) + up * np.cos(pitch)], -1).reshape(-1, 3)


def distances(part: Part, start: NDArray[np.float64], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,): how far along each direction a ray first meets a part; infinite where it does not."""
    local = (start - part.at) @ part.axes
    along = directions @ part.axes
    size = np.array(part.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        if part.shape == "box":
            first, last = np.sort([(-size - local) / along, (size - local) / along], axis=0)
            near, far = first.max(1), last.min(1)
            return np.where((near <= far) & (near > 0), near, np.inf)
        if part.shape == "ellipsoid":
            return _first_root(local / size, along / size, slice(0, 3))
        radius, half = size[0], size[2]
        side = _first_root(local / radius, along / radius, slice(0, 2))
        inside = np.abs(local[2] + side * along[:, 2]) <= half
        found = [np.where(inside, side, np.inf)]
        for end in (-half, half):
            if part.shape == "capsule":
                centre = local - (0, 0, end)
                found.append(_first_root(centre / radius, along / radius, slice(0, 3)))
            else:
                lid = (end - local[2]) / along[:, 2]
                reach = np.hypot(local[0] + lid * along[:, 0], local[1] + lid * along[:, 1])
                found.append(np.where((reach <= radius) & (lid > 0), lid, np.inf))
        return np.min(found, axis=0)


def _first_root(start: NDArray, along: NDArray, axes: slice) -> NDArray[np.float64]:
    """Where a ray first meets the unit sphere, or the unit cylinder where only two axes count."""
    a = (along[:, axes] ** 2).sum(1)
    b = along[:, axes] @ start[axes]
    c = (start[axes] ** 2).sum() - 1
    root = np.sqrt(b * b - a * c)
    near = (-b - root) / a
    return np.where(np.isfinite(near) & (near > 0), near, np.inf)


def nearest(room: Room, camera: Camera, size: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The number of the item that each pixel shows, -1 for none, (size, size); and each item's distance alone,
    (items, size * size), infinite where its pixel would not show it."""
    directions = rays(camera, size)
    alone = np.full((len(room.items), size * size), np.inf)
    for row, item in zip(alone, room.items, strict=True):
        yaw = math.radians(item.yaw)
        turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        start = turn.T @ (camera.x - item.x, camera.y - item.y, camera.height)
        row[:] = np.min([distances(part, start, directions @ turn) for part in parts(item.kind)], axis=0)
    shown = np.where(np.isfinite(alone).any(0), alone.argmin(0), -1)
    return shown.reshape(size, size), alone

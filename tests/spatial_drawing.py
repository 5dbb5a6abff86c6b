"""A renderer without OpenGL: things are boxes of their colour before the wall that the camera looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.worlds.spatial_geometry import GeometricVisibility, in_camera, projected
from worlds.rooms import COLOURS, KINDS, WALL_COLOURS, Camera, Room


class BoxRenderer(GeometricVisibility):
    """Draws far things first."""

    def render(self, room: Room, cameras: Sequence[Camera], size: int) -> NDArray[np.uint8]:
        return np.stack([_picture(room, camera, size) for camera in cameras])


def _picture(room: Room, camera: Camera, size: int) -> NDArray[np.uint8]:
    wall = room.walls[round(camera.yaw / 90) % 4]
    picture = np.empty((size, size, 3))
    picture[:] = WALL_COLOURS[wall]
    depths = {item: in_camera(camera, np.array([item.x, item.y, 0.5]))[2] for item in room.items}
    for item in sorted(room.items, key=lambda item: -depths[item]):
        kind = KINDS[item.kind]
        top, bottom = projected(camera, np.array([[item.x, item.y, kind.height], [item.x, item.y, 0.0]]))
        if not np.isfinite([top, bottom]).all():
            continue
        half = kind.radius / kind.height * (top[1] - bottom[1]) / 2
        left, right = (int((1 + x) / 2 * size) for x in (top[0] - half, top[0] + half))
        upper, lower = (int((1 - y) / 2 * size) for y in (top[1], bottom[1]))
        picture[max(0, upper) : max(0, lower), max(0, left) : max(0, right)] = COLOURS[item.colour]
    return (255 * picture).astype(np.uint8)

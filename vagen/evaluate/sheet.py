"""A sheet of random states of a world, to see what models see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vagen.files import atomic_path
from worlds import make

GAP = 4  # pixels between frames


def draw_sheet(world_id: str, output: Path, columns: int = 8, rows: int = 4, zoom: int = 3) -> Path:
    """Write a PNG of the first states of ``columns * rows`` layouts, each pixel ``zoom`` times as large."""
    world = make(world_id)
    snapshots = []
    for seed in range(columns * rows):
        world.reset(seed=seed)
        snapshots.append(world.state().snapshot)
    frames = world.render_states(snapshots).repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = frames.shape[1] + GAP, frames.shape[2] + GAP
    sheet = np.full((rows * height + GAP, columns * width + GAP, 3), 255, dtype=np.uint8)
    for number, frame in enumerate(frames):
        top, left = GAP + number // columns * height, GAP + number % columns * width
        sheet[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    with atomic_path(output) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    return output

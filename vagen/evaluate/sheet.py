"""Contact sheets: pictures side by side, to see what models see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vagen.files import atomic_path
from worlds import make

GAP = 4  # pixels around pictures
CAPTION = 14  # pixels below a picture, for its words


def draw_sheet(world_id: str, output: Path, columns: int = 8, rows: int = 4, zoom: int = 3) -> Path:
    """Write a PNG of the first states of ``columns * rows`` layouts, each pixel ``zoom`` times as large."""
    world = make(world_id)
    snapshots = []
    for seed in range(columns * rows):
        world.reset(seed=seed)
        snapshots.append(world.state().snapshot)
    frames = [Image.fromarray(frame) for frame in world.render_states(snapshots)]
    pictures = [frame.resize((frame.width * zoom, frame.height * zoom), Image.Resampling.NEAREST) for frame in frames]
    with atomic_path(output) as temporary:
        contact_sheet(in_rows(pictures, columns)).save(temporary, format="PNG")
    return output


def contact_sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one size in rows, which may differ in length."""
    width, height = (side + GAP for side in rows[0][0].size)
    sheet = Image.new("RGB", (max(map(len, rows)) * width + GAP, len(rows) * height + GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (GAP + column * width, GAP + row * height))
    return sheet


def in_rows(pictures: Sequence[Image.Image], columns: int) -> list[Sequence[Image.Image]]:
    """Pictures in rows of ``columns``; the last may be shorter."""
    return [pictures[start : start + columns] for start in range(0, len(pictures), columns)]


def captioned(picture: NDArray[np.uint8], words: str) -> Image.Image:
    """A picture (H, W, 3) above its caption."""
    height, width, _ = picture.shape
    made = Image.new("RGB", (width, height + CAPTION), "white")
    made.paste(Image.fromarray(picture))
    ImageDraw.Draw(made).text((3, height + 1), words, "black")
    return made

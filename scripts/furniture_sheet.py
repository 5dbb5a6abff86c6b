"""A picture of every kind of furniture with its name, or of every kind in every colour.

python scripts/furniture_sheet.py docs/furniture.webp [--colours] [--size 112] [--yaw 30]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from worlds.rooms import COLOURS, KINDS, Camera, Item, Room
from worlds.scene import SceneRenderer

CAPTION = 14  # pixels
CAMERA = Camera(2.3, 0.0, 180, height=1.45, pitch=-24, fov=40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path)
    parser.add_argument("--colours", action="store_true", help="every kind in every colour, one row per kind")
    parser.add_argument("--size", type=int, default=112, help="pixels of one picture")
    parser.add_argument("--yaw", type=float, default=30, help="the way the fronts face, 0 = to the camera")
    args = parser.parse_args()
    colours = tuple(COLOURS)
    if args.colours:
        rows = [[(kind, colour) for colour in colours] for kind in KINDS]
    else:
        named = [(kind, colours[number % len(colours)]) for number, kind in enumerate(KINDS)]
        rows = [named[start : start + 8] for start in range(0, len(named), 8)]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([row(names, args.size, args.yaw) for names in rows])).save(args.output, quality=88)
    print(args.output)


def row(names: list[tuple[str, str]], size: int, yaw: float) -> np.ndarray:
    """Pictures side by side, each above its name, (H, W, 3)."""
    renderer = SceneRenderer()
    tiles = []
    for kind, colour in names:
        tile = Image.new("RGB", (size, size + CAPTION), "white")
        picture = renderer.render(Room(5, 5, (Item(kind, colour, 0, 0, yaw),)), [CAMERA], size)[0]
        tile.paste(Image.fromarray(picture))
        ImageDraw.Draw(tile).text((3, size + 1), f"{colour} {kind}", "black")
        tiles.append(np.asarray(tile))
    return np.concatenate(tiles, axis=1)


if __name__ == "__main__":
    main()

"""A picture of every kind of furniture with its name, or of every kind in every colour.

python scripts/furniture_sheet.py docs/furniture.webp [--colours] [--size 112] [--yaw 30]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from vagen.evaluate.sheet import captioned, contact_sheet
from worlds.rooms import COLOURS, KINDS, Camera, Item, Room
from worlds.scene import SceneRenderer

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
    renderer = SceneRenderer()
    sheet = contact_sheet([[tile(renderer, *named, args.size, args.yaw) for named in row] for row in rows])
    sheet.save(args.output, quality=88)
    print(args.output)


def tile(renderer: SceneRenderer, kind: str, colour: str, size: int, yaw: float) -> Image.Image:
    """A thing above its name."""
    room = Room(5, 5, (Item(kind, colour, 0, 0, yaw),))
    return captioned(renderer.render(room, [CAMERA], size)[0], f"{colour} {kind}")


if __name__ == "__main__":
    main()

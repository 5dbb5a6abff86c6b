"""Contact sheets of rooms: the scenes of each setting of spatial questions, and an episode in a room.

    python scripts/scene_sheet.py docs/pictures [--scenes 3] [--seed 0]

Writes ``spatial-SETTING.png``, a row for each scene with the images of its views, and ``room-episode.png``, a shortest
way to the thing that the mission names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from vagen.evaluate.sheet import captioned, contact_sheet
from worlds.scene import SceneRenderer
from worlds.scene_world import FurnishedRoom
from worlds.spatial import scenes
from worlds.spatial_grid import SETTINGS, Setting

SIZE = 160  # pixels of a picture
STEPS = 6  # of an episode that is shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=3, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for setting in SETTINGS:
        save(args.folder / f"spatial-{setting}.png", scene_rows(setting, args.scenes, args.seed))
    save(args.folder / "room-episode.png", [episode(args.seed)])


def scene_rows(setting: Setting, count: int, seed: int) -> list[list[Image.Image]]:
    """Views of scenes, each above the number of its image."""
    renderer = SceneRenderer()
    rows = []
    for _, scene in zip(range(count), scenes(setting, renderer, seed, "train"), strict=False):
        pictures = renderer.render(scene.room, scene.cameras, SIZE)
        rows.append([captioned(picture, f"image {number}") for number, picture in enumerate(pictures, 1)])
    return rows


def episode(seed: int) -> list[Image.Image]:
    """What an agent sees on its way, above the mission and the actions; the first episode of ``STEPS`` steps."""
    world = FurnishedRoom("room/6x6", size=6, things=8, pixels=SIZE)
    while True:
        world.reset(seed=seed)
        if world.steps_to_go(world.state().snapshot) == STEPS:
            break
        seed += 1
    words = world.mission(world.state().snapshot)
    tiles = []
    while True:
        snapshot = world.state().snapshot
        tiles.append(captioned(world.render_states([snapshot])[0], words))
        best = world.optimal_actions(snapshot)
        if not best:
            return tiles
        world.step(best[0])
        words = world.actions[best[0]]


def save(path: Path, rows: list[list[Image.Image]]) -> None:
    """Rows of tiles as a picture with few colours, which is half as large."""
    sheet = contact_sheet(rows)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()

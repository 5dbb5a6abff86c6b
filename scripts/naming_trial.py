"""A blind trial of whether furniture can be named: unlabelled pictures, answers written down, and only then the key.

    python scripts/naming_trial.py draw outputs/naming --seed 3
    python scripts/naming_trial.py score outputs/naming/answers.txt --seed 3

``draw`` writes sheets of numbered pictures, each of one thing of a random colour in a room of random colours, turned
at random (what can be named from the front only, by up to 60 degrees), every kind equally often. Whoever looks at them
writes ``NUMBER KIND`` on a line for each. There is no key to be read by accident: ``score`` draws the lots of the seed
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vagen.evaluate.sheet import captioned, contact_sheet, in_rows
from worlds.rooms import CEILINGS, COLOURS, FIXTURES, FLOORS, KINDS, WALL_COLOURS, Camera, Item, Room
from worlds.scene import SceneRenderer

SIZE = 224  # pixels of a picture
COLUMNS, ROWS = 5, 4  # of a sheet
CLOSE, AS_ASKED = 36.0, 80.0  # degrees of view: one thing fills the picture, or is as small as in spatial questions
FRONT = 60.0  # degrees by which things are turned, at most, that cannot be named from behind


@dataclass(frozen=True)
class Lot:
    """One picture of the trial."""

    room: Room
    camera: Camera

    @property
    def kind(self) -> str:
        return self.room.items[0].kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    draw, score = verbs.add_parser("draw"), verbs.add_parser("score")
    draw.add_argument("folder", type=Path)
    score.add_argument("answers", type=Path, help="lines of NUMBER KIND")
    for verb in (draw, score):
        verb.add_argument("--seed", type=int, required=True)
        verb.add_argument("--views", type=int, default=2, help="pictures of each kind")
        verb.add_argument("--small", action="store_true", help="things as small as in the pictures of questions")
    args = parser.parse_args()
    drawn = list(lots(args.seed, args.views, AS_ASKED if args.small else CLOSE))
    if args.verb == "draw":
        write(drawn, args.folder)
    else:
        print(verdict(drawn, answers(args.answers)))


def lots(seed: int, views: int, fov: float) -> Iterator[Lot]:
    """Every kind so many times, in random order."""
    generator = np.random.default_rng(seed)
    for kind in generator.permutation(list(KINDS) * views).tolist():
        turn = 180.0 if KINDS[kind].all_round else FRONT
        item = Item(kind, _one_of(COLOURS, generator), 0, 0, yaw=float(generator.uniform(-turn, turn)))
        walls, fixtures = (tuple(generator.permutation(list(words))[:4]) for words in (WALL_COLOURS, FIXTURES))
        colours = dict(floor=_one_of(FLOORS, generator), ceiling=_one_of(CEILINGS, generator))
        room = Room(5, 5, (item,), walls, fixtures, **colours)
        yield Lot(room, Camera(2.2, 0, yaw=180, height=1.35, pitch=-20, fov=fov))


def write(drawn: list[Lot], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    renderer = SceneRenderer()
    per_sheet = COLUMNS * ROWS
    for start in range(0, len(drawn), per_sheet):
        numbered = enumerate(drawn[start : start + per_sheet], start + 1)
        pictures = [
            captioned(renderer.render(lot.room, [lot.camera], SIZE)[0], str(number)) for number, lot in numbered
        ]
        sheet = contact_sheet(in_rows(pictures, COLUMNS))
        path = folder / f"sheet-{start // per_sheet + 1}.png"
        sheet.save(path)
        print(path)


def answers(path: Path) -> dict[int, str]:
    """What was written down, by number."""
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {int(number): kind.strip() for number, kind in lines}


def verdict(drawn: list[Lot], given: dict[int, str]) -> str:
    """How many were right, and each that was not."""
    missed = [
        f"{number}: {lot.room.items[0].colour} {lot.kind}, turned by {lot.room.items[0].yaw:.0f}, "
        f"named {given.get(number, 'nothing')}"
        for number, lot in enumerate(drawn, start=1)
        if given.get(number) != lot.kind
    ]
    right = len(drawn) - len(missed)
    return "\n".join([f"{right} of {len(drawn)} named ({right / len(drawn):.1%})", *missed])


def _one_of(words: Iterable[str], generator: np.random.Generator) -> str:
    listed = list(words)
    return listed[int(generator.integers(len(listed)))]


if __name__ == "__main__":
    main()

"""``vagen worlds``, ``clozes`` and ``config``: what there is."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from vagen.cli.options import UsageError, Verbs, add_verb


def add_worlds(verbs: Verbs) -> None:
    verb = add_verb(verbs, "worlds", _worlds, "list the worlds, or draw one")
    verb.add_argument("--all", action="store_true", help="also every environment of MiniGrid and BabyAI")
    verb.add_argument("--draw", metavar="WORLD", help="write a sheet of random states of this world")
    verb.add_argument("--output", type=Path, default=Path("worlds.png"), help="where the picture goes")


def _worlds(args: argparse.Namespace, _: list[str]) -> int:
    if args.draw is None:
        _show(_list_worlds(args.all))
        return 0
    from vagen.evaluate.sheet import draw_sheet

    print(draw_sheet(args.draw, args.output))
    return 0


def _list_worlds(every: bool) -> Iterator[str]:
    """One line per world as soon as it is known; last the ones that do not work."""
    from worlds import MIN_LAYOUTS, available, make, registered, unsupported

    ids = available() if every else registered()
    width = max(map(len, ids))
    yield f"{'world':<{width}}  {'pixels':<9} {'view':<8} {'solver':<7} {'layouts':<8} actions"
    for id in ids:
        world = make(id)
        height, pixels, _ = world.observation_space.shape or (0, 0, 0)
        size = f"{pixels} x {height}"
        layouts = world.layouts()
        enough = f"≥ {MIN_LAYOUTS}" if layouts >= MIN_LAYOUTS else str(layouts)
        solver = "yes" if world.has_solver else "no"
        actions = ", ".join(world.actions)
        yield f"{id:<{width}}  {size:<9} {world.view:<8} {solver:<7} {enough:<8} {actions}"
    if every:
        for id, reason in unsupported().items():
            yield f"{id:<{width}}  does not work: {reason}"


def add_clozes(verbs: Verbs) -> None:
    add_verb(verbs, "clozes", _clozes, "list the clozes that have a name, with their patterns")


def _clozes(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.cloze.grammar import FAMILIES, all_named, named

    clozes = all_named()
    width, room = (max(map(len, words)) for words in (clozes, clozes.values()))
    lines = [f"{'cloze':<{width}}  {'pattern':<{room}}  transitions"]
    for name, pattern in clozes.items():
        longer = f", or any: {name}@k" if name in FAMILIES else ""
        lines.append(f"{name:<{width}}  {pattern:<{room}}  {named(name).length}{longer}")
    _show(lines)
    print("--clozes takes any other pattern too, such as 'o0 o1 a1 -> a0'", file=sys.stderr)
    return 0


def add_config(verbs: Verbs) -> None:
    verb = add_verb(verbs, "config", _config, "list the configuration keys, with their defaults and meanings")
    verb.add_argument("sections", nargs="*", metavar="SECTION", help="only keys that start so: train, optimizer.rates")


def _config(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.config import described

    keys = list(described())
    for section in args.sections:
        if section not in (key.name for key in keys):
            raise UsageError(f"unknown configuration key {section!r}: `vagen config` lists them all")
    below = tuple(f"{section}." for section in args.sections) or ("",)
    chosen = [key for key in keys if f"{key.name}.".startswith(below)]
    width = max(len(key.name) for key in chosen)
    _show(f"{key.name:<{width}}  {'  '.join(filter(None, (key.default, key.meaning)))}".rstrip() for key in chosen)
    return 0


def _show(lines: Iterable[str]) -> None:
    """Print lines as they come, until whoever reads them has seen enough, as in ``vagen config | head``."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end

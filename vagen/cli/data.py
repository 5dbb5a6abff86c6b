"""``vagen collect``, ``spatial`` and ``data``: making, checking and handing on what is trained on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vagen.cli.options import (
    MINDCUBE_TASKS,
    SPLITS,
    UsageError,
    Verbs,
    add_configuration,
    add_kinds,
    add_shards,
    add_verb,
    hand_over,
    natural,
    positive,
)

_SPATIAL_SETTINGS = ["among", "around", "rotation", "translation"]


def add_collect(verbs: Verbs) -> None:
    verb = add_verb(verbs, "collect", _collect, "play episodes and keep them as shards", True)
    add_configuration(verb, required=False)
    verb.add_argument("--worlds", nargs="+", metavar="WORLD", help="default: collect.worlds of the configuration")
    verb.add_argument(
        "--split", choices=SPLITS, help="which layouts; default: collect.split of the configuration, train"
    )
    verb.add_argument("--output", type=Path, default=Path("data"), help="shards go to OUTPUT/WORLD/SPLIT")
    verb.add_argument("--overwrite", action="store_true", help="replace shards that are there")


def _collect(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    given = {"worlds": tuple(args.worlds) if args.worlds else None, "split": args.split}
    chosen = config.collect.model_copy(update={key: value for key, value in given.items() if value is not None})
    from vagen.data.shards import MANIFEST
    from vagen.rollout.collect import collect

    for folder, manifest in collect(chosen, args.output, config.seed, args.overwrite).items():
        print(
            f"{manifest.world}: {manifest.trajectories} trajectories, {manifest.transitions} transitions, "
            f"{manifest.layouts} layouts",
            file=sys.stderr,
        )
        print(folder / MANIFEST)
    return 0


def add_spatial(verbs: Verbs) -> None:
    verb = add_verb(verbs, "spatial", _spatial, "draw rooms and write questions about them, in MindCube's form")
    verb.add_argument(
        "--settings",
        nargs="+",
        choices=_SPATIAL_SETTINGS,
        metavar="SETTING",
        help=f"where cameras and objects are: {', '.join(_SPATIAL_SETTINGS)}; default: all",
    )
    verb.add_argument("--train", type=natural, default=1000, metavar="N", help="questions per setting to train on")
    verb.add_argument("--val", type=natural, default=100, metavar="N", help="and to validate with")
    verb.add_argument("--test", type=natural, default=200, metavar="N", help="and to test with")
    verb.add_argument(
        "--tasks",
        nargs="+",
        choices=MINDCUBE_TASKS,
        metavar="TASK",
        help=f"forms of prompts and outputs to train on: {', '.join(MINDCUBE_TASKS)}; default: all",
    )
    verb.add_argument("--prompts", type=Path, help="templates, YAML; default: the shipped configs/mindcube.yaml")
    verb.add_argument("--size", type=positive, default=224, help="pixels per side of the images")
    verb.add_argument("--seed", type=natural, default=0, help="equal seeds write equal questions")
    verb.add_argument("--output", type=Path, required=True, help="the folder to make")
    verb.add_argument("--overwrite", action="store_true", help="replace a folder of questions")


def _spatial(args: argparse.Namespace, _: list[str]) -> int:
    if not args.train + args.val + args.test:
        raise UsageError("--train, --val and --test are all 0: nothing is to be asked")
    from vagen.config import located, shipped
    from vagen.mindcube.prompts import TASKS, read_wording

    prompts = located(args.prompts or shipped("mindcube.yaml"))
    wordings = [read_wording(prompts, task) for task in args.tasks or TASKS]
    from worlds.scene import SceneRenderer

    renderer = SceneRenderer()
    from vagen.spatial import Amounts, write
    from worlds.spatial_grid import SETTINGS

    amounts = Amounts(args.train, args.val, args.test)
    settings = args.settings or SETTINGS
    print(write(args.output, renderer, settings, amounts, wordings, args.seed, args.size, overwrite=args.overwrite))
    return 0


def add_data(verbs: Verbs) -> None:
    kinds = add_kinds(verbs, "data", "check, count or export collected data")
    _add_check(kinds)
    _add_stats(kinds)
    _add_export(kinds)


def _add_check(kinds: Verbs) -> None:
    verb = add_verb(kinds, "check", _data_check, "verify checksums and frames, and play every episode again", True)
    add_shards(verb, out="data-check.json")


def _data_check(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.files import check_file

    check_file(args.out)
    found, cache = places_of(args.shards, overrides)
    from dataclasses import asdict

    from vagen.data.audit import check, check_table

    rows = check(found, cache)
    hand_over(args.out, {"rows": [asdict(row) | {"passed": row.passed} for row in rows]}, check_table(rows))
    return 0 if all(row.passed for row in rows) else 1


def _add_stats(kinds: Verbs) -> None:
    verb = add_verb(kinds, "stats", _data_stats, "count what is there, and what splits share", True)
    add_shards(verb, out="data-stats.json")


def _data_stats(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.files import check_file

    check_file(args.out)
    found, cache = places_of(args.shards, overrides)
    from dataclasses import asdict

    from vagen.data.audit import stats, stats_table

    rows, overlaps = stats(found, cache)
    result = {"rows": list(map(asdict, rows)), "overlaps": list(map(asdict, overlaps))}
    hand_over(args.out, result, stats_table(rows, overlaps))
    return 0


def _add_export(kinds: Verbs) -> None:
    verb = add_verb(kinds, "export", _data_export, "write cloze tests for other trainers", True)
    add_configuration(verb)
    verb.add_argument("--format", choices=["trl"], default="trl", help="TRL's conversational format, with images")
    verb.add_argument(
        "--layout", choices=["messages", "prompt-completion"], default="messages", help="which of TRL's two forms"
    )
    verb.add_argument("--groups", type=positive, default=1000, help="windows to ask about; several samples each")
    verb.add_argument("--output", type=Path, required=True, help="the folder to make")
    verb.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def _data_export(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    from vagen.conversations import export

    print(export(config, args.output, args.groups, args.layout, args.overwrite))
    return 0


def places_of(entries: Sequence[str], overrides: list[str]):  # type: ignore[no-untyped-def]
    """The places of entries of ``shards``, and the cache of what is elsewhere."""
    from vagen.config import load

    cache = Path(load(None, overrides).data.cache).expanduser()
    from vagen.data.places import places

    return places(entries, cache), cache

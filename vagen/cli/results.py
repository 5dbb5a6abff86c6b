"""``vagen compare``, ``score``, ``export`` and ``report``: what becomes of measurements and models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vagen.cli.options import Verbs, add_kinds, add_verb, hand_over


def add_compare(verbs: Verbs) -> None:
    verb = add_verb(verbs, "compare", _compare, "compare two report cards row by row, with paired tests and a picture")
    verb.add_argument("first", type=Path, metavar="A.json", help="a report card of `vagen eval worldmodel`")
    verb.add_argument(
        "second",
        type=Path,
        metavar="B.json",
        help="another; where both were asked the same (seed, split, n, sampling, history) a paired test is made",
    )
    verb.add_argument("--out", type=Path, default=Path("comparison.json"), help="where the JSON goes; a PNG beside it")


def _compare(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.evaluate.compare import as_json, compare, picture, table
    from vagen.files import check_file

    comparison = compare(args.first, args.second)
    drawing = check_file(args.out).with_suffix(".png")
    hand_over(args.out, as_json(comparison), table(comparison))
    picture(comparison, drawing)
    return 0


def add_score(verbs: Verbs) -> None:
    kinds = add_kinds(verbs, "score", "score responses")
    _add_mindcube(kinds)


def _add_mindcube(kinds: Verbs) -> None:
    verb = add_verb(kinds, "mindcube", _score_mindcube, "letters and cognitive maps of MindCube responses")
    verb.add_argument("responses", type=Path, metavar="RESPONSES", help="JSONL in the official schema")
    verb.add_argument(
        "--mode",
        required=True,
        choices=["official-basic", "official-cogmap", "strict"],
        help="as the official evaluator does, or without its defects",
    )
    verb.add_argument("--per-item", type=Path, help="also write a line per response here")
    verb.add_argument("--baseline-train", type=Path, help="questions with answers to fit the blind baselines on")
    verb.add_argument("--out", type=Path, required=True, help="where the JSON goes")


def _score_mindcube(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.evaluate.mindcube.score import score_file

    print(score_file(args.responses, args.mode, args.out, args.per_item, args.baseline_train), file=sys.stderr)
    print(args.out)
    return 0


def add_export(verbs: Verbs) -> None:
    verb = add_verb(verbs, "export", _export, "make a plain Hugging Face folder of a run or model")
    verb.add_argument("source", type=Path, metavar="SOURCE", help="a run or a model folder")
    verb.add_argument("--output", type=Path, required=True, help="the folder to make")
    verb.add_argument("--overwrite", action="store_true", help="replace a model in the output, whole")
    verb.add_argument("--card", type=Path, help="a report card for the model card")
    verb.add_argument("--push-to-hub", metavar="REPO", help="also publish it: NAME or OWNER/NAME")
    verb.add_argument("--private", action="store_true", help="publish so that only you can see it")
    verb.add_argument(
        "--adapter-only", action="store_true", help="only the adapters, without the base model's weights"
    )


def _export(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.export import export

    folder = export(args.source, args.output, args.card, args.adapter_only, args.overwrite)
    if args.push_to_hub is not None:
        from vagen.hub import push

        print(f"published: {push(folder, args.push_to_hub, args.private)}", file=sys.stderr)
    print(folder)
    return 0


def add_report(verbs: Verbs) -> None:
    verb = add_verb(verbs, "report", _report, "make one HTML page of a run")
    verb.add_argument("run_folder", type=Path, metavar="RUN", help="the output of a training")


def _report(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.evaluate.report import write_report

    print(write_report(args.run_folder))
    return 0

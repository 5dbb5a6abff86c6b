"""What several commands share: how one is added, errors of use, options, and the types of their values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

SPLITS = ["train", "val", "test"]
MODEL = "a model folder, a run (its newest checkpoint), or a Hub id"
MINDCUBE_TASKS = [
    *("raw_qa", "ff_rsn", "aug_cgmap_in", "aug_cgmap_out", "plain_cgmap_out"),
    *("plain_cgmap_ffr_out", "aug_cgmap_ffr_out", "cgmap_in_ffr_out"),
]

Run = Callable[[argparse.Namespace, list[str]], int]
Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


class UsageError(ValueError):
    """A command line that cannot be carried out."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class Help(argparse.HelpFormatter):
    """Says the default of every option that takes a value and has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = not action.option_strings or action.nargs == 0 or action.default in (None, [], argparse.SUPPRESS)
        return text if silent or "default" in text else f"{text} (default: %(default)s)"


def add_verb(verbs: Verbs, name: str, run: Run, help: str, configurable: bool = False) -> Parser:
    """A command, or one of its kinds.

    Args:
        run: carries it out, given what was parsed and the overrides of configuration keys; returns the exit code.
        configurable: takes such overrides.
    """
    epilog = (
        "Any configuration key (`vagen config` lists them) can be overridden: --section.key=value, or "
        "--section.key VALUE VALUE ..."
        if configurable
        else None
    )
    parser = verbs.add_parser(
        name,
        help=help,
        description=_sentence(help),
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=Help,
    )
    parser.set_defaults(run=run, configurable=configurable, default_of=parser.get_default)
    return parser


def add_kinds(verbs: Verbs, name: str, help: str) -> Verbs:
    """A command of several kinds, to which they are added."""
    parser = verbs.add_parser(name, help=help, description=_sentence(help), allow_abbrev=False)
    return parser.add_subparsers(metavar="WHAT", parser_class=Parser, required=True)


def _sentence(help: str) -> str:
    return f"{help[0].upper()}{help[1:]}{'' if help.endswith('?') else '.'}"


def hand_over(out: Path, result: Any, table: str) -> None:
    """Write a result as JSON, say it as a table on stderr, and print where it is."""
    from vagen.files import write_json

    write_json(out, result)
    print(table, file=sys.stderr)
    print(out)


def add_configuration(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="configuration, YAML" + ("" if required else "; default: the defaults that `vagen config` lists"),
    )


def add_processes(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--processes", type=positive, metavar="N", help=f"training processes on this machine (default: {default})"
    )


def add_shards(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="folders, globs or addresses, as for training")
    parser.add_argument("--out", type=Path, default=Path(out), help="where the JSON goes")


def add_questions(parser: argparse.ArgumentParser, n: int, out: str) -> None:
    parser.add_argument("--worlds", nargs="+", metavar="WORLD", help="default: what the model was trained on")
    parser.add_argument("--n", type=positive, default=n, help="samples or episodes per row")
    add_samples(parser)
    parser.add_argument("--batch", type=positive, default=128, help="questions, or episodes, answered at a time")
    parser.add_argument("--out", type=Path, default=Path(out), help="where the JSON goes")


def add_samples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=natural, default=1, help="equal seeds ask every model the same")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which layouts are asked about")


def chosen(given: Sequence[str] | None, trained: Sequence[str], option: str) -> Sequence[str]:
    if not (given or trained):
        raise UsageError(f"the model does not say what it was trained on: give {option}")
    return given or trained


def spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def natural(text: str) -> int:
    """A whole number of 0 or more, as argparse wants types: its message names the option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, got {text!r}")
    return int(text)

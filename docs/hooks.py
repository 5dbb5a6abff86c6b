"""Parts of the pages that are read off the code: commands, configuration keys, clozes."""

import argparse
import os
from collections.abc import Iterator
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from vagen.cli import _parser
from vagen.cloze.grammar import FAMILIES, NAMED, named
from vagen.config import Config, Section

os.environ["COLUMNS"] = "100"  # width of the help texts


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    for mark, make in {"cli": _cli, "configuration": _configuration, "clozes": _clozes}.items():
        if f"{{{{ {mark} }}}}" in markdown:
            markdown = markdown.replace(f"{{{{ {mark} }}}}", make())
    return markdown


def _cli() -> str:
    return "\n\n".join(f"## {name}\n\n```text\n{parser.format_help()}```" for name, parser in _commands(_parser()))


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, with its parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for group in groups:
        for choice in group.choices.values():
            yield from _commands(choice)


def _configuration() -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _keys(Config, "")]
    return "\n".join(lines)


def _keys(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, info in section.model_fields.items():
        sections = [
            kind
            for kind in (info.annotation, *get_args(info.annotation))
            if isinstance(kind, type) and issubclass(kind, Section)
        ]
        for inner in sections:
            yield f"{prefix}{name}", "", (inner.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            yield from _keys(inner, f"{prefix}{name}.")
        if not sections:
            default = "" if info.default is PydanticUndefined else f"`{info.default!r}`"
            yield f"{prefix}{name}", default.replace("|", "\\|"), info.description or ""


def _clozes() -> str:
    lines = ["| name | pattern | transitions | any length |", "|---|---|---|---|"]
    for name, pattern in NAMED.items():
        lines.append(f"| {name} | `{pattern}` | {named(name).length} | {'@k' if name in FAMILIES else ''} |")
    return "\n".join(lines)

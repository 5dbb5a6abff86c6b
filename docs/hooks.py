"""Parts of the pages that are read off the code: commands and configuration keys."""

import argparse
import os
import re
from collections.abc import Iterator
from typing import Any

from vagen import cli
from vagen.config import described

os.environ["COLUMNS"] = "92"  # width of the help texts: what a page has room for


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    for mark, make in {"cli": _cli, "configuration": _configuration}.items():
        if f"{{{{ {mark} }}}}" in markdown:
            markdown = markdown.replace(f"{{{{ {mark} }}}}", make())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs for every page, once it is HTML: docstrings are Markdown but for roles and literal blocks."""
    return re.sub(r":\w+:(?=<code>)", "", html).replace("::</p>", ":</p>")


def _cli() -> str:
    return "\n\n".join(f"## {name}\n\n```text\n{parser.format_help()}```" for name, parser in _commands(cli.parser()))


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
    for key in described():
        default = f"`{key.default}`".replace("|", "\\|") if key.default else ""
        lines.append(f"| `{key.name}` | {default} | {key.meaning} |")
    return "\n".join(lines)

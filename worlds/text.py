"""Facts and actions as text, and back: the only writer and the only parser.

Three representations of the same facts, each lossless:

* ``natural``: ``agent 1 2 east; goal 4 4; wall 0 0, 1 0`` (kind, then column, row and detail of each thing)
* ``json``:    ``{"agent": [[1, 2, "east"]], "goal": [[4, 4]], "wall": [[0, 0], [1, 0]]}``
* ``grid``:    one line per row, one word per cell, as the world's schema spells cells

Parsers return ``None`` for anything that is not exactly one state of the schema; they never raise on text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from worlds.core import BoardSchema, Facts, Thing

Representation = Literal["natural", "json", "grid"]
REPRESENTATIONS: tuple[Representation, ...] = get_args(Representation)

_MAX_TEXT = 100_000  # longer answers cannot be states of any board we draw


def write_facts(facts: Facts, schema: BoardSchema, representation: Representation) -> str:
    """The canonical text of ``facts``."""
    return _WRITERS[representation](facts, schema)


def read_facts(text: str, schema: BoardSchema, representation: Representation) -> Facts | None:
    """The facts that ``text`` states, or ``None`` where it does not parse."""
    if len(text) > _MAX_TEXT:
        return None
    return _READERS[representation](text.strip(), schema)


def write_actions(actions: Sequence[int], names: Sequence[str]) -> str:
    """Actions as ``left, forward``."""
    return ", ".join(names[a] for a in actions)


def read_actions(text: str, names: Sequence[str]) -> tuple[int, ...] | None:
    """The actions that ``text`` lists, or ``None`` where a word is not an action."""
    if len(text) > _MAX_TEXT:
        return None
    words = [word.strip() for word in text.split(",")]
    numbers = {name: number for number, name in enumerate(names)}
    if any(word not in numbers for word in words):
        return None
    return tuple(numbers[word] for word in words)


# ----------------------------------------------------------------------------------------------------------- natural


def _write_natural(facts: Facts, schema: BoardSchema) -> str:
    clauses = []
    for kind in schema.kinds:
        things = facts.of_kind(kind)
        if things:
            clauses.append(f"{kind} " + ", ".join(f"{t.x} {t.y} {t.detail}".strip() for t in things))
    return "; ".join(clauses)


_NATURAL_THING = re.compile(r"(\d{1,4}) (\d{1,4})(?: ([a-z][a-z ]*))?")


def _read_natural(text: str, schema: BoardSchema) -> Facts | None:
    things: list[Thing] = []
    seen: set[str] = set()
    for clause in text.rstrip(".").split(";"):
        kind, _, rest = " ".join(clause.split()).partition(" ")
        if kind not in schema.kinds or kind in seen:
            return None
        seen.add(kind)
        for part in rest.split(","):
            match = _NATURAL_THING.fullmatch(part.strip())
            if match is None:
                return None
            things.append(Thing(kind, int(match[1]), int(match[2]), match[3] or ""))
    return _checked(things, schema)


# -------------------------------------------------------------------------------------------------------------- json


def _write_json(facts: Facts, schema: BoardSchema) -> str:
    value = {
        kind: [[t.x, t.y, t.detail] if t.detail else [t.x, t.y] for t in facts.of_kind(kind)]
        for kind in schema.kinds
        if facts.of_kind(kind)
    }
    return json.dumps(value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("repeated key")
    return dict(pairs)


def _read_json(text: str, schema: BoardSchema) -> Facts | None:
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    things: list[Thing] = []
    for kind, entries in value.items():
        if not isinstance(entries, list) or not entries:
            return None
        for entry in entries:
            if not (isinstance(entry, list) and 2 <= len(entry) <= 3):
                return None
            x, y, *detail = entry
            if type(x) is not int or type(y) is not int or not all(isinstance(d, str) and d for d in detail):
                return None
            things.append(Thing(kind, x, y, *detail))
    return _checked(things, schema)


# -------------------------------------------------------------------------------------------------------------- grid


def _write_grid(facts: Facts, schema: BoardSchema) -> str:
    cells: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for t in facts.things:
        cells.setdefault((t.x, t.y), []).append((t.kind, t.detail))
    return "\n".join(
        " ".join(schema.glyphs[tuple(sorted(cells.get((x, y), ())))] for x in range(schema.width))
        for y in range(schema.height)
    )


def _read_grid(text: str, schema: BoardSchema) -> Facts | None:
    rows = [line.split() for line in text.splitlines()]
    if len(rows) != schema.height or any(len(row) != schema.width for row in rows):
        return None
    if any(glyph not in schema.contents for row in rows for glyph in row):
        return None
    return Facts(
        frozenset(
            Thing(kind, x, y, detail)
            for y, row in enumerate(rows)
            for x, glyph in enumerate(row)
            for kind, detail in schema.contents[glyph]
        )
    )


def _checked(things: Sequence[Thing], schema: BoardSchema) -> Facts | None:
    """The facts made of ``things``, if each fits the schema, none is repeated and every cell's content can be."""
    facts = Facts(frozenset(things))
    return facts if len(facts.things) == len(things) and schema.allows(facts) else None


_WRITERS = {"natural": _write_natural, "json": _write_json, "grid": _write_grid}
_READERS = {"natural": _read_natural, "json": _read_json, "grid": _read_grid}

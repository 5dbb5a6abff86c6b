"""Cognitive maps: found in text, checked, and made into places. Knows nothing about comparing them.

Finding follows the official evaluator to the letter: from the first ``{`` to the last ``}``, as JSON; failing that,
cleaned up; failing that, whatever ``"name": {…}`` pairs can be saved. Its regular expressions are written here without
backtracking (possessive), so that an answer takes time linear in its length, however it is made.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FACINGS = {
    **dict.fromkeys(("up", "top", "north"), "up"),
    **dict.fromkeys(("down", "bottom", "south"), "down"),
    **dict.fromkeys(("left", "west"), "left"),
    **dict.fromkeys(("right", "east"), "right"),
    **dict.fromkeys(("inner", "front", "into", "inside", "forward"), "inner"),
    **dict.fromkeys(("outer", "back", "out", "outside", "backward"), "outer"),
}

_COMMENT = re.compile(r"//.*")
_WHITE = str.maketrans("\n\r\t", "   ")
_KEY = re.compile(r"(?<!\w)(\w++)(\s*+):")
_TRAILING_COMMA = re.compile(r",\s*+([}\]])")
_PAIR = re.compile(r'"([^"]++)":\s*+\{([^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+)\}')


class MapError(ValueError):
    """JSON that is no cognitive map."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is on the grid (x to the right, y down) and which way it faces, if it does."""

    x: float
    y: float
    facing: str | None


@dataclass(frozen=True, slots=True)
class CognitiveMap:
    """A checked map.

    Attributes:
        objects: place of each object, by name.
        views: place of each view, by name.
        has_views: whether the map speaks of views at all: then they are compared, too.
    """

    objects: dict[Any, Place]
    views: dict[Any, Place]
    has_views: bool

    @property
    def places(self) -> dict[Any, Place]:
        """Everything by name; a view takes the place of an object of the same name."""
        return {**self.objects, **self.views}


def find_map(text: str | None) -> Any:
    """The JSON object in a text, or ``None``.

    Raises:
        RecursionError, ValueError: it is nested too deeply, or has a number of thousands of digits.
    """
    if not text:
        return None
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        return None
    found = text[start : end + 1]
    try:
        return json.loads(found)
    except json.JSONDecodeError:
        pass
    try:
        return json.loads(_tidied(_COMMENT.sub("", found).translate(_WHITE)))
    except (ValueError, RecursionError):
        return _salvaged(found)


def check_map(raw: Any, generated: bool) -> CognitiveMap:
    """A map from its JSON, plain (``{name: place}``) or augmented (``{"objects": […], "views": […]}``).

    Args:
        generated: a plain value that is a list stands for its first element; the official evaluator grants that to
            generated maps.

    Raises:
        MapError: it is neither.
    """
    if not isinstance(raw, dict):
        raise MapError(f"need an object, got {type(raw).__name__}")
    has_views = "views" in raw
    if not isinstance(raw.get("objects"), list):
        first = _first if generated else _same
        return CognitiveMap({name: _place(first(value)) for name, value in raw.items()}, {}, has_views)
    return CognitiveMap(_listed(raw["objects"]), _listed(raw["views"]) if has_views else {}, has_views)


@lru_cache(maxsize=4096)
def find_map_kept(text: str) -> Any:
    """:func:`find_map` for texts that come again and again, such as true maps; not to be changed."""
    return find_map(text)


def _listed(entries: Any) -> dict[Any, Place]:
    if not isinstance(entries, list):
        raise MapError(f"need a list, got {type(entries).__name__}")
    places = {}
    for entry in entries:
        if not isinstance(entry, dict) or "name" not in entry:
            raise MapError("an entry has no name")
        if isinstance(entry["name"], list | dict):
            raise MapError("a name is no text")
        places[entry["name"]] = _place(entry)
    return places


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _same(value: Any) -> Any:
    return value


def _place(entry: Any) -> Place:
    position = entry.get("position") if isinstance(entry, dict) else None
    if not isinstance(position, list) or len(position) < 2:
        raise MapError("an entry has no position")
    try:
        x, y = float(position[0]), float(position[1])
    except (ValueError, TypeError, OverflowError):
        raise MapError("a position is no pair of numbers") from None
    return Place(x, y, _facing(entry.get("facing")))


def _facing(facing: Any) -> str | None:
    if isinstance(facing, list):
        if not facing:
            return None
        facing = facing[0]
    elif facing is None:
        return None
    known = FACINGS.get(facing.lower().strip()) if isinstance(facing, str) else None
    if known is None:
        raise MapError("a facing is no direction")
    return known


def _salvaged(found: str) -> dict[str, Any] | None:
    saved = {}
    for name, value in _PAIR.findall(found):
        try:
            saved[name] = json.loads(_tidied(f"{{{value}}}"))
        except (ValueError, RecursionError):
            continue
    return saved or None


def _tidied(text: str) -> str:
    """Bare keys quoted, commas before a closing bracket dropped."""
    if ":" in text:
        text = _KEY.sub(r'"\1"\2:', text)
    return _TRAILING_COMMA.sub(r"\1", text) if "," in text else text

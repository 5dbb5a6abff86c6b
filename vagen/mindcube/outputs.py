"""What an output for one of the eight tasks is worth: its form, its letter and its map. For rewards; knows no weights.

Scores of benchmarks read answers generously, wherever they stand. Here an output counts only as what it was asked to
be: every part once, in order, between its tags, and nothing else. So nothing is paid for answers listed one after the
other, or for a map that stands in the reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vagen.mindcube.exact import agree, finite_map
from vagen.mindcube.maps import CognitiveMap, find_map, find_map_kept
from vagen.mindcube.prompts import Task
from vagen.mindcube.rows import take_apart
from vagen.mindcube.targets import AUGMENTED, LEAD, PLAIN, REASONING

_PARTS = ("cogmap", "think", "answer")


@dataclass(frozen=True)
class Worth:
    """What an output is worth.

    Attributes:
        formed: it has the form of its task, its answer is one of the options, and its map, where one is asked for, can
            be read and has a thing in it.
        correct: its answer is the right option; needs no other part to be right.
        map: how far its map agrees with the true one, in [0, 1]; ``None`` in tasks without a map.
    """

    formed: bool
    correct: bool
    map: float | None

    @property
    def right(self) -> bool:
        """The right option, in the form that was asked for."""
        return self.formed and self.correct


def worth(text: str, row: Mapping[str, Any], task: Task) -> Worth:
    """Judge an output for a row with ``question``, ``gt_answer`` and, in tasks with a map, ``grounded_cogmap``."""
    parts = _parts(text, task)
    options = take_apart(str(row["question"])).answers
    answer = parts.get("answer", "").strip()
    chosen = answer if answer in options else None
    correct = chosen is not None and chosen[0] == row["gt_answer"]
    if task not in (*PLAIN, *AUGMENTED):
        return Worth(chosen is not None, correct, None)
    found = _found(parts.get("cogmap"))
    return Worth(chosen is not None and found is not None, correct, _similarity(found, row, task))


def _tags(task: Task) -> list[str]:
    """The parts of an output, in order."""
    mapped, reasoned = task in (*PLAIN, *AUGMENTED), task in REASONING
    return [*(["cogmap"] if mapped else []), *(["think"] if reasoned else []), "answer"]


def _parts(text: str, task: Task) -> dict[str, str]:
    """The parts of an output by their tags, as far as it has its form; empty where anything else stands anywhere."""
    rest = text.strip()
    if task in (*PLAIN, *AUGMENTED):
        if not rest.startswith(LEAD.strip()):
            return {}
        rest = rest.removeprefix(LEAD.strip()).strip()
    parts: dict[str, str] = {}
    for tag in _tags(task):
        start, end = f"<{tag}>", f"</{tag}>"
        content, closed, after = rest.removeprefix(start).partition(end)
        if not rest.startswith(start) or not closed or not content.strip() or _has_tag(content):
            return {}
        parts[tag], rest = content, after.strip()
    return {} if rest else parts


def _has_tag(content: str) -> bool:
    return any(f"<{slash}{tag}>" in content for tag in _PARTS for slash in ("", "/"))


def _similarity(found: CognitiveMap | None, row: Mapping[str, Any], task: Task) -> float:
    """The exact agreement of the strict score; views count where they are asked for, whether they are written or not.

    Raises:
        ValueError: the row has no true map.
    """
    raw = row.get("grounded_cogmap")
    truth = finite_map(find_map_kept(raw) if isinstance(raw, str) else raw, generated=False)
    if truth is None or not truth.objects:
        raise ValueError(f"{row.get('id')}: no true map to compare with: grounded_cogmap is {raw!r}")
    if found is None:
        return 0.0
    with_views = task in AUGMENTED
    return agree(replace(found, has_views=with_views), replace(truth, has_views=with_views)).overall


def _found(content: str | None) -> CognitiveMap | None:
    """A map that can be read and has a thing in it."""
    if content is None:
        return None
    try:
        found = finite_map(find_map(content), generated=True)
    except (RecursionError, ValueError):
        return None
    return found if found is not None and found.objects else None

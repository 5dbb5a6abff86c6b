"""The letter of an answer, by the official rules. Knows nothing about questions or maps.

The rules take the letters A to E, capitals only, and of the first rule that hits the last match (in the end: of the
lowest line the first). They are kept with their oddities: "image B." after the tag overrides it, "A robot" is A.
Everything is linear in the length of the text.
"""

from __future__ import annotations

import re

LETTERS = "ABCDE"

_SECTION = "<Answer>"
_LONE = re.compile(r"\b([A-E])\b")
_IN_SECTION = tuple(map(re.compile, (r"[Mm]y answer is ([A-E])", r"[Tt]he answer is ([A-E])", _LONE.pattern)))
_ANYWHERE = tuple(
    map(
        re.compile,
        (
            r"(?:^|\n)(?:Answer: )?([A-E])(?:\.|$|\s)",
            r"[*\"]([A-E])[*\"]",
            r"\bAnswer:?\s*([A-E])\b",
            r"[Mm]y answer is ([A-E])",
            r"answer is ([A-E])",
        ),
    )
)


def extract_letter(text: object) -> str | None:
    """The letter that the official evaluator reads in an answer; ``None`` if it reads none, or that is no text."""
    if not isinstance(text, str) or not text:
        return None
    return (
        _last_with_full_stop(text)
        or _last_of_first(_IN_SECTION, _section(text))
        or _last_of_first(_ANYWHERE, text)
        or _first_of_lowest_line(text)
    )


def _last_with_full_stop(text: str) -> str | None:
    place = max(text.rfind(f"{letter}.") for letter in LETTERS)
    return text[place] if place >= 0 else None


def _section(text: str) -> str:
    """What follows the first ``<Answer>``, up to the next ``<`` or the end (a last line break left out)."""
    start = text.find(_SECTION)
    if start < 0:
        return ""
    start += len(_SECTION)
    end = text.find("<", start)
    return text[start:end] if end >= 0 else text[start:].removesuffix("\n")


def _last_of_first(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    for pattern in patterns:
        if found := pattern.findall(text):
            return found[-1]
    return None


def _first_of_lowest_line(text: str) -> str | None:
    for line in reversed(text.split("\n")):
        if match := _LONE.search(line):
            return match.group(1)
    return None

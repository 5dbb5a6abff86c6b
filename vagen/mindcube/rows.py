"""Lines of JSON that hold questions and answers. Knows the names of fields, and nothing about what they mean.

Files are read as the official evaluator reads them; what it crashes on is refused here with the number of the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Setting = Literal["around", "rotation", "translation", "among", "other"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
OUT_OF_OVERALL: Setting = "translation"  # has its own figures, and no part in the overall ones

# Fields in which answers are found, the first that a row has. Present counts, even if empty.
MAP_ANSWERS = ("cogmap_gen_answer", "cogmap_answer", "answer")
BASIC_ANSWERS = ("cogmap_gen_answer", "answer")

# Kinds of questions, and what the question itself (after the last colon) then says; the first that fits counts.
_KINDS = (
    ("motion", re.compile(r"did I move")),
    ("approach", re.compile(r"get closer")),
    ("perspective", re.compile(r"positioned where|perspective")),
    ("turn", re.compile(r"then I turn")),
    ("relative", re.compile(r"relative to")),
    ("behind", re.compile(r"behind")),
    ("beside", re.compile(r"to (?:the|my) (?:left|right)")),
)
KINDS = (*(kind for kind, _ in _KINDS), "other")

_OPTION = re.compile(r"(?<!\S)([A-E])\.(?=\s)")


class MindCubeError(ValueError):
    """Questions, answers or prompts that cannot be used; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Response:
    """One line of a file of responses, as found: fields may be missing (``None``) or of any JSON type.

    Attributes:
        path: the file it is from.
        line: its number there, from 1.
        id: names the question and thereby its setting.
        question: its text with its options.
        truth: the right letter; rows without one are not scored.
        answered: whether it has a field of answers at all, be it empty.
        answer: the text that the official *basic* mode reads.
        map_answer: the text that the official *cogmap* mode reads.
        map_field: the field that ``map_answer`` is from.
        stored_maps: the map kept beside the answer, as a tuple of one; empty without such a field.
        grounded: the true map, as text or JSON.
        case: a label that comes along.
    """

    path: Path
    line: int
    id: Any
    question: Any
    truth: Any
    answered: bool
    answer: Any
    map_answer: Any
    map_field: str
    stored_maps: tuple[Any, ...]
    grounded: Any
    case: Any

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question taken apart.

    Attributes:
        stem: the text before the options.
        options: (letter, text) of each option, in order.
    """

    stem: str
    options: tuple[tuple[str, str], ...]

    @property
    def answers(self) -> list[str]:
        """The options as answers are written: ``A. Yes``."""
        return [f"{letter}. {text}" for letter, text in self.options]


def setting_of(id: str | None) -> Setting:
    """The first setting, in official order, that occurs in an id, whatever its case."""
    lower = (id or "").lower()
    for setting in ("around", "rotation", "translation", "among"):
        if setting in lower:
            return setting
    return "other"


def take_apart(question: str) -> Question:
    """A question and its inline options, ``… A. Above B. Under``: letters from A on, in order."""
    marks: list[re.Match[str]] = []
    for mark in _OPTION.finditer(question):
        if mark.group(1) == "ABCDE"[len(marks) : len(marks) + 1]:
            marks.append(mark)
    if not marks:
        return Question(question.strip(), ())
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    options = tuple((m.group(1), question[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True))
    return Question(question[: marks[0].start()].strip(), options)


def kind_of(stem: str) -> str:
    """Which kind of question a stem asks, one of ``KINDS``."""
    asked = stem.rpartition(": ")[2]
    return next((kind for kind, words in _KINDS if words.search(asked)), "other")


def scene_of(id: str | None) -> str:
    """What the ids of all questions about a scene begin with: ``among_group588`` of ``among_group588_q0_2_1``."""
    return "_".join((id or "").split("_", 2)[:2])


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line of a JSONL file with its number, from 1.

    Raises:
        MindCubeError: the file cannot be read or is empty; a line is blank, no JSON, or no object.
    """
    number = 0
    try:
        # Bytes that are not UTF-8 pass as surrogates, so that the line can be named.
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, _object(line, f"{path}, line {number}")
    except OSError as error:
        raise MindCubeError(f"cannot read {path}: {error.strerror or error}") from None
    if number == 0:
        raise MindCubeError(f"{path}, line 1: the file is empty; give one JSON object per line")


def read_responses(path: Path) -> Iterator[Response]:
    """Every row of a file of responses.

    Raises:
        MindCubeError: as in :func:`read_rows`, or a row to be scored has an id or an answer that is no text.
    """
    for number, row in read_rows(path):
        response = response_of(path, number, row)
        if response.truth:
            _need_text(response.id, "id", response)
            _need_text(response.map_answer, response.map_field, response)
            _need_text(response.answer, "answer", response)
        yield response


def response_of(path: Path, number: int, row: dict[str, Any]) -> Response:
    """A row of a file of responses, unchecked."""
    get = row.get
    field = next((name for name in MAP_ANSWERS if name in row), "answer")
    stored = next((name for name in ("cognitive_map", f"{field}_cognitive_map") if name in row), None)
    return Response(
        path=path,
        line=number,
        id=get("id", ""),
        question=get("question", ""),
        truth=get("gt_answer"),
        answered=any(name in row for name in MAP_ANSWERS),
        answer=get("cogmap_gen_answer", get("answer", "")),
        map_answer=get(field, ""),
        map_field=field,
        stored_maps=() if stored is None else (row[stored],),
        grounded=get("grounded_cogmap"),
        case=get("_case"),
    )


def _object(line: str, where: str) -> dict[str, Any]:
    text = line.strip()
    if not text:
        raise MindCubeError(f"{where}: the line is blank; remove it")
    try:
        if not text.isascii():
            text.encode()
        value = json.loads(text)
    except UnicodeEncodeError:
        raise MindCubeError(f"{where}: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise MindCubeError(f"{where}: not JSON ({error}); give one JSON object per line") from None
    if not isinstance(value, dict):
        raise MindCubeError(f"{where}: need a JSON object, got {type(value).__name__}")
    return value


def _need_text(value: Any, name: str, response: Response) -> None:
    if value and not isinstance(value, str):
        raise MindCubeError(f"{response.where}: {name} must be text, got {type(value).__name__}")

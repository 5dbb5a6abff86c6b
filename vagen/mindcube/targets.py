"""What a model is to write for a question whose truth is known, in each of the eight tasks. Knows no model.

The forms are MindCube's: an answer between tags, reasoning between ``think`` tags before it, a map as fenced JSON
between ``cogmap`` tags before both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vagen.mindcube.maps import CognitiveMap, MapError, Place, check_map, find_map_kept
from vagen.mindcube.prompts import Task
from vagen.mindcube.rows import MindCubeError, take_apart

LEAD = "Based on my observation, the answer is:\n"
REASONING: tuple[Task, ...] = ("ff_rsn", "cgmap_in_ffr_out", "plain_cgmap_ffr_out", "aug_cgmap_ffr_out")
PLAIN: tuple[Task, ...] = ("plain_cgmap_out", "plain_cgmap_ffr_out")
AUGMENTED: tuple[Task, ...] = ("aug_cgmap_out", "aug_cgmap_ffr_out")


def target(row: Mapping[str, Any], task: Task, where: str) -> str:
    """The right output for a row with ``question``, ``gt_answer`` and, as the task needs, a true map and reasoning.

    Raises:
        MindCubeError: the row lacks something; ``where`` says which row.
    """
    text = f"<answer>{_answer(row, where)}</answer>"
    if task in REASONING:
        text = f"<think>{_text(row, 'reasoning', task, where)}</think>{text}"
    if task in PLAIN:
        text = f"{LEAD}<cogmap>{_fenced(_plain(row, task, where))}</cogmap>{text}"
    elif task in AUGMENTED:
        text = f"{LEAD}<cogmap>{_fenced(_text(row, 'grounded_cogmap', task, where))}</cogmap>{text}"
    return text


def plain_json(found: CognitiveMap) -> str:
    """The objects of a map in the plain form, as JSON."""
    return json.dumps({name: _entry(place) for name, place in found.objects.items()})


def _answer(row: Mapping[str, Any], where: str) -> str:
    options = dict(take_apart(_text(row, "question", "any", where)).options)
    letter = row.get("gt_answer")
    if letter not in options:
        raise MindCubeError(f"{where}: gt_answer {letter!r} is none of the question's options")
    return f"{letter}. {options[letter]}"


def _plain(row: Mapping[str, Any], task: str, where: str) -> str:
    raw = _text(row, "grounded_cogmap", task, where)
    try:
        return plain_json(check_map(find_map_kept(raw), generated=False))
    except (MapError, RecursionError, ValueError) as error:
        raise MindCubeError(f"{where}: grounded_cogmap is no map ({error})") from None


def _entry(place: Place) -> dict[str, Any]:
    position = [int(value) if value.is_integer() else value for value in (place.x, place.y)]
    return {"position": position} | ({"facing": place.facing} if place.facing else {})


def _text(row: Mapping[str, Any], name: str, task: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise MindCubeError(f"{where}: no {name}, which task {task} needs; use a file that has it")
    return value


def _fenced(text: str) -> str:
    return f"```json\n{text}\n```"

"""What the tasks in this folder do for lmms-eval: prompts, images and scores, all of them the package's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from vagen.config import shipped
from vagen.evaluate.mindcube.answers import extract_letter
from vagen.evaluate.mindcube.blind import Exam
from vagen.evaluate.mindcube.official import maps_of
from vagen.evaluate.mindcube.strict import judge
from vagen.mindcube.prompts import Task, Wording, read_wording
from vagen.mindcube.rows import OUT_OF_OVERALL, response_of, setting_of
from vagen.mindcube.similarity import Similarity


def images(doc: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Image.Image]:
    """The images of a question; ``settings.images`` is the folder that their paths start in."""
    shown = []
    for name in doc["images"]:
        with Image.open(Path(settings["images"]) / name) as image:
            shown.append(image.convert("RGB"))
    return shown


def prompt(doc: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The prompt of a question; ``settings.task`` is the task."""
    return _wording(settings["task"]).write(_fields(doc), f"question {doc['id']}")


def score_answer(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Whether the letter is right; of no account where the setting is not in the overall figures."""
    letter = extract_letter(results[0])
    counts = setting_of(doc["id"]) != OUT_OF_OVERALL
    return {"mindcube_accuracy": float(letter == doc["gt_answer"]) if counts else None}


def score_answer_and_map(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The letter, and the map by both measures."""
    response = response_of(Path(doc["id"]), 1, {**_fields(doc), "answer": results[0]})
    scores = score_answer(doc, results)
    if scores["mindcube_accuracy"] is None:
        return {**scores, "mindcube_similarity": None, "mindcube_isomorphic": None, "mindcube_strict_map": None}
    similarity = maps_of(response).similarity or Similarity()
    agreement = judge(response, Exam.of(response.id, response.question, response.truth)).agreement
    return {
        **scores,
        "mindcube_similarity": similarity.overall if similarity.valid_graph else None,
        "mindcube_isomorphic": float(similarity.isomorphic),
        "mindcube_strict_map": None if agreement is None else agreement.overall,
    }


def mean(values: Sequence[float | None]) -> float:
    """The mean of what counts; 0 if nothing does, as officially."""
    counted = [value for value in values if value is not None]
    return fmean(counted) if counted else 0.0


def _fields(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the fields that only other rows have, which datasets fills with ``None``."""
    return {name: value for name, value in doc.items() if value is not None}


@cache
def _wording(task: Task) -> Wording:
    return read_wording(shipped("mindcube.yaml"), task)

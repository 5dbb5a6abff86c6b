"""Prompts for the tasks, from a YAML file of templates. Knows nothing about models.

A template is text, or a list of texts that become paragraphs. In it ``$question`` stands for the question with its
options, ``$views`` and ``$objects`` for the names that a map should use, and any other ``$name`` for that field of the
row: ``$grounded_cogmap``, or the whole official wording from a file of prompts, ``$input_prompt``. ``$$`` is a dollar.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, PositiveInt, ValidationError

from vagen.config import Section
from vagen.mindcube.maps import MapError, check_map, find_map_kept
from vagen.mindcube.rows import MindCubeError

Task = Literal[
    "raw_qa",
    "ff_rsn",
    "aug_cgmap_in",
    "aug_cgmap_out",
    "plain_cgmap_out",
    "plain_cgmap_ffr_out",
    "aug_cgmap_ffr_out",
    "cgmap_in_ffr_out",
]
TASKS: tuple[Task, ...] = get_args(Task)
MAP_GIVEN: tuple[Task, ...] = ("aug_cgmap_in", "cgmap_in_ffr_out")

_UNNAMED = "the objects that the question and its options name"


class TaskPrompt(Section):
    """One task of a file of templates."""

    prompt: str | list[str]
    max_new_tokens: PositiveInt


class PromptFile(Section):
    """A file of templates; ``paragraphs`` is a place for YAML anchors."""

    paragraphs: dict[str, str] = Field(default={})
    tasks: dict[Task, TaskPrompt]


@dataclass(frozen=True)
class Wording:
    """How a task is put.

    Attributes:
        task: which.
        text: the template.
        max_new_tokens: where an answer is cut.
    """

    task: Task
    text: str
    max_new_tokens: int

    @property
    def digest(self) -> str:
        """By which a run knows its wording."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def write(self, row: Mapping[str, Any], where: str) -> str:
        """The prompt for a row of a file of questions.

        Raises:
            MindCubeError: the row lacks a field that the template names; ``where`` says which row.
        """
        template = Template(self.text)
        return template.substitute({name: _value(name, row, self.task, where) for name in template.get_identifiers()})


def read_wording(path: Path, task: Task) -> Wording:
    """The wording of a task from a YAML file.

    Raises:
        MindCubeError: the file cannot be read, is no file of templates, lacks the task, or asks no question.
    """
    try:
        file = PromptFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise MindCubeError(f"cannot read prompts {path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise MindCubeError(f"prompts {path} are not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise MindCubeError(f"prompts {path}: {key}: {first['msg']}") from None
    if task not in file.tasks:
        raise MindCubeError(f"prompts {path} have no task {task!r}, only {', '.join(file.tasks)}")
    chosen = file.tasks[task]
    text = chosen.prompt if isinstance(chosen.prompt, str) else "\n\n".join(map(str.strip, chosen.prompt))
    _check(text, task, path)
    return Wording(task, text.strip(), chosen.max_new_tokens)


def _check(text: str, task: Task, path: Path) -> None:
    template = Template(text)
    if not template.is_valid():
        raise MindCubeError(f"prompts {path}: tasks.{task}.prompt has a lone '$': write $name, or $$ for a dollar")
    names = template.get_identifiers()
    if not {"question", "input_prompt"}.intersection(names):
        raise MindCubeError(f"prompts {path}: tasks.{task}.prompt asks no question: put $question into it")
    if task in MAP_GIVEN and not {"grounded_cogmap", "input_prompt"}.intersection(names):
        raise MindCubeError(f"prompts {path}: tasks.{task}.prompt gives no map: put $grounded_cogmap into it")


def _value(name: str, row: Mapping[str, Any], task: Task, where: str) -> str:
    if name == "views":
        word = "Image" if "image" in row["question"].lower() else "View"
        return ", ".join(f"{word} {number}" for number in range(1, len(row["images"]) + 1))
    if name == "objects":
        return _objects(row)
    value = row.get(name)
    if isinstance(value, dict):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise MindCubeError(f"{where}: no {name}, which task {task} puts into its prompt; use a file that has it")
    return value


def _objects(row: Mapping[str, Any]) -> str:
    """The names of the true map in alphabetical order, which gives nothing away; words where there is none."""
    raw = row.get("grounded_cogmap")
    try:
        true = check_map(find_map_kept(raw) if isinstance(raw, str) else raw, generated=False)
    except (MapError, RecursionError, ValueError):
        return _UNNAMED
    return ", ".join(f'"{name}"' for name in sorted(map(str, true.objects))) or _UNNAMED

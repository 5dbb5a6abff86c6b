"""Questions about images, with the answers to learn, from files.

A file is JSONL in the form of MindCube's prompts: ``images`` (paths), ``input_prompt`` and ``grounded_output``, and
``task``, which metrics are kept by; other fields are kept, and not looked at. ``vagen spatial`` writes such files.
Knows nothing about what is asked, or about training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from vagen.data.places import DataError
from worlds import Frame

T = TypeVar("T")
SOURCE = "questions"  # what stands in the place of a world in the metrics


class _Line(BaseModel):
    """A line of a file of questions to train on."""

    input_prompt: Annotated[str, Field(pattern=r"\S")]
    grounded_output: Annotated[str, Field(pattern=r"\S")]
    images: Annotated[list[str], Field(min_length=1)]
    task: str = "question"


@dataclass(frozen=True)
class Example:
    """A question about images, with the answer to learn.

    Attributes:
        task: what kind of answer it is; metrics are kept by it.
        question: the text that follows the images.
        answer: the right one, whole.
        images: files, in the order in which they are shown.
        line: of the file, whole, as JSON: it may hold what answers are judged by.
    """

    task: str
    question: str
    answer: str
    images: tuple[Path, ...]
    line: bytes

    @property
    def cell(self) -> tuple[str, str]:
        """What metrics keep it by."""
        return SOURCE, self.task


def spread(items: Sequence[T], n: int) -> list[T]:
    """``n`` of some items, evenly from the first to the last; all of them where there are no more.

    In a list of equal parts, such as the turns of episodes, it is not the same place of each that is taken.
    """
    last = len(items) - 1
    return [items[number * last // max(n - 1, 1)] for number in range(n)] if n <= last else list(items)


def read_examples(path: Path, images: Path) -> list[Example]:
    """The questions of a file.

    Args:
        images: the folder that the paths of images start in.

    Raises:
        DataError: the file cannot be read, a line is no question, or an image is missing; names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot read questions {path}: {error.strerror or error}") from None
    examples, known = [], set()
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            found = _Line.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{where}: {key}: {first['msg']}; give a file of `vagen spatial --tasks …`") from None
        files = tuple(images / _below(name, where) for name in found.images)
        for file in files:
            if file not in known and not file.is_file():
                raise DataError(f"{where}: image {file} is missing: set questions.images to the folder it is in")
            known.add(file)
        examples.append(Example(found.task, found.input_prompt, found.grounded_output, files, line))
    if not examples:
        raise DataError(f"{path} is empty: give a file of `vagen spatial --tasks …`")
    return examples


def read_image(path: Path) -> Frame:
    """(H, W, 3) RGB.

    Raises:
        DataError: it is no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: {error}") from None


def _below(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError(f"{where}: image {name!r} is not below the folder of images")
    return path

"""Putting questions to a model, batch by batch, into a file of responses in the official schema.

A run can be cut off at any moment: every answered row is one line, on the disk before the next, and the same command
goes on after the last whole line. Knows nothing about prompts but that they are text, and nothing about scores.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from vagen.files import check_file, write_json
from vagen.mindcube.prompts import Wording
from vagen.mindcube.rows import BASIC_ANSWERS, MAP_ANSWERS, MindCubeError, read_rows, scene_of, setting_of, take_apart
from vagen.policy.chat import Chat, Picture
from vagen.policy.generate import Asked as Prompted
from vagen.policy.generate import generate
from vagen.policy.likelihood import log_probabilities
from vagen.progress import Progress

_ANSWER = "<answer>"
ANSWER_FIELDS = tuple(dict.fromkeys((*MAP_ANSWERS, *BASIC_ANSWERS, "plain_answer", "cognitive_map")))


@dataclass(frozen=True)
class Asked:
    """A row of a file of questions, as far as asking needs it."""

    id: str
    question: str
    images: list[str]


@dataclass(frozen=True)
class Inquiry:
    """What is to be asked, checked.

    Attributes:
        source: the file of questions.
        rows: its rows, whole.
        prompts: of each row, its prompt.
        images: of each row, the files of its images.
        digest: of the file.
        wording: how the task is put.
        shuffled: the images are those of other scenes.
        chosen: answers are chosen among the options, see :func:`choose`.
    """

    source: Path
    rows: list[dict[str, Any]]
    prompts: list[str]
    images: list[list[Path]]
    digest: str
    wording: Wording
    shuffled: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Run:
    """What must be the same for a run to go on, kept beside its responses.

    Attributes:
        model: its name.
        weights: a digest of its weights; ``None`` for models of the Hub.
        task: what is asked.
        prompts: a digest of the wording.
        questions: a digest of the file of questions.
        max_new_tokens: where answers are cut.
        shuffled: whether the images were those of other scenes.
        chosen: whether answers were chosen among the options.
    """

    model: str
    weights: str | None
    task: str
    prompts: str
    questions: str
    max_new_tokens: int
    shuffled: bool = False
    chosen: bool = False


_ASKED = TypeAdapter(Asked)
_RUN = TypeAdapter(Run)


def prepare(questions: Path, images: Path, wording: Wording) -> Inquiry:
    """Read the questions, write their prompts and find their images, before anything costs time.

    Raises:
        MindCubeError: a row is no question, lacks what the task needs, or has answers already; images are missing (all
            of them are named).
    """
    rows, prompts, files = [], [], []
    for number, row in read_rows(questions):
        where = f"{questions}, line {number}"
        asked = _asked(row, where)
        rows.append(row)
        prompts.append(wording.write(row, f"{where} ({asked.id})"))
        files.append([images / name for name in asked.images])
    _need_images(files, images)
    digest = hashlib.blake2b(questions.read_bytes(), digest_size=8).hexdigest()
    return Inquiry(questions, rows, prompts, files, digest, wording)


def shuffled(inquiry: Inquiry) -> Inquiry:
    """The same questions with the images of other scenes: what a model gets right of these, it gets without looking.

    Each row has the images of a later row of its setting, as many as its own; the last ones those of the first.

    Raises:
        MindCubeError: a row has no such other.
    """
    alike: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, row in enumerate(inquiry.rows):
        alike[setting_of(row["id"]), len(inquiry.images[number])].append(number)
    images = list(inquiry.images)
    for numbers in alike.values():
        for place, number in enumerate(numbers):
            later = numbers[place + 1 :] + numbers[:place]
            scene = scene_of(inquiry.rows[number]["id"])
            other = next((n for n in later if scene_of(inquiry.rows[n]["id"]) != scene), None)
            if other is None:
                raise MindCubeError(
                    f"{inquiry.source}: no other scene has {len(images[number])} images, as {scene} has; give more "
                    "questions"
                )
            images[number] = inquiry.images[other]
    return replace(inquiry, images=images, shuffled=True)


def choosing(inquiry: Inquiry) -> Inquiry:
    """The same questions, answered by choosing among their options: see :func:`choose`.

    Raises:
        MindCubeError: a question has no options.
    """
    for number, row in enumerate(inquiry.rows, start=1):
        if not take_apart(row["question"]).options:
            raise MindCubeError(f"{inquiry.source}, line {number}: {row['id']} has no options to choose among")
    return replace(inquiry, chosen=True)


def ask(chat: Chat, inquiry: Inquiry, out: Path, batch: int, max_new_tokens: int, overwrite: bool) -> int:
    """Answer what is not answered yet; returns how many rows were.

    Batches begin at multiples of ``batch`` however a run was cut off, so that the same rows are padded alike.

    Args:
        overwrite: begin anew, whatever is in ``out``.

    Raises:
        MindCubeError: ``out`` holds another run's responses, or is being written to; an image cannot be read.
        OutputError: ``out`` cannot be written to.
    """
    wording = inquiry.wording
    named = (wording.task, wording.digest, inquiry.digest)
    run = Run(chat.policy.name, chat.policy.digest, *named, max_new_tokens, inquiry.shuffled, inquiry.chosen)
    with _responses(check_file(out), run, inquiry, overwrite) as (file, done):
        total = len(inquiry.rows)
        with Progress(total, "mindcube", "questions", start=done) as progress:
            for start in range(done - done % batch, total, batch):
                chosen = range(start, min(start + batch, total))
                for number, answer in zip(chosen, answers(chat, inquiry, chosen, max_new_tokens), strict=True):
                    if number >= done:
                        _append(file, inquiry.rows[number], answer, chat.policy.model.config.model_type)
                        progress.update()
    return total - done


def run_file(out: Path) -> Path:
    """Where the description of the run that wrote ``out`` is kept."""
    return out.with_name(f"{out.name}.run.json")


def _asked(row: dict[str, Any], where: str) -> Asked:
    try:
        asked = _ASKED.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise MindCubeError(f"{where}: {key}: {first['msg']}; give a file of MindCube questions") from None
    if not asked.question.strip():
        raise MindCubeError(f"{where}: the question is empty")
    if answered := [name for name in ANSWER_FIELDS if name in row]:
        raise MindCubeError(f"{where}: has {answered[0]} already; give a file of questions, not of responses")
    for name in asked.images:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise MindCubeError(f"{where}: image {name!r} is not below the folder of images")
    return asked


def _need_images(files: Sequence[Sequence[Path]], folder: Path) -> None:
    wanted = dict.fromkeys(path for paths in files for path in paths)
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        names = ", ".join(path.relative_to(folder).as_posix() for path in missing[:3])
        names += " …" if len(missing) > 3 else ""
        raise MindCubeError(
            f"{len(missing)} of {len(wanted)} images are missing below {folder}: {names}; "
            "--images is the folder that their paths start in (MindCube's are fetched as data/cards/mindcube.md says)"
        )


def answers(chat: Chat, inquiry: Inquiry, numbers: Sequence[int], max_new_tokens: int) -> list[str]:
    """Greedy answers to some rows, by their numbers, in one batch; chosen ones where the inquiry wants that.

    Raises:
        MindCubeError: an image cannot be read.
    """
    pictures = {path: _picture(path) for number in numbers for path in inquiry.images[number]}
    prompts = []
    for number in numbers:
        shown = [pictures[path] for path in inquiry.images[number]]
        prompts.append((chat.ask(inquiry.prompts[number], shown), shown))
    texts = generate(chat, prompts, max_new_tokens, len(numbers))
    return choose(chat, prompts, texts, [inquiry.rows[number] for number in numbers]) if inquiry.chosen else texts


def choose(
    chat: Chat, prompts: Sequence[Prompted], texts: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Outputs whose answer is an option: what was written before the answer stays, then the likeliest option follows.

    The likeliest is the one whose letter and text together have the greatest probability after what stands before
    them, as in the multiple-choice tasks of LM Evaluation Harness (Gao et al. 2021). So a model need not know the
    letter before it writes the text, and always gives an answer that can be read.

    Args:
        texts: what was written freely to each prompt.
        rows: with the ``question`` of each, in which the options stand.
    """
    outputs = []
    for text, row in zip(texts, rows, strict=True):
        lead = text.partition(_ANSWER)[0] + _ANSWER
        outputs.append([f"{lead}{option}</answer>" for option in take_apart(row["question"]).answers])
    likely = log_probabilities(chat, prompts, outputs, len(prompts))
    return [options[int(found.argmax())] for options, found in zip(outputs, likely, strict=True)]


def _picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return Picture.of(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MindCubeError(f"cannot read image {path}: {error}; fetch it again, then run the same command") from None


def _append(file: BinaryIO, row: dict[str, Any], answer: str, model_type: str) -> None:
    line = json.dumps({**row, "answer": answer, "model_type": model_type}) + "\n"
    file.write(line.encode())
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _responses(out: Path, run: Run, inquiry: Inquiry, overwrite: bool) -> Iterator[tuple[BinaryIO, int]]:
    """The file of responses, locked and open for appending, and how many rows are answered."""
    if out == inquiry.source.resolve():
        raise MindCubeError(f"{out} holds the questions; choose another output")
    with out.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MindCubeError(f"{out} is being written to by another process; wait for it") from None
        if overwrite:
            file.truncate(0)
        if out.stat().st_size == 0:
            write_json(run_file(out), asdict(run))
        else:
            _same_run(out, run)
        yield file, _whole_lines(file, out, inquiry)


def _same_run(out: Path, run: Run) -> None:
    path = run_file(out)
    remedy = "choose another output, or --overwrite"
    try:
        earlier = _RUN.validate_json(path.read_bytes())
    except OSError as error:
        raise MindCubeError(f"{out} exists, and {path.name} cannot be read ({error.strerror}); {remedy}") from None
    except ValidationError:
        raise MindCubeError(f"{path} does not describe a run; {remedy}") from None
    for name, value in asdict(run).items():
        if (before := getattr(earlier, name)) != value:
            raise MindCubeError(f"{out} holds responses with {name} {before}, not {value}; {remedy}")


def _whole_lines(file: BinaryIO, out: Path, inquiry: Inquiry) -> int:
    """How many rows are answered; what is left of a line that was cut off is dropped."""
    file.seek(0)
    done = size = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        _belongs(line, done, out, inquiry)
        done, size = done + 1, size + len(line)
    file.truncate(size)
    file.seek(0, os.SEEK_END)
    return done


def _belongs(line: bytes, number: int, out: Path, inquiry: Inquiry) -> None:
    """Refuse a line that is not the answer to the question of this number."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    asked = inquiry.rows[number] if number < len(inquiry.rows) else None
    if not isinstance(row, dict) or asked is None or {**row, **asked} != row or "answer" not in row:
        raise MindCubeError(
            f"{out}, line {number + 1}: not the answer to that line of the questions; "
            "choose another output, or --overwrite"
        )

"""``vagen spatial``: a folder of questions about drawn rooms, with their images, true maps and training examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from huggingface_hub import DatasetCardData
from numpy.typing import NDArray
from PIL import Image

from vagen.config import Tiny
from vagen.data.card import CARD
from vagen.files import OutputError, atomic_folder
from vagen.mindcube.prompts import Wording
from vagen.mindcube.targets import target
from vagen.progress import Progress
from worlds import Split
from worlds.rooms import Camera, Room
from worlds.spatial import IMAGES, Question, image_path, questions
from worlds.spatial_grid import Setting
from worlds.spatial_scenes import Scene

MOST_TOKENS = 8  # to a side of an image, for a tiny model that sees several
NAMING = "naming"  # the task of examples that say what images show
_HUB_SPLITS: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}

_CARD = """\
---
{metadata}
---

# Spatial questions about drawn rooms

Multiple-choice questions in the form of MindCube (Yin et al. 2025) about rooms that are drawn, not photographed. Made
by `vagen spatial` with seed {seed}; images are {size} x {size} pixels. A scene is in one split only, by a digest of
everything in it.

{table}

| file | what |
|---|---|
| `SPLIT.jsonl` | a question per line: `id`, `category`, `type`, `meta_info`, `question`, `images`, `gt_answer` |
| `train.TASK.jsonl` | the same with `task`, `input_prompt` and `grounded_output`, to train on: {tasks} |
{measured}| `train.naming.jsonl` | what each image shows, to learn beside the answers |
| `{images}/` | the images, by setting and scene |

Beside MindCube's fields a line has the true map, `grounded_cogmap`, and `reasoning` of which every step is true.
Every object that a question needs is seen by a camera that is shown. Right answers carry each letter equally often, of
two fixed answers each is right equally often, and names tell nothing: without looking, chance is all there is.

```bash
vagen train --config configs/spatial.yaml --questions.files train.{task}.jsonl '--questions.tasks={{}}' \\
    {model} --output outputs/spatial
vagen eval mindcube --questions test.jsonl --images . --model outputs/spatial --task {task} --out responses.jsonl
vagen score mindcube responses.jsonl --mode strict --out score.json --baseline-train train.jsonl
```

A folder written with `--prompts` is asked with the same `--prompts`.
"""

_MEASURED = "| `val.TASK.jsonl` | the same of the validation split, to measure by while training |\n"


class Renderer(Protocol):
    """Draws rooms, and says what cameras see of them."""

    def visible(self, room: Room, cameras: Sequence[Camera]) -> NDArray[np.floating]:
        """See :class:`worlds.spatial_scenes.Visibility`."""
        ...

    def render(self, room: Room, cameras: Sequence[Camera], size: int) -> NDArray[np.uint8]:
        """(N, size, size, 3) a picture per camera."""
        ...


@dataclass(frozen=True)
class Amounts:
    """How many questions each setting gets in each split."""

    train: int
    val: int
    test: int


def write(
    output: Path,
    renderer: Renderer,
    settings: Sequence[Setting],
    amounts: Amounts,
    wordings: Sequence[Wording],
    seed: int,
    size: int,
    license: str = "apache-2.0",
    overwrite: bool = False,
) -> Path:
    """Write a folder of questions; whole or not at all. Returns its card.

    Args:
        settings: which of the four.
        wordings: of the tasks whose examples are written beside the questions of the training and validation splits.
        size: pixels per side of the images.
        overwrite: replace a folder of questions.

    Raises:
        WorldError: a setting is unknown, or the renderer shows nothing.
        OutputError: the place cannot be written to, or is taken.
    """
    card = output / CARD
    if card.is_file() and "`vagen spatial`" not in card.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(f"cannot write to {output}: its {CARD} is not one of `vagen spatial`; choose another output")
    counts: dict[tuple[Split, Setting], tuple[int, int]] = {}
    with atomic_folder(output, CARD, overwrite) as temporary:
        for split in _HUB_SPLITS:
            asked = []
            for setting in dict.fromkeys(settings):
                found = _ask(setting, getattr(amounts, split), renderer, seed, split, temporary, size)
                counts[split, setting] = len(found), len({question.scene.key for question in found})
                asked += found
            rows = [question.row() for question in asked]
            if rows:
                _write_lines(temporary / f"{split}.jsonl", rows)
            for wording in wordings if split != "test" and rows else ():
                examples = [example(row, wording) for row in rows]
                _write_lines(temporary / f"{split}.{wording.task}.jsonl", examples)
            if split == "train" and rows and wordings:
                _write_lines(temporary / f"{split}.{NAMING}.jsonl", naming(asked))
        (temporary / CARD).write_text(_card(counts, wordings, seed, size, license), encoding="utf-8")
    return card


def example(row: Mapping[str, Any], wording: Wording) -> dict[str, Any]:
    """A row with the prompt of a task and the right output to it."""
    where = str(row["id"])
    return {
        **row,
        "task": wording.task,
        "input_prompt": wording.write(row, where),
        "grounded_output": target(row, wording.task, where),
    }


def naming(asked: Iterable[Question]) -> Iterator[dict[str, Any]]:
    """What each image of some questions shows, as an example of its own; to be learned before the questions.

    An answer tells a model little of what it did not recognise; a name does. The words are those that reasoning begins
    with, and a single image leaves no doubt which one a name belongs to.
    """
    known: set[str] = set()
    for question in asked:
        for view, image in zip(question.views, question.images, strict=True):
            if image not in known:
                known.add(image)
                yield {
                    "id": f"{question.setting}_{question.scene.key}_{view}",
                    "images": [image],
                    "task": NAMING,
                    "input_prompt": "What does the image show?",
                    "grounded_output": question.shows(view),
                }


def _ask(
    setting: Setting, n: int, renderer: Renderer, seed: int, split: Split, folder: Path, size: int
) -> list[Question]:
    """The questions of a setting and split, their images written."""
    asked: list[Question] = []
    if n == 0:
        return asked
    with Progress(n, f"{setting}, {split}", "questions") as progress:
        for question in questions(setting, n, renderer, seed, split):
            _draw(question.scene, renderer, folder, size)
            asked.append(question)
            progress.update()
    return asked


def _draw(scene: Scene, renderer: Renderer, folder: Path, size: int) -> None:
    """The images of a scene as PNG files; drawn once."""
    paths = [folder / image_path(scene, view) for view in range(len(scene.cameras))]
    if paths[0].exists():
        return
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, frame in zip(paths, renderer.render(scene.room, scene.cameras, size), strict=True):
        Image.fromarray(frame).save(path, "PNG")


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def _card(
    counts: Mapping[tuple[Split, Setting], tuple[int, int]],
    wordings: Sequence[Wording],
    seed: int,
    size: int,
    license: str,
) -> str:
    splits: list[Split] = [split for split in _HUB_SPLITS if any(counts[key][0] for key in counts if key[0] == split)]
    metadata = DatasetCardData(
        license=license,
        language="en",
        pretty_name="Spatial questions about drawn rooms",
        task_categories=["visual-question-answering", "image-text-to-text"],
        tags=["spatial-reasoning", "mindcube", "vision-language", "vagen"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": _HUB_SPLITS[split], "path": f"{split}.jsonl"} for split in splits],
            }
        ],
    )
    lines = ["| split | setting | questions | scenes |", "|---|---|---|---|"]
    lines += [
        f"| {split} | {setting} | {asked} | {scenes} |"
        for (split, setting), (asked, scenes) in counts.items()
        if asked
    ]
    return _CARD.format(
        metadata=metadata.to_yaml().strip(),
        seed=seed,
        size=size,
        images=IMAGES,
        table="\n".join(lines),
        model=_model_options(size),
        measured=_MEASURED if "val" in splits else "",
        task=next((wording.task for wording in wordings), "raw_qa"),
        tasks=", ".join(f"`{wording.task}`" for wording in wordings) or "none here",
    )


def _model_options(size: int) -> str:
    """What makes a model take images of this size: the tiny one, its patches merged to few, where they are whole."""
    patches, rest = divmod(size, Tiny().patch_size)
    merge = max(merge for merge in range(1, max(1, patches // 4) + 1) if patches % merge == 0)
    if rest or not 0 < patches // merge <= MOST_TOKENS:
        return "--model.path=MODEL"
    return f"--model.tiny.image_size={size} --model.tiny.merge={merge}"

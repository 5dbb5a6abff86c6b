"""Cloze tests for other trainers: TRL's conversational format, as a folder that ``datasets`` loads.

``train/metadata.jsonl`` has a line per sample: the conversation (``messages``, or ``prompt`` and ``completion``) and
the files of its images, which ``load_dataset`` turns into a column ``images``. Equal images are one file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import DatasetCardData
from PIL import Image

from vagen.config import Config
from vagen.data.stream import ClozeStream
from vagen.files import atomic_folder
from vagen.policy.batches import draw
from vagen.policy.chat import Picture, conversation
from vagen.progress import Progress

Layout = Literal["messages", "prompt-completion"]
METADATA = "train/metadata.jsonl"
GROUPS_AT_ONCE = 32

_CARD = """\
---
{metadata}
---

# Cloze tests

{samples} cloze tests with {images} images about {worlds}, in TRL's conversational format. Clozes: {clozes}. The right
answer is one of those that the simulator accepts.

```python
from datasets import load_dataset

dataset = load_dataset("imagefolder", data_dir=".", split="train")
```

Columns: {columns}, `images`, and `world`, `cloze`, `pattern` and `weight` (how much the sample counts in
vagen's own training), which trainers ignore. Made by `vagen data export`.
"""


def export(config: Config, output: Path, groups: int, layout: Layout, overwrite: bool = False) -> Path:
    """Write the samples of the first groups of a stream; schedules run once over them.

    Args:
        layout: the whole conversation in one column, or its question and its answer in two.
        overwrite: replace an earlier export.

    Returns:
        The file of conversations.

    Raises:
        DataError, ClozeError, OutputError: inputs or an output that cannot be used.
    """
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture, groups, config.data)
    samples, names = 0, set()
    with atomic_folder(output, METADATA, overwrite) as temporary:
        (temporary / METADATA).parent.mkdir()
        with (
            (temporary / METADATA).open("w", encoding="utf-8", newline="\n") as file,
            Progress(groups, "export", "groups") as progress,
        ):
            for start in range(0, groups, GROUPS_AT_ONCE):
                chosen = range(start, min(groups, start + GROUPS_AT_ONCE))
                for line, pictures in _lines(stream, chosen, config.clozes.explain, layout):
                    for name, picture in zip(line["images_file_names"], pictures, strict=True):
                        if name not in names:
                            names.add(name)
                            Image.fromarray(picture.pixels).save((temporary / METADATA).parent / name, "PNG")
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    samples += 1
                progress.update(len(chosen))
        card = _card(config, stream, samples, len(names), layout)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return output / METADATA


def _lines(
    stream: ClozeStream, numbers: range, explain: bool, layout: Layout
) -> Iterator[tuple[dict[str, Any], list[Picture]]]:
    """The lines of some groups, with their pictures."""
    pairs = [pair for group in map(stream.group, numbers) for pair in zip(group.samples, group.weights, strict=True)]
    for (sample, weight), pictures in zip(pairs, draw([sample for sample, _ in pairs]), strict=True):
        messages = conversation(sample, explain, sample.answer)
        parts = (
            {"messages": messages} if layout == "messages" else {"prompt": messages[:-1], "completion": messages[-1:]}
        )
        about = {"world": sample.window.world, "cloze": sample.name, "pattern": str(sample.pattern), "weight": weight}
        files = [f"{picture.digest.hex()}.png" for picture in pictures]
        yield {**parts, "images_file_names": files, **about}, pictures


def _card(config: Config, stream: ClozeStream, samples: int, images: int, layout: Layout) -> str:
    metadata = DatasetCardData(
        license=config.collect.license,
        language="en",
        pretty_name="Cloze tests",
        task_categories=["image-text-to-text"],
        tags=["world-model", "vision-language-agent", "trl", "vagen"],
    )
    return _CARD.format(
        metadata=metadata.to_yaml().strip(),
        samples=samples,
        images=images,
        worlds=", ".join(f"`{world}`" for world in stream.worlds),
        clozes=", ".join(f"`{cloze}`" for cloze in stream.patterns),
        columns="`messages`" if layout == "messages" else "`prompt` and `completion`",
    )

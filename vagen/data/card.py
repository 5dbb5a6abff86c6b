"""The dataset card of a folder of shards: ``README.md`` with the Hub's metadata."""

from __future__ import annotations

import jinja2
from huggingface_hub import DatasetCardData

from vagen.cloze.sample import simulator
from vagen.data.shards import Manifest

CARD = "README.md"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_TEXT = """\
---
{{ metadata }}
---

# {{ name }}

{{ manifest.trajectories }} episodes of the world `{{ manifest.world }}`, {{ manifest.transitions }} transitions over
{{ manifest.layouts }} layouts, of the {{ manifest.split }} split. Made by `vagen collect`.

> {{ rules }}

| | |
|---|---|
| actions | {{ actions }} |
| who acted | {{ manifest.behaviour }} |
| seed | {{ manifest.seed }} |
| shards | {{ manifest.shards | length }}, {{ size }} |
| stored | {{ stored }} |
| versions | {{ versions }} |

A split is decided by a digest of the static layout (walls, goals, objects; not the agent), so no layout is in two
splits.

## What is in a sample

One `<key>.json` per episode: `world`, `split`, `seed`, `behaviour`, `snapshots` (T + 1 exact states), `actions` (T
numbers), `rewards` (T), `terminated`, `truncated`, `success`, `frame_hash` (of the first frame), `provenance` and
`noise_seeds`.
{%- if with_frames %} Beside it, `<key>.<t>.webp` is the frame of state t, lossless.{% endif %}
`manifest.json` has counts and checksums of the shards, and one of itself.

## Loading

```python
import webdataset as wds

shards = "shard-{{ "{" }}00000..{{ "%05d" % (manifest.shards | length - 1) }}{{ "}" }}.tar"
episodes = wds.WebDataset(shards, shardshuffle=False).decode()
for episode in episodes:
    print(episode["json"]["actions"])
```

With frames, checked against the hashes, and as cloze tests:

```python
from pathlib import Path

from vagen.data.frames import frames_of_each
from vagen.data.shards import read_trajectories

for frames in frames_of_each(read_trajectories(Path("."))):
    print(frames.shape)  # (T + 1, H, W, 3)
```

```bash
vagen data check .
{%- if manifest.split == "train" %}
vagen train --config configs/cloze.yaml --shards . --output ../mine
{%- endif %}
```
"""


def dataset_card(manifest: Manifest, license: str) -> str:
    """The card of one folder of shards."""
    world = simulator(manifest.world)
    metadata = DatasetCardData(
        license=license,
        language="en",
        pretty_name=f"{manifest.world}, {manifest.split}",
        task_categories=["image-text-to-text", "reinforcement-learning"],
        size_categories=next((name for most, name in _SIZES if manifest.trajectories < most), "n>1M"),
        tags=["world-model", "vision-language-agent", "webdataset", "vagen"],
        configs=[
            {"config_name": "default", "data_files": [{"split": _SPLITS[manifest.split], "path": "shard-*.tar"}]}
        ],
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_TEXT).render(
        metadata=metadata.to_yaml().strip(),
        name=f"{manifest.world} ({manifest.split})",
        manifest=manifest,
        with_frames=not world.renders_from_state,
        rules=world.rules,
        actions=", ".join(world.actions),
        size=_bytes(sum(shard.bytes for shard in manifest.shards)),
        stored="states; frames are drawn from them" if world.renders_from_state else "states and frames",
        versions=", ".join(f"{package} {version}" for package, version in manifest.provenance.items()),
    )


_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # as the Hub calls them


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"

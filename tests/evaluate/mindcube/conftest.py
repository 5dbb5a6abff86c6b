"""Where other people's MindCube files are, rows of our own, and a tiny model with stand-in images."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(os.environ.get("VAGEN_SHARED") or Path(__file__).parents[4] / "shared") / "mindcube"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the public questions and of the official evaluator's results; tests without it are skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: set VAGEN_SHARED to the folder that holds mindcube/")
    return SHARED


TRUE_MAP = {
    "objects": [
        {"name": "cup", "position": [5, 5]},
        {"name": "door", "position": [5, 8]},
        {"name": "shelf", "position": [2, 5]},
        {"name": "lamp", "position": [5, 2], "facing": "down"},
        {"name": "sofa", "position": [8, 5], "facing": "left"},
    ],
    "views": [
        {"name": "Image 1", "position": [5, 6], "facing": "up"},
        {"name": "Image 2", "position": [4, 5], "facing": "right"},
    ],
}


@pytest.fixture
def true_map() -> dict:
    """An augmented map of our own, laid out as in the *among* setting."""
    return json.loads(json.dumps(TRUE_MAP))


@pytest.fixture(scope="session")
def question_row() -> Callable[..., dict]:
    """``question_row(number, **fields)``: a row of a file of questions."""

    def row(number: int = 0, **fields) -> dict:
        images = 1 + number % 3
        return {
            "id": f"among_group{number // 3:03d}_q{number % 4}_2_{number}",
            "question": f"Based on image 1 of the scene: what is behind me in place {number}? A. Cup B. Door C. Sofa",
            "images": [f"all/scene{number}/{image}.png" for image in range(images)],
            "gt_answer": "ABC"[number % 3],
            "grounded_cogmap": json.dumps(TRUE_MAP),
        } | fields

    return row


@pytest.fixture(scope="session")
def write_lines() -> Callable[..., Path]:
    """``write_lines(path, rows)``: a JSONL file."""

    def write(path: Path, rows) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def stand_in_images() -> Callable[..., None]:
    """``stand_in_images(folder, rows)``: noise of various sizes and modes where the rows' images should be."""

    def make(folder: Path, rows) -> None:
        generator = np.random.default_rng(5)
        for name in dict.fromkeys(name for row in rows for name in row["images"]):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = generator.integers(16, 64, size=2)
            pixels = generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            (image.convert("L") if generator.random() < 0.2 else image).save(path, format="PNG")

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a tiny model of random weights."""
    from vagen.config import Tiny
    from vagen.policy import tiny
    from vagen.policy.policy import ClozeFormat, Policy

    small = Tiny(hidden_size=32, layers=2, head_size=16, vision_hidden_size=32, vision_layers=1)
    model, processor = tiny.build(small, ["frozenlake-4x4"], seed=0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Policy("tiny", model, processor, ClozeFormat()).save(folder)
    return folder

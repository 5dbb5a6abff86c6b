"""Training on questions about images: alone and beside clozes, through the one loop, to a model that answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vagen.config import Config, ConfigError
from vagen.data.examples import SOURCE, read_examples
from vagen.policy.batches import Batcher, draw, encode_all
from vagen.policy.chat import Chat
from vagen.policy.errors import ModelError
from vagen.policy.packing import PackedLoss, pack
from vagen.policy.policy import create
from vagen.train.cloze import train
from vagen.train.inspection import inspect_group
from vagen.train.run import cloze_format, open_stream

COLOURS = {"red": (200, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 200), "white": (240, 240, 240)}


pytestmark = pytest.mark.usefixtures("joined")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Two images of one colour each, and what colour either has: 16 pairs."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for name, colour in COLOURS.items():
        Image.fromarray(np.full((48, 48, 3), colour, np.uint8)).save(folder / f"{name}.png")
    for one in COLOURS:
        for two in COLOURS:
            for number, right in enumerate((one, two), start=1):
                row = {"images": [f"{one}.png", f"{two}.png"], "task": "raw_qa"}
                row |= {"input_prompt": f"Which colour has image {number}?", "grounded_output": f"It is {right}"}
                lines.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def config_of(values, output: Path, file: Path, **changes) -> Config:
    base = values(output, questions={"files": [str(file)]})
    return Config.model_validate({**base, **changes})


def test_questions_alone_are_learned_and_answered(values, file, tmp_path):
    config = config_of(values, tmp_path / "run", file, shards=[], seed=1)
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"steps": 60, "rows": 8, "micro_rows": 8, "log_every": 10})}
    )
    outcome = train(config)
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    key = f"loss/{SOURCE}/raw_qa"
    assert losses[-1][key] < 0.5 * losses[0][key], [row[key] for row in losses]
    assert json.loads((outcome.model / "cloze_format.json").read_text())["worlds"] == []


def test_a_row_computes_what_its_questions_compute_alone(values, file, tmp_path):
    config = config_of(values, tmp_path / "run", file, shards=[])
    stream = open_stream(config)
    policy = create(config.model, cloze_format(config, stream.worlds, stream.patterns), 0, words=stream.words)
    chat = Chat(policy)
    group = stream.group(0)
    loss = PackedLoss(policy.model.eval())
    ones = np.ones(len(chat.tokenizer))
    batcher = Batcher(chat, ones, stream.cells)
    with torch.no_grad():
        together = loss(batcher.batch([group]))
        alone = [loss(batcher.batch([type(group)((sample,), (1.0,))])) for sample in group.samples]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert len(pack(encode_all(chat, group.samples)).pictures) <= 2


def test_whole_words_of_questions_are_tokens_of_a_tiny_model(values, file, tmp_path):
    config = config_of(values, tmp_path / "run", file, shards=[])
    stream = open_stream(config)
    chat = Chat(create(config.model, cloze_format(config, stream.worlds, stream.patterns), 0, words=stream.words))
    assert len(chat.tokenizer("Which colour has", add_special_tokens=False)["input_ids"]) == 3


def test_questions_and_clozes_train_together(values, file, tmp_path):
    config = config_of(values, tmp_path / "run", file)
    train(config.model_copy(update={"train": config.train.model_copy(update={"steps": 4, "log_every": 4})}))
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert f"loss/{SOURCE}/raw_qa" in row
    assert any(name.startswith("loss/sokoban") for name in row)


def test_a_group_of_questions_can_be_inspected(values, file, tmp_path):
    text = inspect_group(config_of(values, tmp_path / "run", file, shards=[]), 0, tmp_path / "images")
    assert "2 questions about 2 images" in text
    assert "Which colour has image 1?" in text
    assert list((tmp_path / "images").glob("*.png"))


def test_what_cannot_be_is_refused(values, file, tmp_path):
    base = values(tmp_path / "run", questions={"files": [str(file)]}, train={"validation": {"every": 5}})
    with pytest.raises(ConfigError, match="validation asks clozes, and there are no shards"):
        open_stream(Config.model_validate({**base, "shards": []}))
    base = values(tmp_path / "run", questions={"files": [str(file)]}, model={"tiny": {"image_size": 64}})
    with pytest.raises(ModelError, match=r"image .*\.png has 48x48 pixels and the tiny model sees 64x64"):
        open_stream(Config.model_validate({**base, "shards": []}))


def test_files_are_read_once_for_a_batch(file):
    examples = read_examples(file, file.parent)
    pictures = draw(examples)
    assert len({id(picture) for shown in pictures for picture in shown}) == len(COLOURS)

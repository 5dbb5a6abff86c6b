"""Exported conversations hold what training would see, and TRL reads them with its own collator."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vagen.config import Config
from vagen.conversations import export
from vagen.data.stream import ClozeStream
from vagen.files import OutputError
from vagen.policy.batches import draw

WEIGHTS = {
    "state_estimation": 1.0,
    "inverse_dynamics": 4.0,
    "text_forward_dynamics": 0.5,
    "next_observation": 1.0,
    "policy": ((0.5, 0.0), (0.5, 2.0)),
}


@pytest.fixture
def config(shards) -> Config:
    return Config.model_validate(
        {"shards": [str(folder) for folder in shards.values()], "clozes": {"weights": WEIGHTS}, "seed": 3}
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("layout", ["messages", "prompt-completion"])
def test_every_sample_of_the_stream_is_there(config, tmp_path, layout):
    path = export(config, tmp_path / "out", 24, layout)
    stream = ClozeStream(config.shards, config.clozes, config.seed, length=24)
    groups = [stream.group(number) for number in range(24)]
    samples = [sample for group in groups for sample in group.samples]
    found = lines(path)
    assert len(found) == len(samples) > 60
    assert [line["weight"] for line in found] == [weight for group in groups for weight in group.weights]
    for line, sample, pictures in zip(found, samples, draw(samples), strict=True):
        if layout == "messages":
            *prompt, answer = line["messages"]
        else:
            prompt, [answer] = line["prompt"], line["completion"]
        assert answer == {"role": "assistant", "content": [{"type": "text", "text": sample.answer}]}
        assert [message["role"] for message in prompt] == ["system", "user"]
        *images, question = prompt[1]["content"]
        assert question == {"type": "text", "text": sample.question}
        assert images == [{"type": "image"}] * len(pictures)
        assert (line["world"], line["cloze"]) == (sample.window.world, sample.name)
        for name, picture in zip(line["images_file_names"], pictures, strict=True):
            assert np.array_equal(np.asarray(Image.open(path.parent / name)), picture.pixels)
    policy = [number for number, group in enumerate(groups) if "policy" in {s.name for s in group.samples}]
    assert policy
    assert min(policy) >= 12, "schedules do not run over the export"


def test_the_folder_has_a_card_and_is_replaced_whole(config, tmp_path):
    out = tmp_path / "out"
    export(config, out, 4, "messages")
    first = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    card = (out / "README.md").read_text()
    assert card.startswith("---\n")
    assert "license: apache-2.0" in card
    assert "`next_observation`" in card
    with pytest.raises(OutputError, match="add --overwrite"):
        export(config, out, 4, "messages")
    export(config, out, 4, "messages", overwrite=True)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match=r"no train/metadata\.jsonl"):
        export(config, tmp_path / "mine", 4, "messages")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["messages", "prompt-completion"])
def test_trl_reads_them_with_its_own_collator(config, tmp_path, layout):
    """Labels of prompt and completion are exactly the tokens that our own training supervises."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("trl")
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from vagen.config import Tiny
    from vagen.policy import tiny
    from vagen.policy.chat import Chat
    from vagen.policy.policy import ClozeFormat, Policy

    path = export(config, tmp_path / "out", 12, layout)
    dataset = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    written = lines(path)
    assert len(dataset) == len(written)
    for row, line in zip(dataset, written, strict=True):
        for image, name in zip(row["images"], line["images_file_names"], strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(path.parent / name)))

    stream = ClozeStream(config.shards, config.clozes, config.seed, length=12)
    samples = [sample for number in range(12) for sample in stream.group(number).samples]
    small = Tiny(hidden_size=32, layers=2, head_size=16, vision_hidden_size=32, vision_layers=1, image_size=48)
    model, processor = tiny.build(small, list(stream.worlds), 0)
    chat = Chat(Policy("small", model, processor, ClozeFormat("grid", True, stream.worlds, tuple(WEIGHTS))))
    collate = DataCollatorForVisionLanguageModeling(
        processor, max_length=None, completion_only_loss=layout == "prompt-completion"
    )
    seen = [number for number, row in enumerate(dataset) if row["images"] and row["images"][0].size == (48, 48)]
    assert len(seen) > 10
    for number in seen[:30]:
        batch = collate([dataset[number]])
        [sample], [pictures] = [samples[number]], draw([samples[number]])
        encoded = chat.encode(sample, pictures)
        assert batch["pixel_values"].shape[1] == len(pictures)
        labels = batch["labels"][0]
        supervised = labels[labels != -100].tolist()
        ids = batch["input_ids"][0].tolist()
        if layout == "prompt-completion":
            assert supervised[: len(encoded.answer)] == encoded.answer.tolist()
            assert ids[: len(encoded.prompt.ids)] == encoded.prompt.ids.tolist()
        assert sample.answer in processor.tokenizer.decode(supervised)
        loss = model(**batch).loss
        assert loss.isfinite()

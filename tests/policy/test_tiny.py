"""The tiny policies: the same for a seed everywhere, and plain folders that stock transformers loads."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.config import Tiny
from vagen.policy import tiny
from vagen.policy.batches import draw
from vagen.policy.chat import Chat, Picture
from vagen.policy.generate import generate
from vagen.policy.policy import ClozeFormat, ModelError, Policy, load

ROOT = Path(__file__).parents[2]
ALL = ("idefics3", "llava", "qwen2_5_vl", "qwen3_vl")
WORLDS = ("sokoban-6x6", "minigrid-rooms-6x6")
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}


def digest(model, processor) -> str:
    """Of every weight and of the tokenizer."""
    seen = hashlib.blake2b(processor.tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in model.state_dict().items():
        seen.update(name.encode() + tensor.numpy().tobytes())
    return seen.hexdigest()


def build_small(architecture: str, seed: int = 0):
    return tiny.build(Tiny(architecture=architecture, **SMALL), WORLDS, seed)


DIGESTS = """
import json, sys
sys.path[:0] = [{root!r}, {here!r}]
import test_tiny
print(json.dumps({{a: test_tiny.digest(*test_tiny.build_small(a)) for a in test_tiny.ALL}}))
"""


def test_the_same_seed_is_the_same_model_in_every_process():
    here = {a: digest(*build_small(a)) for a in ALL}
    script = DIGESTS.format(root=str(ROOT), here=str(Path(__file__).parent))
    for hash_seed in ("1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        there = json.loads(done.stdout.splitlines()[-1])
        assert there == here, f"another model with PYTHONHASHSEED={hash_seed}"


def test_the_seed_decides_and_nothing_else(architecture):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = digest(*build_small(architecture, 3))
    assert torch.equal(torch.get_rng_state(), before), "building a model moves the global generator"
    torch.manual_seed(2)
    assert digest(*build_small(architecture, 3)) == first, "the global generator decides about weights"
    assert digest(*build_small(architecture, 4)) != first, "the seed does not matter"


def test_image_sizes_that_do_not_divide_are_refused(architecture):
    with pytest.raises(ValueError, match="multiple"):
        tiny.build(Tiny(architecture=architecture, image_size=50, **SMALL), WORLDS, 0)


@pytest.mark.parametrize("numbered", [False, True])
def test_images_are_numbered_as_questions_name_them(architecture, numbered):
    """The number before an image is the very token of "image 2", so that attention can find it."""
    model, processor = tiny.build(Tiny(architecture=architecture, number_images=numbered, **SMALL), WORLDS, 0)
    chat = Chat(Policy("tiny", model, processor, ClozeFormat()))
    pictures = [Picture.of(np.full((48, 48, 3), value, np.uint8)) for value in (10, 200)]
    prompt = chat.ask("What does image 2 show?", pictures)
    one, two = (processor.tokenizer.convert_tokens_to_ids(f"Ġ{number}") for number in (1, 2))
    assert np.count_nonzero(prompt.ids == two) == 1 + numbered
    assert np.count_nonzero(prompt.ids == one) == numbered
    if numbered:
        before = [int(np.flatnonzero(prompt.ids == number)[0]) for number in (one, two)]
        first = [int(np.flatnonzero(prompt.image_of == image)[0]) for image in (0, 1)]
        assert before[0] < first[0] < before[1] < first[1]


# -------------------------------------------------------------------------------------------------- loading without us

STOCK = """
import importlib.abc, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vagen", "worlds"):
            raise ModuleNotFoundError(f"{name} is not to be had here")

sys.meta_path.insert(0, Refuse())
for name in ("vagen", "worlds"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} could be imported: the test proves nothing")

import numpy, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig

folder, = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
generation = GenerationConfig.from_pretrained(folder)
answers = []
for question in json.load(open(folder + "/questions.json")):
    images = [Image.fromarray(numpy.array(pixels, dtype=numpy.uint8)) for pixels in question["images"]]
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question["text"]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[images] if images else None, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answers.append(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip())
print(json.dumps({"answers": answers, "eos": generation.eos_token_id, "sample": bool(generation.do_sample),
                  "class": type(model).__name__}))
"""

# Where torchvision is missing, stock AutoProcessor refuses Qwen's: our image-only processor reads the folder then.
STOCK_MODEL_OURS_PROCESSOR = STOCK.replace(
    "processor = AutoProcessor.from_pretrained(folder)",
    """import transformers
Stock = getattr(transformers, json.load(open(folder + "/processor_config.json"))["processor_class"])
class ImageOnly(Stock):
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)
processor = ImageOnly.from_pretrained(folder)""",
)


def run_stock(script: str, folder: Path) -> dict:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"stock transformers cannot use the folder:\n{done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_a_saved_policy_loads_and_answers_alike_without_this_package(architecture, windows, tmp_path):
    model, processor = build_small(architecture)
    policy = Policy("small", model.eval(), processor, ClozeFormat("grid", False, WORLDS, ("policy",)))
    policy.save(tmp_path)
    names = ["state_estimation", "inverse_dynamics", "text_forward_dynamics", "policy"]
    samples = [build(n, named(n), window, "grid") for n in names for window in windows["sokoban-6x6"][:2]]
    pictures = draw(samples)
    questions = [
        {"text": sample.question, "images": [picture.pixels.tolist() for picture in shown]}
        for sample, shown in zip(samples, pictures, strict=True)
    ]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    # What the model says here, through our code; the image token is suppressed here and must not be wanted there.
    chat = Chat(policy)
    ours = generate(chat, [(chat.prompt(s, p), p) for s, p in zip(samples, pictures, strict=True)], 8)
    assert len(set(ours)) > 1, "the model says the same to everything: nothing is tested"
    stock = run_stock(STOCK_MODEL_OURS_PROCESSOR if architecture.startswith("qwen") else STOCK, tmp_path)
    assert stock["answers"] == ours, "stock transformers answers differently"
    assert stock["eos"] == chat.tokenizer.eos_token_id, "generation_config.json does not say where answers end"
    assert stock["sample"] is False
    again = load(str(tmp_path))
    assert again.format == policy.format, "the cloze format is lost"
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), f"{name} changed on the way to disk"
    reloaded = Chat(again)
    assert generate(reloaded, [(reloaded.prompt(s, p), p) for s, p in zip(samples, pictures, strict=True)], 8) == ours


def test_weights_are_saved_as_safetensors_only(architecture, tmp_path):
    model, processor = build_small(architecture)
    Policy("small", model, processor, ClozeFormat()).save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "cloze_format.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))], names
    assert not [name for name in names if name.endswith(".py")], "a folder that needs code to load"


# ---------------------------------------------------------------------------------------------------- loading, refused


@pytest.fixture
def saved(tmp_path) -> Path:
    model, processor = build_small("idefics3")
    Policy("small", model, processor, ClozeFormat("grid", False, WORLDS, ("policy",))).save(tmp_path / "model")
    return tmp_path / "model"


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _garble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weights": torch.zeros(2)}, folder / "pytorch_model.bin")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{nonsense")


def _text_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _bad_format(folder: Path) -> None:
    (folder / "cloze_format.json").write_text('{"representation": "grid", "worlds": 3}')


def _unknown_representation(folder: Path) -> None:
    value = json.loads((folder / "cloze_format.json").read_text())
    (folder / "cloze_format.json").write_text(json.dumps({**value, "representation": "morse"}))


def _other_shape(folder: Path) -> None:
    """Weights that do not fit the configuration."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))


def _missing_weights(folder: Path) -> None:
    """A weight of the model is not in the file: transformers would draw it at random and only warn."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("q_proj.weight")))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGES = [
    _truncate,
    _garble,
    _pickle_only,
    _no_config,
    _bad_config,
    _text_model,
    _no_tokenizer,
    _bad_format,
    _unknown_representation,
    _other_shape,
    _missing_weights,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_damaged_model_folders_are_refused_in_one_line(saved, damage):
    damage(saved)
    with pytest.raises(ModelError) as refused:
        load(str(saved))
    message = str(refused.value)
    assert "\n" not in message
    assert str(saved) in message, f"the message does not say which folder: {message}"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "outputs/nowhere"])
def test_missing_model_folders_are_refused(path):
    with pytest.raises(ModelError, match="nowhere"):
        load(path)

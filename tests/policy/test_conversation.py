"""Free questions about images of any sizes become what transformers' own processor makes of them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from vagen.policy.chat import Picture
from vagen.policy.generate import generate
from vagen.policy.policy import ModelError

SIZES = [(20, 90), (48, 48), (90, 20), (48, 48), (33, 61)]  # height, width


@pytest.fixture
def pictures() -> list[Picture]:
    generator = np.random.default_rng(0)
    return [Picture.of(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def stock(chat, question: str, shown: list[Picture]) -> dict[str, torch.Tensor]:
    """What the stock processor makes of the same conversation."""
    content = [{"type": "image"}] * len(shown) + [{"type": "text", "text": question}]
    processor = chat.policy.processor
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    images = [[Image.fromarray(picture.pixels) for picture in shown]] if shown else None
    made = processor(text=[text], images=images, return_tensors="pt", return_mm_token_type_ids=True)
    if not hasattr(chat.policy.model.model, "get_rope_index"):
        made.pop("mm_token_type_ids", None)
    dtype = chat.policy.model.dtype
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in made.items()}


@pytest.mark.parametrize("number", range(len(SIZES) + 1))
def test_prompts_are_what_the_stock_processor_makes(architecture, make_chat, pictures, number):
    chat, shown = make_chat(architecture), pictures[:number]
    prompt, made = chat.ask("What is behind me? A. Cup", shown), stock(chat, "What is behind me? A. Cup", shown)
    assert prompt.ids.tolist() == made["input_ids"][0].tolist()
    for name, tensor in chat.image_tensors(shown).items():
        torch.testing.assert_close(tensor.to(made[name].dtype), made[name], rtol=0, atol=0, msg=f"{name} differs")


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 3], [0, 0, 2], [2]])
def test_every_placeholder_stands_for_its_image(architecture, make_chat, pictures, order):
    """Counted image by image, each in a conversation of its own."""
    chat = make_chat(architecture)
    shown = [pictures[index] for index in order]
    prompt = chat.ask("?", shown)
    alone = [int((stock(chat, "?", [picture])["input_ids"] == chat.image_token).sum()) for picture in shown]
    placeholders = prompt.image_of[prompt.ids == chat.image_token]
    assert placeholders.tolist() == [number for number, count in enumerate(alone) for _ in range(count)]
    assert (prompt.image_of[prompt.ids != chat.image_token] == -1).all()
    if architecture == "qwen3_vl" and order == [0, 1, 2, 3, 4]:
        assert len(set(alone)) > 1, "the sizes are too like to say anything"


def test_answers_are_those_of_the_stock_model(architecture, make_chat, pictures):
    """Several conversations of different numbers and sizes of images in one batch, against one at a time."""
    chat = make_chat(architecture)
    asked = [("What?", pictures[:1]), ("Where is it now?", pictures), ("And this one?", pictures[2:4]), ("So?", [])]
    if architecture == "idefics3":
        asked = asked[:3]  # stock Idefics3 wants an image in every conversation of a batch
    answers = generate(chat, [(chat.ask(question, shown), shown) for question, shown in asked], 12, batch=4)
    for (question, shown), answer in zip(asked, answers, strict=True):
        made = stock(chat, question, shown)
        with torch.inference_mode():
            output = chat.policy.model.generate(
                **made,
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=sorted(chat.end_tokens),
                suppress_tokens=list(chat.banned),
            )
        assert answer == chat.decode(output[0, made["input_ids"].shape[1] :].tolist()), question
    assert len(set(answers)) > 1


def test_a_question_that_writes_a_placeholder_is_refused(architecture, make_chat, pictures):
    chat = make_chat(architecture)
    token = chat.tokenizer.convert_ids_to_tokens(chat.image_token)
    for shown in ([], pictures[:2]):
        with pytest.raises(ModelError, match=f"a question contains '{re.escape(token)}'"):
            chat.ask(f"What is {token}?", shown)

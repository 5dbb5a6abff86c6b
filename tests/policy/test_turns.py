"""Conversations of several turns: joined from tokens, they are what the stock processor makes of the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vagen.policy.chat import Chat, Picture, join
from vagen.policy.policy import ModelError

ANSWERS = ["<answer>up</answer>", "hm, left", "<think>a b</think>\n<answer>down, up</answer>"]
WITHOUT_MARKS = (  # as LLaVA 1.5's
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def pictures(number: int, sizes=((48, 48),)) -> list[Picture]:
    generator = np.random.default_rng(number)
    return [Picture.of(generator.integers(0, 256, (*sizes[n % len(sizes)], 3), np.uint8)) for n in range(number)]


def messages(turns: int, system: str, answers: int) -> list[dict]:
    told = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    for turn in range(turns):
        content = [{"type": "image"}, {"type": "text", "text": f"turn {turn}"}]
        told.append({"role": "user", "content": content})
        if turn < answers:
            told.append({"role": "assistant", "content": [{"type": "text", "text": ANSWERS[turn]}]})
    return told


def joined(chat: Chat, shown: list[Picture], system: str, ended: bool = True):
    prompt = chat.opening(system, "turn 0", shown[:1])
    for turn, picture in enumerate(shown[1:]):
        response = chat.answer_tokens(ANSWERS[turn])
        follow_up = chat.follow_up(f"turn {turn + 1}", [picture])
        prompt = join(prompt, response if ended else response[:-1], follow_up, ended)
    return prompt


@pytest.mark.parametrize("system", ["", "Reach the goal."])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut"])
def test_joined_turns_are_the_stock_conversation(architecture, make_chat, system, ended):
    """Tokens and positions, whether the model wrote the end of its turn or was cut before it."""
    chat, shown = make_chat(architecture), pictures(4, ((48, 48), (48, 48), (48, 48)))
    prompt = joined(chat, shown, system, ended)
    processor = chat.policy.processor
    text = processor.apply_chat_template(messages(4, system, 3), tokenize=False, add_generation_prompt=True)
    images = [[Image.fromarray(picture.pixels) for picture in shown]]
    made = processor(text=[text], images=images, return_tensors="pt", return_mm_token_type_ids=True)
    assert prompt.ids.tolist() == made["input_ids"][0].tolist()
    assert prompt.image_of[prompt.ids == chat.image_token].tolist() == [n for n in range(4) for _ in range(36)]
    assert (prompt.image_of[prompt.ids != chat.image_token] == -1).all()
    base = chat.policy.model.model
    if hasattr(base, "get_rope_index"):
        grid = chat.image_tensors(shown)["image_grid_thw"]
        wanted = base.get_rope_index(made["input_ids"], made["mm_token_type_ids"].int(), grid)[0][:, 0]
    else:
        wanted = torch.arange(len(prompt.ids))[None]
    assert prompt.positions.tolist() == wanted.tolist()


def test_images_of_several_sizes_keep_their_positions(make_chat):
    chat, shown = make_chat("qwen2_5_vl"), pictures(4, ((48, 48), (96, 48), (24, 72)))
    prompt = joined(chat, shown, "")
    grid = chat.image_tensors(shown)["image_grid_thw"]
    types = torch.from_numpy((prompt.image_of >= 0).astype(np.int32))[None]
    wanted, _ = chat.policy.model.model.get_rope_index(torch.from_numpy(prompt.ids)[None], types, grid)
    assert len({tuple(size) for size in grid.tolist()}) > 1, "the sizes are too like to say anything"
    assert prompt.positions.tolist() == wanted[:, 0].tolist()


def test_templates_that_mark_no_end_get_the_tokenizers(make_chat):
    chat = make_chat("llava")
    processor = chat.policy.processor
    copy = type(processor)(
        processor.image_processor,
        processor.tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        num_additional_image_tokens=processor.num_additional_image_tokens,
        chat_template=WITHOUT_MARKS,
    )
    chat = Chat(replace(chat.policy, processor=copy))
    follow_up = chat.follow_up("next", pictures(1))
    assert follow_up.ids[0] == chat.tokenizer.eos_token_id == chat.answer_tokens("up")[-1]
    text = chat.tokenizer.decode(follow_up.ids[1:], skip_special_tokens=False)
    assert text == "USER: " + "<image>" * 36 + "\nnext ASSISTANT:"


@given(tokens=st.lists(st.integers(0, 200), max_size=12), ended=st.booleans())
def test_what_was_written_stays_as_it_is(make_chat, tokens, ended):
    """Whatever tokens were sampled, in whatever order, the next prompt holds them."""
    chat = make_chat("qwen3_vl")
    first, follow_up = chat.opening("", "?", pictures(1)), chat.follow_up("", pictures(1))
    written = np.array([*tokens, chat.tokenizer.eos_token_id] if ended else tokens, dtype=np.int64)
    prompt = join(first, written, follow_up, ended)
    rest = follow_up.ids[1:] if ended else follow_up.ids
    assert prompt.ids.tolist() == [*first.ids.tolist(), *written.tolist(), *rest.tolist()]
    text = prompt.positions[:, prompt.image_of < 0]
    steps = np.diff(text[0])
    assert (text == text[0]).all(), "text has one position on all axes"
    assert set(steps.tolist()) <= {1, 7}, "positions do not go on by one, or past an image of 6 x 6"


def test_what_stands_for_images_may_not_be_written(architecture, make_chat):
    banned = make_chat(architecture).banned
    words = make_chat(architecture).tokenizer.convert_ids_to_tokens(list(banned))
    qwen = {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    assert (
        set(words)
        == {
            "idefics3": {"<image>", "<fake_token_around_image>", "<global-img>"},
            "llava": {"<image>"},
            "qwen2_5_vl": qwen,
            "qwen3_vl": qwen,
        }[architecture]
    )


def test_texts_that_stand_for_images_are_refused(architecture, make_chat):
    chat = make_chat(architecture)
    image = chat.tokenizer.convert_ids_to_tokens(chat.image_token)
    for ask in (
        lambda: chat.opening("", f"a {image}", []),
        lambda: chat.opening(image, "", []),
        lambda: chat.follow_up(image, []),
    ):
        with pytest.raises(ModelError, match="takes for an image"):
            ask()


def test_transcripts_hide_nothing_but_the_end(make_chat):
    chat = make_chat("idefics3")
    end = chat.tokenizer.eos_token_id
    word = chat.tokenizer("up")["input_ids"]
    assert chat.transcript([*word, end]) == "up"
    assert chat.transcript(word) == "up"
    assert chat.transcript([*word, end, end]) == "up<end_of_utterance>"
    assert chat.transcript([]) == ""
    assert chat.decode([*word, end, end]) == "up", "answers to clozes are read as ever"

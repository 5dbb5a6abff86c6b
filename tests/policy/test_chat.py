"""Prompts and answers are the tokens that transformers' own processor makes, and nothing else is trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.cloze.build import build
from vagen.cloze.grammar import NAMED, named
from vagen.cloze.scoring import score
from vagen.config import Tiny
from vagen.policy import tiny
from vagen.policy.batches import token_weights
from vagen.policy.chat import Chat
from vagen.policy.packing import pack
from vagen.policy.policy import ModelError
from worlds import make, registered
from worlds.text import REPRESENTATIONS

QUICKSTART = ("minigrid-rooms-6x6", "sokoban-6x6", "frozenlake-6x6")


def all_samples(every_cloze, representations=REPRESENTATIONS):
    return [s for world in QUICKSTART for r in representations for s in every_cloze(world, 0, r)]


def with_template(chat: Chat, change) -> Chat:
    """The same chat, its template rewritten."""
    processor = chat.policy.processor
    copy = type(processor)(
        processor.image_processor,
        processor.tokenizer,
        **({"image_seq_len": processor.image_seq_len} if hasattr(processor, "image_seq_len") else {}),
        chat_template=change(processor.chat_template),
    )
    return Chat(replace(chat.policy, processor=copy))


# ------------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_what_the_stock_processor_makes(architecture, make_chat, every_cloze, with_pictures, stock_inputs):
    for representation in REPRESENTATIONS:
        chat = make_chat(architecture, representation=representation)
        for sample, pictures in with_pictures(all_samples(every_cloze, (representation,))):
            prompt = chat.prompt(sample, pictures)
            stock = stock_inputs(chat, sample, pictures)
            assert prompt.ids.tolist() == stock["input_ids"][0].tolist(), f"{sample.name}: the prompt's tokens differ"
            placeholders = prompt.ids == chat.image_token
            per_image = [int((prompt.image_of == image).sum()) for image in range(len(pictures))]
            assert len(set(per_image)) <= 1
            assert sum(per_image) == placeholders.sum() == int(36 * len(pictures)), "6 x 6 tiles are 36 tokens"
            assert (np.diff(prompt.image_of[placeholders]) >= 0).all(), "images out of order"
            assert (prompt.image_of[~placeholders] == -1).all()


def test_the_processor_reads_images_once_for_all_questions_about_them(
    architecture, make_chat, every_cloze, with_pictures, monkeypatch
):
    """Or, where text has other tokens after an image than alone, every prompt whole."""
    chat = make_chat(architecture)
    if not chat._reads_in_parts:
        pytest.skip(f"the tokenizer of {architecture} reads text after an image otherwise")
    read, texts = chat._read, []
    monkeypatch.setattr(chat, "_read", lambda text, *rest: texts.append(text) or read(text, *rest))
    pairs = [(sample, pictures) for sample, pictures in with_pictures(every_cloze("sokoban-6x6")) if pictures]
    for sample, pictures in pairs:
        chat.prompt(sample, pictures)
    assert len(texts) == len({len(pictures) for _, pictures in pairs}) < len(pairs)


def test_images_reach_the_vision_tower_as_the_stock_processor_sends_them(
    architecture, make_chat, every_cloze, with_pictures, stock_inputs
):
    """And unscaled: the pixels can be read back from what the model gets."""
    chat = make_chat(architecture)
    sample, pictures = next(pair for pair in with_pictures(every_cloze("sokoban-6x6")) if len(pair[1]) == 2)
    ours = chat.image_tensors(pictures)
    stock = stock_inputs(chat, sample, pictures)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.to(stock[name].dtype), stock[name], rtol=0, atol=0, msg=f"{name} differs")
    if architecture in ("idefics3", "llava"):
        images = chat.policy.processor.image_processor
        pixels = ours["pixel_values"].flatten(0, -4)  # (n, 3, H, W)
        seen = (pixels.permute(0, 2, 3, 1) * torch.tensor(images.image_std) + torch.tensor(images.image_mean)) * 255
        for image, picture in zip(seen, pictures, strict=True):
            assert image.shape == (48, 48, 3), "the image was resized"
            assert np.array_equal(image.round().numpy().astype(np.uint8), picture.pixels), "the pixels changed"
    else:
        assert ours["image_grid_thw"].tolist() == [[1, 6, 6]] * 2, "the image was resized"
    assert chat.image_tensors([]) == {}


def test_explain_adds_the_rules_as_a_system_message_and_changes_nothing_else(
    architecture, make_chat, every_cloze, with_pictures, stock_inputs
):
    plain, explained = make_chat(architecture), make_chat(architecture, explain=True)
    for sample, pictures in with_pictures(all_samples(every_cloze, ("grid",))):
        messages = explained.messages(sample)
        assert [m["role"] for m in messages] == ["system", "user"]
        assert messages[1:] == plain.messages(sample), "the question changed"
        system = messages[0]["content"][0]["text"]
        assert sample.world.rules in system
        assert all(action in system for action in sample.world.actions), "an action is not explained"
        prompt = explained.prompt(sample, pictures).ids.tolist()
        assert prompt == stock_inputs(explained, sample, pictures, system)["input_ids"][0].tolist()
        assert prompt[-len(plain.prompt(sample, pictures).ids) :] == plain.prompt(sample, pictures).ids.tolist()
        assert np.array_equal(explained.answer_tokens(sample.answer), plain.answer_tokens(sample.answer))


@pytest.mark.parametrize("explain", [False, True])
def test_prompts_from_the_cache_are_those_made_afresh(architecture, make_chat, every_cloze, with_pictures, explain):
    """One chat asked everything in turn, against a new chat for every prompt."""
    chat = make_chat(architecture, explain=explain)
    pairs = with_pictures(all_samples(every_cloze, ("grid",)))
    for _ in range(2):
        for sample, pictures in pairs:
            kept, fresh = chat.prompt(sample, pictures), make_chat(architecture, explain=explain)
            new = fresh.prompt(sample, pictures)
            what = f"{sample.name} in {sample.window.world}"
            assert np.array_equal(kept.ids, new.ids), f"{what}: another prompt came from the cache"
            assert np.array_equal(kept.positions, new.positions), what
            assert np.array_equal(kept.image_of, new.image_of), what


@pytest.mark.parametrize("explain", [False, True])
def test_prompts_read_ahead_are_those_read_one_by_one(
    architecture, make_chat, every_cloze, with_pictures, explain, monkeypatch
):
    """Those with images, where text can be read behind them; the others are read when they are wanted."""
    ahead, alone = make_chat(architecture, explain=explain), make_chat(architecture, explain=explain)
    pairs = with_pictures(all_samples(every_cloze, REPRESENTATIONS))
    ahead.read_ahead(pairs)
    asked = [pair for pair in pairs if pair[1] or not ahead._reads_in_parts]
    if ahead._reads_in_parts:
        monkeypatch.setattr(ahead, "_make_prompt", lambda *_: pytest.fail("a prompt was read twice"))
    for sample, pictures in asked:
        one, other = ahead.prompt(sample, pictures), alone.prompt(sample, pictures)
        for name in ("ids", "positions", "image_of", "places", "sizes"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), f"{sample.name}: {name} differ"
    ahead.forget()
    if ahead._reads_in_parts:
        with pytest.raises(pytest.fail.Exception, match="read twice"):
            ahead.prompt(*asked[0])


def test_the_cache_keeps_representations_apart(make_chat, every_cloze, with_pictures):
    """The system message describes the notation, so the same question in another notation is another prompt."""
    chat = make_chat("idefics3", explain=True)
    prompts = {}
    for representation in REPRESENTATIONS:
        sample, pictures = with_pictures(every_cloze("sokoban-6x6", 0, representation)[:1])[0]
        prompts[representation] = tuple(chat.prompt(sample, pictures).ids.tolist())
    assert len(set(prompts.values())) == len(REPRESENTATIONS), "a prompt explains another notation than it wants"


def test_positions_are_those_the_model_counts_itself(
    architecture, make_chat, every_cloze, with_pictures, stock_inputs
):
    chat = make_chat(architecture)
    for sample, pictures in with_pictures(every_cloze("frozenlake-6x6")):
        positions = chat.prompt(sample, pictures).positions
        stock = stock_inputs(chat, sample, pictures)
        length = stock["input_ids"].shape[1]
        if not hasattr(chat.policy.model.model, "get_rope_index"):
            assert positions.tolist() == [list(range(length))]
            continue
        seen = {}
        language_model = chat.policy.model.model.language_model
        hook = language_model.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.update(kwargs), with_kwargs=True
        )
        chat.policy.model(**stock)
        hook.remove()
        own = seen["position_ids"]  # without images the model counts from 0 and hands over nothing
        expected = torch.arange(length).expand(3, -1) if own is None else own[-3:, 0]
        assert positions.tolist() == expected.tolist(), f"{sample.name}: rotary positions differ"


# ------------------------------------------------------------------------------------------------------------- answers


def test_supervised_tokens_are_the_answer_and_the_end_of_its_turn(
    architecture, make_chat, every_cloze, with_pictures, stock_inputs
):
    for representation in REPRESENTATIONS:
        chat = make_chat(architecture, representation=representation)
        for sample, pictures in with_pictures(all_samples(every_cloze, (representation,))):
            whole = stock_inputs(chat, sample, pictures, answer=sample.answer)["input_ids"][0].tolist()
            encoded = chat.encode(sample, pictures)
            assert encoded.prompt.ids.tolist() + encoded.answer.tolist() == whole, f"{sample.name}: not the stock turn"
            *words, end = encoded.answer.tolist()
            assert end == chat.tokenizer.eos_token_id
            assert not set(words) & set(chat.tokenizer.all_special_ids), f"{sample.name}: a special token is trained"
            row = pack([encoded])
            assert row.targets.tolist() == [*words, end], "something else than the answer is trained"
            assert row.sources.tolist() == list(range(len(encoded.prompt.ids) - 1, len(whole) - 1))


def test_answers_read_back_as_the_right_answer(architecture, make_chat, every_cloze):
    """For every named cloze, world and representation; and the scorer accepts what comes back."""
    chat = make_chat(architecture)
    samples = all_samples(every_cloze)
    assert {sample.name for sample in samples} == set(NAMED)
    for sample in samples:
        ids = chat.answer_tokens(sample.answer).tolist()
        assert chat.decode(ids) == sample.answer, f"{sample.name} ({sample.representation}) reads back differently"
        assert chat.decode([*ids, *ids]) == sample.answer, "text after the end of the turn was kept"
        assert score(sample, chat.decode(ids)).correct, f"{sample.name} ({sample.representation}): right is wrong"


def test_text_after_the_end_of_turn_is_not_trained(make_chat, every_cloze):
    """Templates such as Qwen's write a newline after the end of a turn."""
    chat = make_chat("idefics3")
    newline = with_template(chat, lambda t: t.replace("<end_of_utterance>", "<end_of_utterance>\n"))
    for sample in every_cloze("sokoban-6x6"):
        assert np.array_equal(newline.answer_tokens(sample.answer), chat.answer_tokens(sample.answer))


def test_an_opening_word_of_the_template_belongs_to_the_prompt(make_chat, every_cloze, with_pictures):
    """Templates such as SmolVLM's open with `Assistant:` and a space before the answer."""
    chat = make_chat("idefics3")
    opening = "{% if message['role'] == 'assistant' %}best{% endif %}"

    def change(template: str) -> str:
        said = template.replace("{% if message['content'] is string", opening + "{% if message['content'] is string")
        return said.replace("%}<|assistant|>{% endif %}", "%}<|assistant|>best{% endif %}")

    spaced = with_template(chat, change)
    sample, pictures = with_pictures(every_cloze("sokoban-6x6")[:1])[0]
    assert chat.tokenizer.decode(spaced.prompt(sample, pictures).ids[-2:]) == "<|assistant|>best"
    assert np.array_equal(spaced.answer_tokens(sample.answer), chat.answer_tokens(sample.answer))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.replace("<|{{ message['role'] }}|>", "{{ messages | length }}"), "rewrites"),
    ],
)
def test_templates_that_cannot_be_trained_are_refused(make_chat, change, complaint):
    chat = with_template(make_chat("idefics3"), change)
    with pytest.raises(ModelError, match=complaint):
        chat.answer_tokens("left")


def test_a_template_without_ends_of_turns_ends_answers_as_the_tokenizer_does(make_chat, every_cloze):
    """Templates such as LLaVA's, which write a space after a turn and no mark."""
    chat = make_chat("idefics3")
    open_ended = with_template(chat, lambda t: t.replace("<end_of_utterance>", " "))
    for sample in every_cloze("sokoban-6x6"):
        assert np.array_equal(open_ended.answer_tokens(sample.answer), chat.answer_tokens(sample.answer))


# ----------------------------------------------------------------------------------------------------------- tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer(tiny.words(QUICKSTART), [], Tiny().vocabulary)


@given(text=st.text())
def test_the_tokenizer_writes_any_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) <= Tiny().vocabulary


@pytest.mark.parametrize("world", registered())
def test_words_of_a_world_are_single_tokens(world):
    """Alone, after a space and at the start of a line; the words come from the world, not from the tokenizer."""
    tokens = tiny.tokenizer(tiny.words([world]), [], Tiny().vocabulary)
    schema = make(world).schema
    words = {
        *(word for action in make(world).actions for word in action.split()),
        *schema.glyphs.values(),
        *schema.kinds,
        *"0123456789",
        "state",
        "action",
        "best",
    }
    words |= {word for details in schema.kinds.values() for detail in details for word in detail.split()}
    for word in sorted(words - {""}):
        for text, count in ((word, 1), (f"0 {word}", 2), (f"0\n{word}", 3)):
            ids = tokens(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == count, f"{world}: {text!r} takes {len(ids)} tokens: {tokens.convert_ids_to_tokens(ids)}"


def test_numbers_are_read_digit_by_digit(tokenizer):
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4


# ------------------------------------------------------------------------------------------------------- token weights


def test_token_weights_by_hand():
    """Token 0 three times, 1 and 2 once, 3 never: frequencies to the power -1/2, scaled to a mean of 1 per token."""
    answers = [np.array([0, 1, 0]), np.array([0, 2])]
    scale = 5 / (3**0.5 + 2)  # five tokens that would weigh 3 / sqrt(3) + 1 + 1 together
    expected = np.array([3**-0.5, 1.0, 1.0, 1.0]) * scale
    np.testing.assert_allclose(token_weights(answers, 4, 0.5), expected, rtol=1e-12)


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_token_weights_average_to_one_over_answer_tokens(balance):
    answers = [np.array([5, 5, 5, 5, 2]), np.array([2, 7])]
    weights = token_weights(answers, 9, balance)
    assert np.isclose(np.mean([weights[token] for answer in answers for token in answer]), 1)
    if balance == 0:
        assert np.allclose(weights, 1), "without balance every token weighs the same"
    if balance == 1:
        assert np.isclose(4 * weights[5], 2 * weights[2])
        assert np.isclose(weights[7], 2 * weights[2]), "with balance 1 every kind of token weighs the same in total"
    assert weights[0] == weights[7], "a token never seen counts as one seen once"


def test_build_gives_one_prompt_to_one_question(make_chat, windows, with_pictures):
    """Two windows, one question: the cache must not mix their images up (they are not part of a prompt)."""
    chat = make_chat("idefics3")
    samples = [build("state_estimation", named("state_estimation"), w, "grid") for w in windows["sokoban-6x6"]]
    encoded = [chat.encode(sample, pictures) for sample, pictures in with_pictures(samples)]
    assert len({id(e.prompt) for e in encoded}) == 1, "the cache missed"
    assert len({e.pictures[0].digest for e in encoded}) == len(samples), "images are mixed up"

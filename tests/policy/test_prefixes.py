"""Prompts that share what they begin with are answered as `transformers` answers each of them alone."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.policy import generate as generating
from vagen.policy import prefixes
from vagen.policy.attention import attention_of, set_attention
from vagen.policy.chat import Picture, Prompt
from vagen.policy.constrain import Constrainer
from vagen.policy.errors import ModelError
from vagen.policy.generate import generate_plain, generate_scored
from vagen.policy.prefixes import (
    LEAST_SHARED,
    ROW_TOKENS,
    WRITE_TOGETHER,
    CommonRow,
    common_rows,
    side_by_side,
    why_not_shared,
    write_shared,
)

LONGEST = 12


@pytest.fixture
def asked(every_cloze, with_pictures):
    """Clozes about two trajectories, their prompts mixed, with 0 to 5 images each."""
    pairs = with_pictures(every_cloze("sokoban-6x6") + every_cloze("minigrid-rooms-6x6", 1))
    return pairs[::3] + pairs[1::3] + pairs[2::3]


def one_by_one(chat, prompts, limits, automata=None):
    """What `transformers` writes to each prompt alone."""
    return [
        generate_plain(chat, [prompt], [limit], 1, None if automata is None else [automata[number]])[0]
        for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]


def assert_same(found, expected):
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.tokens.tolist() == theirs.tokens.tolist(), f"answer {number} differs"
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5, err_msg=f"answer {number}")


# ------------------------------------------------------------------------------------------------------------- answers


def test_answers_and_log_probabilities_are_those_of_each_prompt_alone(architecture, make_chat, asked, monkeypatch):
    """Each cut at a length of its own, so that rows lose answers at different times."""
    chat = make_chat(architecture, seed=5)
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in asked]
    limits = [1 + 5 * number % LONGEST for number in range(len(prompts))]
    rows = common_rows(prompts)
    assert len(rows) < len(prompts) // 2, "hardly anything is shared: nothing is tested"
    expected = one_by_one(chat, prompts, limits)
    assert {len(answer.tokens) for answer in expected} >= {1, LONGEST}
    assert len({tuple(answer.tokens) for answer in expected}) > 5, "the model says the same to everything"
    fullest = max(len(row.prompts) for row in rows)
    for batch, together in ((len(prompts), WRITE_TOGETHER), (len(prompts), fullest // 2), (5, WRITE_TOGETHER)):
        monkeypatch.setattr(prefixes, "WRITE_TOGETHER", together)
        assert_same(generate_scored(chat, prompts, limits, batch), expected)


def test_constrained_answers_are_those_of_each_prompt_alone(architecture, make_chat, asked):
    chat = make_chat(architecture)
    asked = [pair for pair in asked if len(chat.answer_tokens(pair[0].answer)) < LONGEST]
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in asked]
    constrainer = Constrainer(chat)
    automata = [constrainer.for_sample(sample) for sample, _ in asked]
    expected = one_by_one(chat, prompts, [0] * len(prompts), automata)
    found = generate_scored(chat, prompts, 0, automata=automata)
    assert_same(found, expected)
    assert len({answer.text for answer in found}) > 3
    assert all(answer.tokens[-1] in chat.end_tokens for answer in found), "a constrained answer was cut"


def test_images_of_different_sizes(architecture, make_chat):
    """Free questions about pictures of any size; some begin with the same ones."""
    chat = make_chat(architecture)
    rng = np.random.default_rng(0)
    wide, high, square = (
        Picture.of(rng.integers(256, size=(*size, 3), dtype=np.uint8)) for size in ((48, 96), (96, 48), (48, 48))
    )
    shown = [[wide, high], [wide, square], [wide], [high, wide], [square, high], [square], [square, square], []]
    prompts = [
        (chat.ask(question, pictures), pictures)
        for pictures in shown
        for question in ("where is the box?", "where?", "how many steps are there from here to the target?")
    ]
    limits = [LONGEST] * len(prompts)
    assert_same(generate_scored(chat, prompts, limits), one_by_one(chat, prompts, limits))


def test_another_image_changes_only_the_answers_about_it(architecture, make_chat, every_cloze, with_pictures):
    """Its placeholders have the same ids and stand in the same row."""
    chat = make_chat(architecture)
    pairs = with_pictures([sample for sample in every_cloze("sokoban-6x6") if len(sample.images) > 1])
    first = [pictures[0].digest for _, pictures in pairs]
    pairs = [pair for pair, digest in zip(pairs, first, strict=True) if digest == max(first, key=first.count)]
    assert len(pairs) > 2, "nothing shares its first image"
    [_, second, *_] = pairs[-1][1]
    other = Picture.of(255 - second.pixels)
    swapped = [(s, [other if p.digest == second.digest else p for p in pictures]) for s, pictures in pairs]
    before, after = (
        generate_scored(chat, [(chat.prompt(sample, pictures), pictures) for sample, pictures in some], 6)
        for some in (pairs, swapped)
    )
    changed = [one.log_probs[0] != other.log_probs[0] for one, other in zip(before, after, strict=True)]
    assert changed == [second.digest in [p.digest for p in pictures] for _, pictures in pairs]
    assert len(set(changed)) == 2 or all(changed)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_attention_that_takes_a_mask(make_chat, asked, implementation):
    chat = make_chat("qwen3_vl")
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in asked[:12]]
    limits = [6] * len(prompts)
    expected = one_by_one(chat, prompts, limits)
    before = attention_of(chat.policy.model)
    set_attention(chat.policy.model, implementation)
    try:
        assert_same(generate_scored(chat, prompts, limits), expected)
    finally:
        set_attention(chat.policy.model, before)


def test_the_same_prompt_twice(make_chat, asked):
    chat = make_chat("idefics3")
    (sample, pictures), *_ = asked
    prompts = [(chat.prompt(sample, pictures), pictures)] * 3
    one, *others = generate_scored(chat, prompts, [5, 5, 2])
    assert others[0].tokens.tolist() == one.tokens.tolist()
    assert others[1].tokens.tolist() == one.tokens[:2].tolist()


# ---------------------------------------------------------------------------------------------------------------- work


def test_what_is_shared_goes_through_the_model_once(make_chat, every_cloze, with_pictures):
    """Counted at the models' doors: tokens into the language model, pixels into the vision tower."""
    chat = make_chat("idefics3")
    pairs = with_pictures([sample for sample in every_cloze("sokoban-6x6") if sample.images])
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    base = chat.policy.model.model
    tokens, images = [], []
    hooks = [
        base.text_model.register_forward_pre_hook(
            lambda _, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
        ),
        base.vision_model.register_forward_pre_hook(
            lambda _, args, kwargs: images.append(len(kwargs["pixel_values"])), with_kwargs=True
        ),
    ]
    try:
        generate_scored(chat, prompts, 3)
    finally:
        for hook in hooks:
            hook.remove()
    assert images == [len({picture.digest for _, pictures in pairs for picture in pictures})]
    separate = sum(len(prompt.ids) for prompt, _ in prompts)
    rows, length = tokens[0]
    assert rows * length < 0.8 * separate, "prompts were read one by one"
    assert len(tokens) == 3, "the model was asked more often than once for each further token"
    assert max(count * width for count, width in tokens[1:]) < 4 * len(prompts)


# --------------------------------------------------------------------------------------------------------------- rows


def prompt_of(ids, images=()):
    ids = np.asarray(ids, dtype=np.int64)
    image_of = np.full(len(ids), -1, dtype=np.int64)
    image_of[: len(images)] = range(len(images))
    pictures = [Picture(np.zeros((1, 1, 3), np.uint8), bytes([number])) for number in images]
    return Prompt(ids, np.arange(len(ids))[None], image_of), pictures


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.lists(st.integers(0, 2), max_size=1)),
        max_size=20,
    ),
    st.integers(1, 30),
    st.integers(1, 6),
)
def test_rows_hold_every_prompt_once_and_no_more_than_they_may(drawn, tokens, most):
    prompts = [prompt_of(ids, images) for ids, images in drawn]
    rows = common_rows(prompts, tokens, most)
    assert sorted(index for row in rows for index in row.prompts) == list(range(len(prompts)))
    for row in rows:
        assert len(row.prompts) <= most
        contents = [
            [("image", *images) if images and not place else token for place, token in enumerate(ids)]
            for ids, images in map(drawn.__getitem__, row.prompts)
        ]
        trie = {repr(content[: size + 1]) for content in contents for size in range(len(content))}
        assert len(trie) == row.tokens
        assert len(trie) <= len(contents[0]) + tokens, "a row holds more tokens than it may"
        for one, other in pairwise(contents):
            shared = next(
                (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
            )
            assert shared >= LEAST_SHARED * len(other), "prompts stand together that share too little"


@given(st.lists(st.integers(1, 9), max_size=20))
def test_rows_behind_each_other_are_no_longer_than_the_longest(sizes):
    rows = [CommonRow((number,), size) for number, size in enumerate(sizes)]
    filled = side_by_side(rows)
    assert sorted(row.prompts for some in filled for row in some) == [row.prompts for row in rows]
    lengths = [sum(row.tokens for row in some) for some in filled]
    assert max(lengths, default=0) == max(sizes, default=0)
    assert sum(length * 2 <= max(sizes, default=0) for length in lengths) <= 1, "two would fit where one stands"


def test_rows_are_about_the_same_images():
    """Ids alone do not make prompts alike: another image is another beginning."""
    prompts = [
        prompt_of([9, 9, 9, 9, question], images) for question in (1, 2) for images in ([0, 1, 2, 3], [4, 5, 6, 7])
    ]
    assert sorted(sorted(row.prompts) for row in common_rows(prompts)) == [[0, 2], [1, 3]]


def test_long_prompts_share_too():
    """Images of a large model alone are more tokens than a row takes beside its first prompt."""
    assert len(common_rows([prompt_of([1] * 3 * ROW_TOKENS + [n]) for n in range(WRITE_TOGETHER)])) == 1


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_model_that_cannot_share_is_asked_the_plain_way(make_chat, asked, monkeypatch):
    chat = make_chat("llava")
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in asked[:6]]
    limits = [4] * 6
    shared = generate_scored(chat, prompts, limits)
    forward = type(chat.policy.model.model).forward

    def without_cache(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return forward(self, input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)

    monkeypatch.setattr(type(chat.policy.model.model), "forward", without_cache)
    assert "takes no cache" in (why_not_shared(chat.policy.model) or "")
    with pytest.raises(ModelError, match="takes no cache"):
        write_shared(chat, prompts, [generating.Writing(4) for _ in prompts], 8)
    assert_same(generate_scored(chat, prompts, limits), shared)


def test_models_that_can_share_give_no_reason_not_to(architecture, make_chat):
    assert why_not_shared(make_chat(architecture).policy.model) is None


def test_a_sample_with_another_question_is_another_prompt(make_chat, asked):
    """The cache of one batch never reaches the next."""
    chat = make_chat("idefics3")
    (sample, pictures), *_ = [pair for pair in asked if pair[1]]
    other = replace(sample, question=sample.question + " and then?")
    both = [(chat.prompt(s, pictures), pictures) for s in (sample, other)]
    together = generate_scored(chat, both, 5)
    apart = [generate_scored(chat, [prompt], 5)[0] for prompt in both]
    assert_same(together, apart)
    assert not torch.is_grad_enabled() or all(p.grad is None for p in chat.policy.model.parameters())

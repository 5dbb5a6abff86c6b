"""Batched, left-padded generation answers what transformers' own `generate` answers to one prompt at a time."""

import pytest
import torch

from vagen.policy.chat import Chat
from vagen.policy.generate import generate

NEW_TOKENS = 10


@pytest.fixture
def ragged(every_cloze, with_pictures):
    """Prompts of many lengths with 0 to 5 images each, short and long interleaved."""
    samples = every_cloze("sokoban-6x6") + every_cloze("minigrid-rooms-6x6", 1, "json")
    pairs = with_pictures(samples)
    assert {len(pictures) for _, pictures in pairs} == {0, 1, 2, 4, 5}
    return pairs[::2] + pairs[1::2]


@torch.inference_mode()
def stock_answer(chat: Chat, stock_inputs, sample, pictures, system=None) -> list[int]:
    """New tokens of `model.generate` for one prompt, up to the first end token."""
    inputs = stock_inputs(chat, sample, pictures, system)
    start = inputs["input_ids"].shape[1]
    ends = sorted(chat.end_tokens)
    output = chat.policy.model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=chat.tokenizer.pad_token_id,
        suppress_tokens=[chat.image_token],
    )[0, start:].tolist()
    first = next((n for n, token in enumerate(output) if token in ends), len(output))
    return output[:first]


def as_text(chat, ids):
    return chat.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("explain", [False, True])
def test_batches_answer_as_one_prompt_at_a_time(architecture, make_chat, ragged, stock_inputs, explain):
    chat = make_chat(architecture, explain=explain)
    systems = [chat.messages(s)[0]["content"][0]["text"] if explain else None for s, _ in ragged]
    expected = [
        as_text(chat, stock_answer(chat, stock_inputs, s, pictures, system))
        for (s, pictures), system in zip(ragged, systems, strict=True)
    ]
    assert len(set(expected)) > 3, "the model says the same to everything: nothing is tested"
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in ragged]
    for batch in (len(prompts), 7):
        done = []
        answers = generate(chat, prompts, NEW_TOKENS, batch, done.append)
        for (sample, _), answer, truth in zip(ragged, answers, expected, strict=True):
            assert answer == truth, f"{sample.name}: in batches of {batch} the answer differs"
        assert sum(done) == len(prompts), "progress does not add up"
        assert max(done) <= batch


def test_answers_stop_at_every_end_token(architecture, make_chat, ragged, stock_inputs):
    """A token the model is fond of becomes a second end token; answers are cut there, each at its own length."""
    chat = make_chat(architecture)
    free = [stock_answer(chat, stock_inputs, *pair) for pair in ragged]
    later = [token for answer in free for token in answer[2:]]
    fond = max(set(later), key=later.count)
    generation = chat.policy.model.generation_config
    before = generation.eos_token_id
    generation.eos_token_id = [before, fond]
    try:
        stopping = Chat(chat.policy)
        assert stopping.end_tokens == {before, fond}
        prompts = [(stopping.prompt(sample, pictures), pictures) for sample, pictures in ragged]
        answers = generate(stopping, prompts, NEW_TOKENS, len(prompts))
    finally:
        generation.eos_token_id = before
    cut = [answer[: answer.index(fond)] if fond in answer else answer for answer in free]
    lengths = {len(answer) for answer in cut}
    assert len(lengths) > 1, "every answer ends at the same place: nothing is tested"
    assert answers == [as_text(chat, answer) for answer in cut]


def test_image_tokens_are_never_generated(architecture, make_chat, ragged):
    """Even by a model that wants nothing else."""
    chat = make_chat(architecture)
    produced = []

    def wants_images(_, __, logits):
        logits = logits.clone()
        logits[..., chat.image_token] += 1e6
        return logits

    class Watching(Chat):
        def decode(self, ids):
            produced.extend(ids)
            return super().decode(ids)

    hook = chat.policy.model.get_output_embeddings().register_forward_hook(wants_images)
    try:
        watching = Watching(chat.policy)
        generate(watching, [(watching.prompt(s, p), p) for s, p in ragged[:4]], NEW_TOKENS, 4)
    finally:
        hook.remove()
    assert produced, "the test watched nothing"
    assert chat.image_token not in produced, "an image token was generated: the next forward would look for an image"


def test_generation_leaves_the_model_as_it_was(make_chat, ragged):
    """In training mode before, in training mode after; and without dropout or gradients in between."""
    chat = make_chat("idefics3")
    model = chat.policy.model
    model.train()
    try:
        modes = []
        hook = model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
        generate(chat, [(chat.prompt(s, p), p) for s, p in ragged[:2]], 2)
        hook.remove()
        assert model.training, "the model was left in evaluation mode"
        assert not any(modes), "answers were generated in training mode"
    finally:
        model.eval()
    assert all(p.grad is None for p in model.parameters())


def test_no_prompts_no_answers(make_chat):
    assert generate(make_chat("idefics3"), [], 5) == []

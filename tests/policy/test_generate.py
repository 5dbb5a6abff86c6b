"""Batched, left-padded generation answers what transformers' own `generate` answers to one prompt at a time."""

import numpy as np
import pytest
import torch

from vagen.policy.chat import Chat, Encoded
from vagen.policy.constrain import Constrainer
from vagen.policy.generate import generate, generate_scored, score_answers, score_choices
from vagen.policy.languages import Choices
from vagen.policy.packing import PackedLoss, collate, distinct_pictures, pack

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
        suppress_tokens=list(chat.banned),
    )[0, start:].tolist()
    first = next((n for n, token in enumerate(output) if token in ends), len(output))
    return output[:first]


def as_text(chat, ids):
    return chat.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("explain", [False, True])
def test_batches_answer_as_one_prompt_at_a_time(architecture, make_chat, ragged, stock_inputs, explain):
    chat = make_chat(architecture, explain=explain, seed=5 if architecture == "qwen2_5_vl" else 0)
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


# --------------------------------------------------------------------------------------------------- log-probabilities


@torch.no_grad()
def forced_log_probs(chat: Chat, prompt, pictures, tokens) -> np.ndarray:
    """Of tokens after one prompt, by a forward pass over prompt and tokens instead of generation."""
    row = pack([Encoded(prompt, tokens, tuple(pictures))])
    images = chat.image_tensors(distinct_pictures([row]))
    batch = collate([row], [np.ones(len(tokens))], [np.zeros(len(tokens), dtype=np.int64)], images, 0)
    return -PackedLoss(chat.policy.model)(batch.to(chat.policy.device, chat.policy.model.dtype)).double().numpy()


def test_log_probabilities_are_those_of_a_forward_pass(architecture, make_chat, ragged):
    """In a left-padded batch of prompts of all lengths, up to the end of each answer; free and constrained."""
    chat = make_chat(architecture)
    asked = ragged[::3]
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in asked]
    only = Constrainer(chat)
    for automata in (None, [only.automaton(Choices((sample.answer, "nothing"))) for sample, _ in asked]):
        answers = generate_scored(chat, prompts, NEW_TOKENS, 16, automata=automata)
        assert [answer.text for answer in answers] == generate(chat, prompts, NEW_TOKENS, 16, automata=automata)
        for (prompt, pictures), answer in zip(prompts, answers, strict=True):
            expected = forced_log_probs(chat, prompt, pictures, answer.tokens)
            np.testing.assert_allclose(answer.log_probs, expected, atol=1e-5)
            assert not set(answer.tokens[:-1].tolist()) & chat.end_tokens, "tokens after the end are kept"
            if automata is not None:
                assert answer.tokens[-1] in chat.end_tokens


def test_answers_are_scored_as_one_sequence_each(architecture, make_chat, ragged, stock_inputs):
    """Sums of the stock forward's log-probabilities, one prompt and one answer at a time."""
    chat = make_chat(architecture)
    asked = ragged[::2]
    answers = [[sample.answer, "left, right", "yes"][: 1 + n % 3] for n, (sample, _) in enumerate(asked)]
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in asked]
    together = score_answers(chat, prompts, answers)
    for number, ((sample, pictures), texts, ours) in enumerate(zip(asked, answers, together, strict=True)):
        assert len(ours) == len(texts)
        for text, log_prob in zip(texts, ours, strict=True):
            length = stock_inputs(chat, sample, pictures)["input_ids"].shape[1]
            inputs = stock_inputs(chat, sample, pictures, answer=text)
            with torch.no_grad():
                chances = chat.policy.model(**inputs).logits[0, length - 1 : -1].log_softmax(-1)
            expected = chances.gather(1, inputs["input_ids"][0, length:, None]).sum().item()
            assert log_prob == pytest.approx(expected, abs=1e-4), f"{sample.name}: {text!r}"
        np.testing.assert_allclose(score_choices(chat, prompts[number], texts), ours, atol=1e-6)


def test_generation_in_half_precision(architecture, make_chat, ragged):
    """Ragged batches of a bf16 model end, and their log-probabilities are near those of the model in float64."""
    chat = make_chat(architecture, seed=7)  # of its own: its weights are rounded
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in ragged[:8]]
    before = chat.policy.model.dtype
    chat.policy.model.to(torch.bfloat16)
    try:
        answers = generate_scored(chat, prompts, NEW_TOKENS)
    finally:
        chat.policy.model.to(before)
    for (prompt, pictures), answer in zip(prompts, answers, strict=True):
        assert 0 < len(answer.tokens) <= NEW_TOKENS
        expected = forced_log_probs(chat, prompt, pictures, answer.tokens)
        assert abs(answer.log_probs.mean() - expected.mean()) < 0.5


def test_a_model_s_own_decoding_habits_are_left_out(make_chat, ragged):
    """Qwen2.5-VL's checkpoints come with a penalty for repetition, which boards of equal cells would suffer from."""
    chat = make_chat("qwen2_5_vl")
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in ragged[:6]]
    plain = generate(chat, prompts, NEW_TOKENS)
    generation = chat.policy.model.generation_config
    generation.repetition_penalty, generation.do_sample, generation.temperature = 2.0, True, 5.0
    try:
        assert generate(chat, prompts, NEW_TOKENS) == plain
    finally:
        generation.repetition_penalty, generation.do_sample, generation.temperature = None, False, None

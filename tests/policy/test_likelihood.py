"""Log-probabilities of whole answers, against the model's stock forward over each answer alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vagen.policy.likelihood import log_probabilities

SAID = ["forward", "turn left", "", "0 1 2", "forward forward"]


def stock_log_probability(chat, stock_inputs, sample, pictures) -> float:
    """Of the tokens of the assistant's turn, from the logits of the stock forward over that sample alone."""
    prompt = stock_inputs(chat, sample, pictures)["input_ids"].shape[1]
    inputs = stock_inputs(chat, sample, pictures, answer=sample.answer)
    with torch.no_grad():
        logits = chat.policy.model(**inputs).logits[0, prompt - 1 : -1]
    said = torch.log_softmax(logits, -1).gather(1, inputs["input_ids"][0, prompt:, None])
    return said.sum().item()


def test_they_are_those_of_the_stock_forward(make_chat, architecture, every_cloze, with_pictures, stock_inputs):
    """Prompts with two images, one and none, answers that begin alike, more prompts than fit one batch."""
    chat = make_chat(architecture)
    samples = [s for s in every_cloze("minigrid-rooms-6x6") if len(s.images) < 3]
    pairs = with_pictures(samples[:6] + [s for s in samples if not s.images][:3])
    assert {len(pictures) for _, pictures in pairs} == {0, 1, 2}
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    answers = [[sample.answer, *(said for said in SAID if said != sample.answer)] for sample, _ in pairs]
    found = log_probabilities(chat, prompts, answers, rows=4)
    for (sample, pictures), said, logs in zip(pairs, answers, found, strict=True):
        for answer, log in zip(said, logs, strict=True):
            expected = stock_log_probability(chat, stock_inputs, replace(sample, answer=answer), pictures)
            assert log == pytest.approx(expected, rel=1e-5), f"{answer!r} to {sample.question!r}"


def test_the_model_is_left_as_it_was(make_chat, every_cloze, with_pictures):
    chat = make_chat("idefics3")
    [(sample, pictures), *_] = with_pictures(every_cloze("sokoban-6x6"))
    chat.policy.model.train()
    [logs] = log_probabilities(chat, [(chat.prompt(sample, pictures), pictures)], [["up", "down"]])
    assert chat.policy.model.training
    chat.policy.model.eval()
    assert logs.shape == (2,)
    assert np.exp(logs).sum() < 1, "probabilities of different answers add up to more than 1"
    assert log_probabilities(chat, [], []) == []

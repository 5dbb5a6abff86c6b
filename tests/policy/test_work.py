"""Operations by formula against those that a forward pass really asks for."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vagen.policy.attention import set_attention
from vagen.policy.work import Cost, Work


def test_operations_are_those_that_torch_counts(architecture, make_chat, every_cloze, with_pictures, stock_inputs):
    """Over whole sequences of several lengths, where every token meets every other and logits are made of all."""
    chat = make_chat(architecture)
    model = chat.policy.model
    cost = Cost.of(model)
    set_attention(model, "eager")  # whose products torch counts
    try:
        for sample, pictures in with_pictures(every_cloze("sokoban-6x6"))[:12:3]:
            inputs = stock_inputs(chat, sample, pictures, answer=sample.answer)
            length = inputs["input_ids"].shape[1]
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(**inputs, use_cache=False)
            images = len(pictures)
            work = Work(length, length**2, length, 36 * images, 36**2 * images)
            # Rotations of positions are products too, of a few numbers each.
            assert cost.operations(work) == pytest.approx(counter.get_total_flops(), rel=0.02), sample.name
    finally:
        set_attention(model, "sdpa")


def test_work_adds_up():
    one, two = Work(1, 2, 3, 4, 5), Work(10, 20, 30, 40, 50)
    assert one + two == Work(11, 22, 33, 44, 55)
    cost = Cost(token=1.0, pair=10.0, target=100.0, placeholder=1000.0, square=10000.0)
    assert cost.operations(one) == 1 + 20 + 300 + 4000 + 50000

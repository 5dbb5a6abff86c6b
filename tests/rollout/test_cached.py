"""The cached engine against stock forward passes and stock generation over whole conversations."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from vagen.policy.errors import ModelError
from vagen.rollout.cached import CachedEngine
from vagen.rollout.engine import respond
from vagen.rollout.prompts import CONTEXTS
from vagen.rollout.rollouts import Settings, rollout
from vagen.rollout.sampling import Sampling

WORLD = "sokoban-6x6"
SEEDS, GROUPS = [3, 3, 4, 5, 5], [0, 0, 1, 2, 2]

in_every_context = pytest.mark.parametrize("context", CONTEXTS)


def settings(context="concat", **changes) -> Settings:
    given = {"strategy": "no_think", "max_turns": 4, "sampling": Sampling(max_tokens=6), **changes}
    return Settings(context=context, window=2, **given)


def played(engine, settings: Settings, seeds=SEEDS, groups=GROUPS) -> list:
    return list(rollout(engine, WORLD, seeds, groups, settings))


def stock_inputs(chat, turn, response: bool) -> dict[str, torch.Tensor]:
    """A turn as transformers would be given it, without positions or cache."""
    written = turn.response if response else turn.response[:0]
    ids = torch.from_numpy(np.concatenate([turn.prompt.ids, written]))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **chat.image_tensors(turn.pictures)}
    if hasattr(chat.policy.model.model, "get_rope_index"):
        inputs["mm_token_type_ids"] = (ids == chat.image_token).int()
    dtype = chat.policy.model.dtype
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


@torch.no_grad()
def fresh_log_probs(chat, turn) -> np.ndarray:
    logits = chat.policy.model(**stock_inputs(chat, turn, True)).logits[0, len(turn.prompt.ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.from_numpy(turn.response)[:, None])[:, 0].numpy()


@in_every_context
def test_log_probabilities_are_those_of_a_fresh_forward_pass(architecture, make_chat, context):
    """Over the whole conversation, by the model's own positions and mask."""
    chat = make_chat(architecture)
    rollouts = played(CachedEngine(chat, 3), settings(context))
    for r in rollouts:
        assert len(r.turns) == 4
        for turn in r.turns:
            np.testing.assert_allclose(turn.log_probs, fresh_log_probs(chat, turn), rtol=0, atol=1e-5)


@in_every_context
def test_greedy_tokens_are_those_of_stock_generation(architecture, make_chat, context):
    chat = make_chat(architecture)
    for r in played(CachedEngine(chat, 2), settings(context, sampling=Sampling(0.0, max_tokens=6)), [7, 8], [0, 1]):
        for turn in r.turns:
            output = chat.policy.model.generate(
                **stock_inputs(chat, turn, False),
                do_sample=False,
                max_new_tokens=6,
                eos_token_id=sorted(chat.end_tokens),
                suppress_tokens=list(chat.banned),
            )
            assert output[0, len(turn.prompt.ids) :].tolist() == turn.response.tolist()


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@in_every_context
def test_an_episode_does_not_depend_on_its_neighbours(make_chat, context, top_p):
    """Nor on how many lanes there are or what was played before."""
    chat = make_chat("qwen2_5_vl", torch.float64)
    how = settings(context, sampling=Sampling(1.0, top_p, 6))
    together = played(CachedEngine(chat, 8), how)
    for lanes in (1, 2, 3):
        for ours, theirs in zip(played(CachedEngine(chat, lanes), how), together, strict=True):
            assert [t.response.tolist() for t in ours.turns] == [t.response.tolist() for t in theirs.turns]
            assert ours.trajectory == theirs.trajectory
    (alone,) = played(CachedEngine(chat, 1), how, [5], [9])
    assert [t.response.tolist() for t in alone.turns] == [t.response.tolist() for t in together[3].turns]


def test_members_of_a_group_begin_alike_and_go_their_own_way(make_chat):
    first, second, other, *_ = played(CachedEngine(make_chat(), 5), settings(sampling=Sampling(2.0, max_tokens=6)))
    assert first.trajectory.snapshots[0] == second.trajectory.snapshots[0] != other.trajectory.snapshots[0]
    assert first.turns[0].prompt.ids.tolist() == second.turns[0].prompt.ids.tolist()
    assert first.turns[0].response.tolist() != second.turns[0].response.tolist()


def test_growing_conversations_are_read_once(architecture, make_chat):
    """Every token and image of an episode goes through the model once; what all begin with, once for all of them."""
    engine = CachedEngine(make_chat(architecture), 3)
    rollouts = played(engine, settings(), [3, 4, 5], [0, 1, 2])
    last = [r.turns[-1].prompt for r in rollouts]
    written = sum(len(turn.response) for r in rollouts for turn in r.turns[:-1])
    unread = sum(len(turn.response) - 1 for r in rollouts for turn in r.turns[:-1])  # was fed while it was written
    begins = [r.turns[0].prompt.ids for r in rollouts]
    shared = next(
        place for place, tokens in enumerate(zip(*begins, strict=True)) if tokens[0] == engine.chat.image_token
    )
    assert engine.tokens_read == sum(len(p.ids) for p in last) - written + (written - unread) - 2 * shared
    assert engine.images_read == 12


def test_other_contexts_read_the_system_message_once(make_chat):
    engine = CachedEngine(make_chat(), 1)
    (only,) = played(engine, settings("no_concat"), [3], [0])
    system = len(engine.chat.opening(*_system_and_question(engine.chat)).ids)
    assert engine.tokens_read < sum(len(turn.prompt.ids) for turn in only.turns) - 2 * system


def _system_and_question(chat):
    from vagen.rollout.prompts import describe_task
    from vagen.rollout.responses import Tags
    from worlds import make

    return describe_task(make(WORLD), "no_think", Tags(), "natural", 1), "", []


def test_images_and_videos_are_never_written(architecture, make_chat):
    """Not even by a model that would write nothing else."""
    chat = make_chat(architecture)
    head = chat.policy.model.get_output_embeddings().weight
    before = head.detach().clone()
    try:
        with torch.no_grad():
            head.mul_(0.01)
            head[list(chat.banned)] = before.sum(0)[None].sign() * 10
        rollouts = played(CachedEngine(chat, 4), settings())
    finally:
        with torch.no_grad():
            head.copy_(before)
    written = {token for r in rollouts for turn in r.turns for token in turn.response.tolist()}
    assert not written & set(chat.banned)


def test_responses_end_where_their_turn_does(make_chat):
    """The end of the turn is sampled and kept; without it, the response is cut."""
    chat = make_chat()
    turns = [turn for r in played(CachedEngine(chat, 5), settings(max_turns=12)) for turn in r.turns]
    for turn in turns:
        ends = [token in chat.end_tokens for token in turn.response.tolist()]
        assert not any(ends[:-1])
        assert ends[-1] != turn.cut
        assert len(turn.response) == len(turn.log_probs) == 6 or ends[-1]
    assert any(turn.cut for turn in turns)


def test_a_session_sees_the_weights_it_opens_with(make_chat):
    chat = make_chat("llava")
    model, engine, how = chat.policy.model, CachedEngine(chat, 2), settings()
    before = played(engine, how)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.neg_()
    try:
        model.train()
        after = played(engine, how)
        assert model.training, "training is switched off and stays so"
        for turn in after[0].turns:
            model.eval()
            np.testing.assert_allclose(turn.log_probs, fresh_log_probs(chat, turn), rtol=0, atol=1e-5)
    finally:
        model.eval()
        with torch.no_grad():
            head.neg_()
    assert before[0].turns[0].response.tolist() != after[0].turns[0].response.tolist()


def test_the_whole_model_is_gathered_for_a_session_and_no_longer(make_chat):
    events = []

    @contextmanager
    def gathered():
        events.append("open")
        try:
            yield
        finally:
            events.append("closed")

    engine = CachedEngine(make_chat(), 2, gathered)
    playing = rollout(engine, WORLD, SEEDS, GROUPS, settings())
    assert events == []
    next(playing)
    assert events == ["open"]
    assert len(list(playing)) == len(SEEDS) - 1
    assert events == ["open", "closed"]
    abandoned = rollout(engine, WORLD, SEEDS, GROUPS, settings())
    next(abandoned)
    abandoned.close()
    assert events == ["open", "closed"] * 2
    assert len(played(engine, settings())) == len(SEEDS), "what was left behind is in the way"


def test_models_that_masks_cannot_be_given_to_are_refused(make_chat, monkeypatch):
    chat = make_chat()
    monkeypatch.setattr(chat.policy.model.config.get_text_config(), "final_logit_softcapping", 30.0, raising=False)
    with pytest.raises(ModelError, match="rescales logits"):
        CachedEngine(chat)


def test_eager_attention_gives_the_same(make_chat):
    chat = make_chat("qwen3_vl")
    how = settings(sampling=Sampling(0.0, max_tokens=6))
    fast = played(CachedEngine(chat, 3), how)
    chat.policy.model.set_attn_implementation("eager")
    try:
        slow = played(CachedEngine(chat, 3), how)
    finally:
        chat.policy.model.set_attn_implementation("sdpa")
    for ours, theirs in zip(fast, slow, strict=True):
        assert [t.response.tolist() for t in ours.turns] == [t.response.tolist() for t in theirs.turns]


@pytest.mark.parametrize("lanes", [1, 3, 9])
def test_single_responses_come_in_the_order_of_their_prompts(make_chat, lanes):
    """Any number of prompts, each with random numbers of its own."""
    chat = make_chat("llava", torch.float64)
    rollouts = played(CachedEngine(chat, 4), settings(), range(5), range(5))
    asked = [(turn.prompt, turn.pictures) for r in rollouts for turn in r.turns[:1]]
    generators = [np.random.default_rng([seed, 0, 2]) for seed in range(5)]
    found = respond(CachedEngine(chat, lanes), asked, generators, settings().sampling)
    for answer, r in zip(found, rollouts, strict=True):
        assert answer.tokens.tolist() == r.turns[0].response.tolist()
        np.testing.assert_allclose(answer.log_probs, r.turns[0].log_probs, atol=1e-9)
    assert respond(CachedEngine(chat, lanes), [], [], settings().sampling) == []

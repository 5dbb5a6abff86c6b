"""Perplexity of true states: against one plain forward pass, a policy that knows nothing, and guessing by hand."""

import math

import numpy as np
import pytest
import torch

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.cloze.sample import Sample
from vagen.config import Model, Rollouts, Tiny
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, create
from vagen.rollout.cached import CachedEngine
from vagen.rollout.rollouts import rollout, settings_of
from vagen.rollout.turns import Rollout
from vagen.train.knowledge import Knowledge
from worlds import Snapshot, make
from worlds.text import write_facts

WORLD = "frozenlake-4x4"
SMALL = {"hidden_size": 32, "layers": 2, "vision_hidden_size": 32, "vision_layers": 1, "image_size": 32}


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(create(Model(tiny=Tiny(**SMALL)), ClozeFormat("grid", False, (WORLD,), ("state_estimation",)), seed=3))


@pytest.fixture(scope="module")
def episodes(chat) -> dict[str, list[Rollout]]:
    """Of two turns each, by strategy."""
    found = {}
    for strategy in ("no_think", "grounding"):
        settings = Rollouts(worlds=(WORLD,), context="concat", strategy=strategy, turns=2, tokens=5)
        found[strategy] = list(rollout(CachedEngine(chat), WORLD, [1, 2], [1, 2], settings_of(chat, settings)))
    return found


def plainly(chat: Chat, ids: np.ndarray, pictures) -> torch.Tensor:
    """(L - 1,) log-probability of each token but the first, by the stock forward pass over the whole sequence."""
    images = chat.image_tensors(list(pictures))
    with torch.no_grad():
        logits = chat.policy.model.eval()(input_ids=torch.from_numpy(ids)[None], **images).logits[0].double()
    return logits[:-1].log_softmax(-1).gather(1, torch.from_numpy(ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("strategy", ["no_think", "grounding"])
def test_it_is_that_of_a_plain_forward_pass(chat, episodes, strategy):
    world = make(WORLD)
    total, tokens = 0.0, 0
    for episode in episodes[strategy]:
        for turn in episode.turns:
            text = write_facts(world.facts(episode.trajectory.snapshots[turn.steps]), world.schema, "grid")
            said = f"<think><observation>{text}" if strategy == "grounding" else text
            answer = chat.answer_tokens(said)[:-1]
            prompt, pictures = turn.prompt, turn.pictures
            if strategy == "no_think":
                pictures = turn.pictures[-1:]
                prompt = chat.prompt(asked(episode.trajectory.snapshots[turn.steps]), pictures)
            opening = len(chat.answer_tokens("<think><observation>")[:-1]) if strategy == "grounding" else 0
            found = plainly(chat, np.concatenate([prompt.ids, answer]), pictures)
            total += float(found[len(prompt.ids) - 1 + opening :].sum())
            tokens += len(answer) - opening
    values = Knowledge(chat, strategy, 8).measure(episodes[strategy])
    assert values["state/perplexity_token"] == pytest.approx(math.exp(-total / tokens), rel=1e-4)
    assert values["state/perplexity_cell"] == pytest.approx(math.exp(-total / (4 * 16)), rel=1e-4)


def asked(snapshot: Snapshot) -> Sample:
    window = Trajectory(WORLD, "train", 0, "", (snapshot, snapshot), (0,), (0.0,))
    return build("state_estimation", named("state_estimation"), window, "grid")


def test_who_knows_nothing_is_as_unsure_as_the_vocabulary_is_large(chat, episodes):
    head = chat.policy.model.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        head.data.zero_()
        values = Knowledge(chat, "grounding", 3).measure(episodes["grounding"])
    finally:
        head.data.copy_(kept)
    assert values["state/perplexity_token"] == pytest.approx(len(head), rel=1e-6)
    assert 1 < values["state/guess_token"] < len(head), "a valid guess knows the notation"


def test_a_guess_chooses_among_the_contents_of_each_cell(chat, episodes):
    values = Knowledge(chat, "no_think", 8).measure(episodes["no_think"])
    contents = len(make(WORLD).schema.contents)
    assert values["state/guess_cell"] == pytest.approx(contents), f"{contents} things can be in a cell"
    assert values["state/guess_token"] > 2, "no choice between tokens"


def test_without_episodes_there_is_nothing_to_know(chat):
    assert Knowledge(chat, "no_think", 8).measure([]) == {}

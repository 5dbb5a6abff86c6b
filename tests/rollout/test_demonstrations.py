"""Other people's episodes as responses with the truth in them: what is trained, token by token."""

from itertools import pairwise

import numpy as np
import pytest

from vagen.cloze.sample import simulator
from vagen.config import Model, Rollouts, Tiny
from vagen.policy.chat import Chat
from vagen.policy.packing import pack
from vagen.policy.policy import ClozeFormat, create
from vagen.rollout.demonstrations import demonstrate, true_response
from vagen.rollout.responses import read_response
from vagen.rollout.rollouts import settings_of
from worlds.text import read_actions, read_facts

WORLD = "frozenlake-4x4"


@pytest.fixture(scope="module")
def chat() -> Chat:
    tiny = Tiny(hidden_size=32, layers=1, vision_hidden_size=32, vision_layers=1, image_size=32)
    return Chat(create(Model(tiny=tiny), ClozeFormat("grid", True, (WORLD,), ()), seed=0))


@pytest.mark.parametrize("context", ["concat", "no_concat"])
def test_every_token_of_the_true_states_is_trained(chat, trajectories, context):
    """The released code of SPA leaves the states out of its loss."""
    settings = Rollouts(worlds=(WORLD,), strategy="grounding_worldmodeling", context=context, turns=3)
    world, episode = simulator(WORLD), max(trajectories[WORLD], key=len)
    turns = demonstrate(chat, episode, settings_of(chat, settings))
    assert len(turns) == min(3, len(episode)) > 1
    row = pack(turns)
    for number, turn in enumerate(turns):
        trained = row.targets[row.sample == number]
        np.testing.assert_array_equal(trained, turn.answer)
        parsed = read_response(chat.decode(trained.tolist()), "grounding_worldmodeling")
        assert parsed is not None, "not a response of the strategy"
        states = [read_facts(text or "", world.schema, "grid") for text in (parsed.observation, parsed.prediction)]
        assert states == [world.facts(snapshot) for snapshot in episode.snapshots[number : number + 2]]
        assert read_actions(parsed.answer, world.actions) == (episode.actions[number],)
        assert trained[-1] in chat.end_tokens
    if context == "concat":
        for before, after in pairwise(turns):
            length = len(before.prompt.ids) + len(before.answer)
            shown = np.concatenate([before.prompt.ids, before.answer])
            np.testing.assert_array_equal(after.prompt.ids[:length], shown, err_msg="a turn was written anew")


def test_a_response_gives_no_reasons(trajectories):
    response = true_response(trajectories[WORLD][0], 0, "json")
    assert response.thought == response.reasoning == ""

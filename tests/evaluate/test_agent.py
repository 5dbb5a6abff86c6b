"""Agents in episodes: counts that can be checked by playing again, and a model that always says one word."""

import json

import numpy as np
import pytest

from vagen.cloze.statistics import wilson
from vagen.config import Tiny
from vagen.evaluate.agent import evaluate
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout import agents
from vagen.rollout.agents import ExpertAgent, ModelAgent, RandomAgent
from worlds import WorldError, make

WORLDS = ("sokoban-6x6", "minigrid-rooms-6x6", "frozenlake-6x6")
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
KEYS = {"world", "agent", "n", "errors", "success", "ci_low", "ci_high", "mean_return", "mean_steps", "example"}


@pytest.fixture(scope="module")
def chat() -> Chat:
    model, processor = tiny.build(Tiny(**SMALL), WORLDS, 0)
    return Chat(Policy("small", model.eval(), processor, ClozeFormat("grid", False, WORLDS, ("policy",))))


def test_the_expert_always_arrives_and_random_hardly_ever():
    result = evaluate([RandomAgent(), ExpertAgent()], WORLDS, 20, 1, "test", 60)
    assert [(row["world"], row["agent"]) for row in result["rows"]] == [
        (world, agent) for world in WORLDS for agent in ("random", "expert")
    ]
    for row in result["rows"]:
        assert row.keys() == KEYS
        successes = round(row["success"] * 20)
        interval = wilson(successes, 20)
        assert (row["success"], row["ci_low"], row["ci_high"]) == (successes / 20, interval.low, interval.high)
        if row["agent"] == "expert":
            assert row["success"] == 1, f"the expert fails in {row['world']}"
        else:
            assert row["success"] < 0.6, f"{row['world']} is too easy to tell agents apart"
    json.dumps(result, allow_nan=False)


def test_examples_replay_to_what_the_row_claims():
    """The shown episode is a real one: its actions lead from its first to its last state."""
    for row in evaluate([ExpertAgent()], WORLDS, 10, 1, "test", 60)["rows"]:
        world = make(row["world"])
        snapshots, actions = row["example"]["snapshots"], row["example"]["actions"]
        assert len(snapshots) == len(actions) + 1
        world.restore(snapshots[0])
        info = {"success": False}
        for action, after in zip(actions, snapshots[1:], strict=True):
            _, _, _, _, info = world.step(np.int64(action))
            assert dict(world.state().snapshot) == after
        assert info["success"], "a successful agent is shown failing"


def test_the_same_seed_is_the_same_result_and_all_agents_start_alike():
    first, again, other = (evaluate([RandomAgent(), ExpertAgent()], WORLDS[:1], 6, s, "test", 20) for s in (1, 1, 2))
    assert first == again
    assert first["rows"] != other["rows"]
    alone = evaluate([ExpertAgent()], WORLDS[:1], 6, 1, "test", 20)
    assert alone["rows"][0] == first["rows"][1], "an agent's result depends on who played before it"


@pytest.mark.parametrize("world", WORLDS)
def test_a_model_that_always_says_one_thing_is_scored_for_it(chat, monkeypatch, world):
    """Success, returns and steps equal those of playing that action by hand on the same episodes."""
    word = make(world).actions[-1]
    monkeypatch.setattr(agents, "generate", lambda chat, prompts, *_: [word] * len(prompts))

    class Stubborn:
        name = "stubborn"

        def act(self, worlds, generators):
            return [world.actions.index(word) for world in worlds]

    model, by_hand = evaluate([ModelAgent(chat), Stubborn()], [world], 10, 1, "test", 8)["rows"]
    assert {**model, "agent": "stubborn"} == by_hand


@pytest.mark.parametrize("answer", ["", "fly", "left, left", "left right"])
def test_an_answer_that_is_no_action_ends_the_episode_without_success(chat, monkeypatch, answer):
    monkeypatch.setattr(agents, "generate", lambda chat, prompts, *_: [answer] * len(prompts))
    (row,) = evaluate([ModelAgent(chat)], WORLDS[:1], 5, 1, "test", 8)["rows"]
    assert (row["success"], row["mean_steps"], row["mean_return"]) == (0, 0, 0)
    json.dumps(row, allow_nan=False)


def test_a_real_model_plays(chat):
    (row,) = evaluate([ModelAgent(chat, batch=3)], WORLDS[1:2], 5, 1, "test", 4)["rows"]
    assert (row["agent"], row["n"]) == ("small", 5)
    assert row["mean_steps"] <= 4


def test_a_model_acts_where_nobody_knows_what_is_best():
    world = "babyai/GoToLocalS6N3-v0"
    assert not make(world).has_solver
    model, processor = tiny.build(Tiny(**SMALL), (world,), 0)
    policy = Policy("small", model.eval(), processor, ClozeFormat("grid", False, (world,), ("state_estimation",)))
    (row,) = evaluate([ModelAgent(Chat(policy))], (world,), 2, 1, "test", 2)["rows"]
    assert row["n"] == 2


def test_episodes_end_at_the_step_limit():
    (row,) = evaluate([RandomAgent()], WORLDS[:1], 10, 1, "test", 3)["rows"]
    assert row["mean_steps"] <= 3


def test_unknown_worlds_are_refused():
    with pytest.raises(WorldError, match="sokoban-6x6"):
        evaluate([RandomAgent()], ["sokoban-6x7"], 2, 1, "test", 5)

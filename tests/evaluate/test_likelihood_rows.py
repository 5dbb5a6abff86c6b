"""Rows about random worlds: the distance of a model's distribution from the true one, beside the accuracy."""

import numpy as np
import pytest

import worlds
import worlds.core
from vagen.cloze.sample import simulator
from vagen.cloze.scoring import chances
from vagen.config import Tiny
from vagen.evaluate import worldmodel
from vagen.evaluate.worldmodel import evaluate, summary
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, Policy
from worlds.core import WorldSpec

SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
CLOZES = ("state_estimation", "forward_dynamics", "text_forward_dynamics")


@pytest.fixture
def chat(monkeypatch):
    """A small model of a slippery lake that is registered for one test."""
    spec = WorldSpec("slippery-4x4", "worlds.frozen_lake:FrozenLake", {"size": 4, "slippery": True})
    monkeypatch.setitem(worlds.core._REGISTRY, "slippery-4x4", spec)
    simulator.cache_clear()
    model, processor = tiny.build(Tiny(**SMALL), ("slippery-4x4",), 0)
    yield Chat(Policy("small", model.eval(), processor, ClozeFormat("grid", False, ("slippery-4x4",), CLOZES)))
    simulator.cache_clear()


def test_rows_of_random_worlds_have_a_likelihood(chat):
    rows = evaluate(chat, ["slippery-4x4", "frozenlake-4x4"], CLOZES, 12, 1)["rows"]
    told = {(row["world"], row["cloze"]) for row in rows if row["likelihood"] is not None}
    assert told == {("slippery-4x4", "forward_dynamics"), ("slippery-4x4", "text_forward_dynamics")}
    for row in rows:
        if row["likelihood"] is not None:
            assert row["likelihood"]["kl"] > 0, "an untrained model cannot know the chances"
            assert 0 <= row["likelihood"]["mass"] < 1
            assert row["ceiling"] < 1
    assert "KL" in summary({"rows": rows})


def said_with(monkeypatch, chat, probabilities) -> dict:
    """The row of a model that gives each outcome ``probabilities(chances)``, in the order of the chances."""
    drawn: list = []
    draw = worldmodel.draw_samples

    def spy(*arguments):
        drawn[:] = draw(*arguments)
        return list(drawn)

    def log_probabilities(chat, prompts, answers):
        true = [chances(sample) for sample in drawn]
        assert [list(texts) for texts in true] == [list(said) for said in answers]
        return [np.log(probabilities(np.array(list(texts.values())))) for texts in true]

    monkeypatch.setattr(worldmodel, "draw_samples", spy)
    monkeypatch.setattr(worldmodel, "log_probabilities", log_probabilities)
    [row] = evaluate(chat, ["slippery-4x4"], ["forward_dynamics"], 16, 1)["rows"]
    return row["likelihood"]


def test_a_model_that_knows_the_chances_is_at_no_distance(monkeypatch, chat):
    found = said_with(monkeypatch, chat, lambda p: 0.5 * p)
    assert found == {"kl": pytest.approx(0, abs=1e-9), "mass": pytest.approx(0.5)}


def test_a_model_that_is_sure_of_one_outcome_is_far_off(monkeypatch, chat):
    sure = said_with(monkeypatch, chat, lambda p: np.where(np.arange(len(p)) == 0, 1 - 1e-3, 1e-3 / len(p)))
    even = said_with(monkeypatch, chat, lambda p: np.full(len(p), 1 / len(p)))
    assert sure["kl"] > 1 > even["kl"] >= 0
    assert even["mass"] == pytest.approx(1)

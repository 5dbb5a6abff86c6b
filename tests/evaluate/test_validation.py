"""Validation while training: what is asked, and that shares of processes add up to the whole."""

from types import SimpleNamespace

import pytest
import torch

from vagen.config import Config, ConfigError
from vagen.evaluate import validation
from vagen.evaluate.validation import Validation

WORLDS = ("sokoban-6x6", "frozenlake-6x6")


def config(**settings) -> Config:
    return Config.model_validate({"train": {"validation": {"every": 1, "n": 7, **settings}}})


@pytest.fixture
def halves_right(monkeypatch):
    """A model that answers state estimation rightly, and everything else not at all."""
    asked: list[int] = []

    def answers(chat, prompts, longest, batch):
        asked.append(len(prompts))
        return [sample.answer if sample.name == "state_estimation" else "?" for sample, _ in prompts]

    monkeypatch.setattr(validation, "generate", answers)
    chat = SimpleNamespace(prompt=lambda sample, shown: sample, answer_tokens=lambda answer: answer.split())
    return chat, asked


@pytest.mark.parametrize("ranks", [1, 2, 3, 9])
def test_shares_add_up_to_the_whole(halves_right, ranks):
    chat, asked = halves_right
    validate = Validation(config(), WORLDS, ("state_estimation", "inverse_dynamics"))
    assert validate.cells == [(w, c) for w in WORLDS for c in ("state_estimation", "inverse_dynamics")]
    sums = torch.stack([validate(chat, rank, ranks) for rank in range(ranks)]).sum(0)
    assert sums.tolist() == [[7, 7], [0, 7], [7, 7], [0, 7]]
    assert sum(asked) == 28, "some are asked twice"


def test_the_same_is_asked_each_time_and_not_what_the_test_split_asks(halves_right):
    one, again, other = (
        [sample for samples in Validation(settings, WORLDS, ("inverse_dynamics",))._samples for sample in samples]
        for settings in (config(), config(), config(seed=3))
    )
    assert one == again
    assert one != other
    assert {sample.window.split for sample in one} == {"val"}


def test_clozes_can_be_chosen():
    assert Validation(config(clozes="policy"), WORLDS[:1], ("state_estimation",)).cells == [(WORLDS[0], "policy")]


def test_a_metric_for_the_best_that_is_not_measured_is_refused():
    best = f"eval/{WORLDS[0]}/policy/accuracy"
    assert Validation(config(best=best, clozes="policy"), WORLDS, ())
    with pytest.raises(
        ConfigError, match=r"best='eval/nowhere/policy/accuracy' is not measured: choose one of eval/acc"
    ):
        Validation(config(best="eval/nowhere/policy/accuracy"), WORLDS, ("policy",))

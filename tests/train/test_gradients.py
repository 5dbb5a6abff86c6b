"""Norms of gradients by how much the rewards of groups vary: who is together, and whether norms are right."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vagen.config import ConfigError
from vagen.train import gradients
from vagen.train.experience import Measured
from vagen.train.gradients import by_variance, gradient_metrics, variances
from vagen.train.objective import Terms

from .test_rl import WRITES, records, weights


def episode(number: int, group: int, *rewards: float) -> Measured:
    tokens = np.zeros(len(rewards), dtype=np.float32)
    earned = np.array(rewards, dtype=np.float32)
    return Measured(number, group, np.ones(len(rewards), int), earned, False, tokens, tokens, tokens, tokens)


EPISODES = [
    *(episode(0, 7, 1.0, 0.0), episode(1, 7, 0.0, 1.0)),  # both earn 1 in all
    *(episode(2, 3, 0.0, 0.0), episode(3, 3, 4.0)),
    *(episode(4, 5, 0.5), episode(5, 5, 1.5)),
]


def test_variances_are_those_of_whole_episodes():
    assert variances(EPISODES) == {7: 0.0, 3: 4.0, 5: 0.25}


@pytest.mark.parametrize(("most", "buckets"), [(1, [[7, 5, 3]]), (2, [[7, 5], [3]]), (8, [[7], [5], [3]])])
def test_groups_that_vary_least_come_first(most, buckets):
    assert by_variance(variances(EPISODES), most) == buckets


def test_the_share_of_regularisers_is_of_all_norms():
    found = gradient_metrics([[3.0, 0.5, 0.5], [1.0, 0.0, 3.0]], [0.1, 0.2])
    assert found["gradient/regularisers"] == pytest.approx(0.5)
    assert found["gradient/task/2"] == 1.0
    assert found["gradient/divergence/2"] == 3.0
    assert found["gradient/variance/1"] == 0.1
    assert gradient_metrics([[0.0, 0.0, 0.0]], [0.0])["gradient/regularisers"] == 0.0


def test_the_sum_of_terms_leaves_out_those_there_are_not():
    one = torch.tensor(1.0)
    assert float(Terms(one, None, 2 * one).sum()) == 3.0


def reinforcement(run: Path) -> list[dict[str, float]]:
    """The records after the warm-up."""
    return records(run)[WRITES["warmup"]["steps"] :]


def test_the_gradient_of_all_groups_is_that_of_the_update_which_it_leaves_alone(reinforce, monkeypatch):
    settings = {**WRITES, "policy": {"minibatches": 1}, "rewards": {"format": 0.1}}
    train = {"steps": 1, "checkpoint_every": 100}
    alone = reinforce(rl=settings, train=train)
    monkeypatch.setattr(gradients.by_variance, "__defaults__", (1,))
    watched = reinforce(rl={**settings, "diagnostics": {"every": 1, "gradients": True}}, train=train)
    [told], [plain] = reinforcement(watched), reinforcement(alone)
    assert told["grad_norm"] > 0
    assert told["gradient/task/1"] == pytest.approx(told["grad_norm"], rel=1e-4)
    assert told["gradient/regularisers"] == 0.0
    assert told["grad_norm"] == plain["grad_norm"]
    before, after = weights(alone, 51), weights(watched, 51)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_term_has_a_gradient_in_every_bucket(reinforce):
    settings = {
        **WRITES,
        "policy": {"entropy": 0.01},
        "divergence": {"weight": 0.1},
        "rewards": {"format": 0.1},
        "diagnostics": {"every": 2, "gradients": True},
    }
    told = reinforcement(reinforce(rl=settings, train={"steps": 3, "checkpoint_every": 100}))
    assert [any(name.startswith("gradient/") for name in record) for record in told] == [True, False, True]
    assert {f"gradient/entropy/{bucket}" for bucket in range(1, 5)} <= set(told[2])
    assert all(told[2][f"gradient/entropy/{bucket}"] > 0 for bucket in range(1, 5))
    assert all(told[2][f"gradient/divergence/{bucket}"] > 0 for bucket in range(1, 5)), "it has moved by then"
    assert 0 < told[2]["gradient/regularisers"] <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"zero_stage": 2}, "rl": {"diagnostics": {"every": 1, "gradients": True}}},
        {"rl": {"diagnostics": {"every": 0, "gradients": True}}},
    ],
)
def test_gradients_that_could_not_be_measured_are_refused(reinforce, changes):
    with pytest.raises(ConfigError, match=r"set train\.zero_stage=0"):
        reinforce(**changes)

"""What is played and asked: which transitions are worth asking about."""

import numpy as np
import pytest

from vagen.mdp import Trajectory
from vagen.policy.chat import Prompt
from vagen.rollout.turns import Rollout, Turn
from vagen.train.playing import least_sure

EPISODE = Trajectory("frozenlake-4x4", "train", 0, "random", ({},), (), (), False, False, False, "")
NOTHING = np.zeros(0, dtype=np.int64)


def turn(steps: int, actions: int, *log_probs: float) -> Turn:
    tokens, prompt = np.zeros(len(log_probs), dtype=np.int64), Prompt(NOTHING, NOTHING[None], NOTHING)
    return Turn(prompt, (), tokens, np.array(log_probs), "", None, (0,) * actions, steps, 0.0, False)


@pytest.mark.parametrize(
    ("share", "chosen"),
    [
        (0.01, [set(), {1}]),  # rounded up
        (0.4, [set(), {1, 2}]),  # two actions of one response
        (0.6, [{0}, {1, 2}]),
        (1.0, [{0, 1}, {0, 1, 2}]),
    ],
)
def test_transitions_after_unsure_responses_are_chosen_whoever_is_longer(share, chosen):
    first = Rollout(EPISODE, 0, (turn(0, 1, -1.0), turn(1, 1, -0.1, -0.3)))
    second = Rollout(EPISODE, 0, (turn(0, 1, -0.5, -0.1, -0.1), turn(1, 2, -4.0, 0.0), turn(3, 0, -9.0)))
    assert least_sure([first, second], share) == chosen

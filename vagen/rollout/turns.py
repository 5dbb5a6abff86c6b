"""What a rollout leaves behind: an episode as turns of tokens, exactly as they were read and written.

A turn keeps the whole prompt that its response was sampled after, so that it says nothing about how episodes become
prompts: in one growing conversation a turn's prompt begins with the turn before and its response, with other contexts
it does not. Packing merges whatever turns begin with (see :mod:`vagen.policy.packing`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vagen.mdp import Trajectory
from vagen.policy.chat import Encoded, Picture, Prompt
from vagen.rollout.responses import Response


@dataclass(frozen=True)
class Turn:
    """One response, and what came of it.

    Attributes:
        prompt: all tokens before the response.
        pictures: the images of the prompt, in order.
        response: (A,) sampled tokens; the last one ends the turn unless ``cut``.
        log_probs: (A,) of these tokens under the policy that sampled them, at temperature 1, in nats.
        text: the response as text.
        parsed: its parts, or ``None`` where it is not of the form that was asked for.
        actions: what was done in the world, in order; none where the response was unusable.
        steps: number of the trajectory's transitions before this turn.
        reward: of the world, over these actions.
        cut: whether the response ran into the limit of its length.
    """

    prompt: Prompt
    pictures: tuple[Picture, ...]
    response: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    text: str
    parsed: Response | None
    actions: tuple[int, ...]
    steps: int
    reward: float
    cut: bool

    @property
    def encoded(self) -> Encoded:
        """The turn as a sample to pack: the response is what is predicted."""
        return Encoded(self.prompt, self.response, self.pictures)


@dataclass(frozen=True)
class Rollout:
    """One episode of a model.

    Attributes:
        trajectory: states, actions and rewards of the world.
        group: episodes of one group began in the same state.
        turns: in order; at least one, unless the world failed before the first.
        error: what went wrong inside the world, "" if nothing did. Such an episode is no failure of the policy.
    """

    trajectory: Trajectory
    group: int
    turns: tuple[Turn, ...]
    error: str = ""

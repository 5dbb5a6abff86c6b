"""What writes responses: requests go in, sampled tokens come out, many at a time and at each one's own pace.

An engine knows nothing about worlds or episodes. It has lanes; each lane is asked for one response after another, and
whatever a prompt has in common with what its lane has seen before need not be computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vagen.policy.chat import Chat, Picture, Prompt
from vagen.rollout.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """One response to write.

    Attributes:
        lane: 0, 1, …; a lane writes one response at a time.
        prompt: all tokens before the response.
        pictures: the images of the prompt, in order.
        generator: what is random about the response, and about nothing else.
    """

    lane: int
    prompt: Prompt
    pictures: tuple[Picture, ...]
    generator: np.random.Generator


@dataclass(frozen=True)
class Sampled:
    """A response.

    Attributes:
        lane: of the request.
        tokens: (A,) the sampled tokens; the last one ends the turn unless ``cut``.
        log_probs: (A,) of these tokens, at temperature 1 over the whole vocabulary, in nats.
        cut: whether the response ran into the limit of its length.
    """

    lane: int
    tokens: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    cut: bool


class Engine(Protocol):
    """Writes responses with the weights of ``chat.policy`` as they are when a session opens.

    Attributes:
        chat: the policy's prompts.
        lanes: how many responses are written at once.
    """

    chat: Chat
    lanes: int

    def session(self, sampling: Sampling) -> AbstractContextManager[None]:
        """While this context is open, responses are sampled as told and the weights do not change.

        Where several processes train together, all of them open their sessions at the same time, and each goes its own
        pace inside.
        """
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Ask for responses; no lane may be asked again before it has answered."""
        ...

    def step(self) -> list[Sampled]:
        """Write on until some of the responses asked for are finished, and return these."""
        ...


def respond(
    engine: Engine,
    prompts: Sequence[tuple[Prompt, Sequence[Picture]]],
    generators: Sequence[np.random.Generator],
    sampling: Sampling,
) -> list[Sampled]:
    """One response to each of any number of prompts, in their order, in a session of its own.

    Args:
        prompts: each a prompt and its images.
        generators: one for each of them.
    """
    waiting = deque(range(len(prompts)))
    number_at: dict[int, int] = {}  # by lane, which prompt it is answering
    answers: dict[int, Sampled] = {}
    idle: Sequence[int] = range(engine.lanes)
    with engine.session(sampling):
        while len(answers) < len(prompts):
            asked = [(lane, waiting.popleft()) for lane in idle[: len(waiting)]]
            number_at |= dict(asked)
            engine.submit([Request(lane, prompts[n][0], tuple(prompts[n][1]), generators[n]) for lane, n in asked])
            finished = engine.step()
            answers |= {number_at[sampled.lane]: sampled for sampled in finished}
            idle = [sampled.lane for sampled in finished]
    return [answers[number] for number in range(len(prompts))]

"""Small policies that play, and an engine that says what a test wants said."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch

from vagen.config import Tiny
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.engine import Request, Sampled
from vagen.rollout.sampling import Sampling

WORLDS = ("sokoban-6x6", "frozenlake-4x4", "minigrid-rooms-6x6")
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}


@pytest.fixture(scope="session")
def make_chat() -> Callable[..., Chat]:
    """``make_chat(architecture="idefics3", dtype=torch.float32)``: a chat with a small untrained model."""

    @cache
    def make(architecture: str = "idefics3", dtype: torch.dtype = torch.float32) -> Chat:
        model, processor = tiny.build(Tiny(architecture=architecture, image_size=48, merge=1, **SMALL), WORLDS, 0)
        return Chat(Policy("small", model.to(dtype).eval(), processor, ClozeFormat(worlds=WORLDS)))

    return make


class Scripted:
    """Says for each request what ``say`` answers to it, and finishes one response per step, the last asked first.

    Attributes:
        seen: every request, in the order of asking.
        together: how many responses were being written at each step.
    """

    def __init__(self, chat: Chat, say: Callable[[Request], str | list[int]], lanes: int = 4, end: bool = True):
        self.chat = chat
        self.lanes = lanes
        self.seen: list[Request] = []
        self.together: list[int] = []
        self.open = False
        self._say = say
        self._end = end
        self._asked: list[Request] = []

    @contextmanager
    def session(self, sampling: Sampling) -> Iterator[None]:
        self.open = True
        yield
        self.open = False

    def submit(self, requests: Sequence[Request]) -> None:
        self.seen += requests
        self._asked += requests

    def step(self) -> list[Sampled]:
        self.together.append(len(self._asked))
        request = self._asked.pop()
        said = self._say(request)
        tokens = self.chat.answer_tokens(said) if isinstance(said, str) else np.array(said, dtype=np.int64)
        tokens = tokens if self._end else tokens[:-1]
        return [Sampled(request.lane, tokens, np.arange(len(tokens)) / -8, not self._end)]


@pytest.fixture(scope="session")
def scripted(make_chat) -> Callable[..., Scripted]:
    """``scripted(say, lanes=4, end=True)``: an engine for rollouts without a model's whims."""
    return lambda say, lanes=4, end=True: Scripted(make_chat(), say, lanes, end)

"""What the benchmarks of models share: small models of two sizes, and clozes about trajectories with their images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch

from vagen.cloze.build import build
from vagen.cloze.grammar import NAMED, ClozeError, named
from vagen.cloze.sample import Sample, imagined, simulator, window_at
from vagen.config import Tiny
from vagen.mdp import Trajectory
from vagen.policy import tiny
from vagen.policy.batches import draw
from vagen.policy.chat import Chat, Picture
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.episodes import play

Size = Literal["small", "tiny", "mid"]
WORLD = "sokoban-8x8-2box"  # frames of 64 px: 64 tokens of 8 x 8 px
FRAMES = 4

#: ``small`` is for tests, ``tiny`` the quickstart's model, ``mid`` has 50 to 100 million parameters.
SIZES: dict[str, dict[str, int | float]] = {
    "small": {"hidden_size": 32, "layers": 2, "vision_hidden_size": 32, "vision_layers": 1},
    "tiny": {},
    "mid": {
        "hidden_size": 640,
        "layers": 10,
        "expansion": 4,
        "head_size": 64,
        "init_std": 0.02,
        "vision_hidden_size": 384,
        "vision_layers": 6,
    },
}


@dataclass(frozen=True)
class Asked:
    """Clozes about one trajectory, each with its images."""

    samples: tuple[Sample, ...]
    pictures: tuple[tuple[Picture, ...], ...]


def make_chat(size: str, architecture: str = "idefics3", seed: int = 0) -> Chat:
    """A model with random weights that reads frames of ``WORLD``, without compression of their tokens."""
    config = Tiny(architecture=architecture, image_size=64, **SIZES[size])  # pyright: ignore[reportArgumentType]
    form = ClozeFormat("grid", False, (WORLD,), tuple(NAMED))
    model, processor = tiny.build(config, form.worlds, seed)
    return Chat(Policy(size, model.eval(), processor, form))


def parameters(chat: Chat) -> str:
    """How many parameters a model has, to be read."""
    return f"{sum(p.numel() for p in chat.policy.model.parameters()) / 1e6:.1f} M parameters"


def trajectories(count: int, frames: int = FRAMES) -> list[Trajectory]:
    """Short pieces of training episodes."""
    found: list[Trajectory] = []
    seed = 0
    while len(found) < count:
        [episode] = play(WORLD, MixtureAgent(0.5), [seed], "train", 2 * frames)
        if len(episode) >= frames - 1:
            found.append(window_at(episode, 0, frames - 1))
        seed += 1
    return found


def single(window: Trajectory, count: int) -> Asked:
    """Clozes of all kinds about all moments of a window; each shows the images it asks about, before its question."""
    return _with_images([sample for sample in _every_cloze(window) if sample.images][:count], count)


#: Ways to ask ``count`` clozes about a window.
LAYOUTS: dict[str, Callable[[Trajectory, int], Asked]] = {"single": single}


def _every_cloze(window: Trajectory) -> list[Sample]:
    """Each named cloze about each part of a window, no two alike.

    First about what happened, from the beginning on, then about other actions, each simulated from the same state.
    """
    found: dict[tuple, Sample] = {}
    parts = [(start, name) for start in range(len(window)) for name in NAMED]
    for action in (None, *range(len(simulator(window.world).actions))):
        for start, name in parts:
            pattern = named(name)
            length = max(1, pattern.length)
            free = pattern.dynamics and pattern.task != "order" and not pattern.choices
            if start + length > len(window) or (action is not None and not free):
                continue
            part = window_at(window, start, length)
            [about] = [part] if action is None else imagined(part, [action])
            with suppress(ClozeError):  # not every moment can be asked every question
                sample = build(name, pattern, about, "grid")
                found.setdefault((sample.question, *map(repr, sample.images)), sample)
    return list(found.values())


def _with_images(samples: Sequence[Sample], count: int) -> Asked:
    if len(samples) < count:
        raise SystemExit(f"only {len(samples)} clozes about a window of this length: ask for fewer than {count}")
    return Asked(tuple(samples), tuple(map(tuple, draw(samples))))


def use_cores(cores: int) -> None:
    """Compute on so many cores, in this process and those it starts."""
    os.environ["OMP_NUM_THREADS"] = str(cores)
    torch.set_num_threads(cores)

"""What the benchmarks of models share: small models of two sizes, and clozes about trajectories with their images.

Clozes about a window are asked in two layouts. ``single``: each shows only the images that it asks about. ``history``:
each is asked after one of the window's frames and shows all frames so far, as in one growing episode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import numpy as np
import torch
from measure import ROUNDS

from vagen.cloze.build import build
from vagen.cloze.grammar import NAMED, ClozeError, named, with_history
from vagen.cloze.sample import Sample, UnaskableError, imagined, simulator, window_at
from vagen.config import Tiny
from vagen.mdp import Trajectory
from vagen.policy import tiny
from vagen.policy.attention import choose_attention, set_attention
from vagen.policy.batches import draw
from vagen.policy.chat import Chat, Picture
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.episodes import play

Size = Literal["small", "tiny", "mid"]
WORLD = "sokoban-8x8-2box"  # frames of 64 px: 64 tokens of 8 x 8 px
FRAMES = 4  # that a window shows, all different
BEYOND = 2  # further states, for what is asked about the time after the last frame

#: Clozes after a history: questions of few words and answers of a token or two, so that images dominate, as they do in
#: models that make hundreds of tokens of an image.
SHORT = (
    "inverse_dynamics",
    "policy",
    "reward",
    "termination",
    "budget",
    "o0 a0 -> b1",
    "o0 a0 -> a1*",
    "o0 -> a0*?2",
    "o0 -> a0*?3",
    "o0 a0 a1 -> r1",
    "o0 a0 a1 -> d1",
)

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


#: How often each way takes its turn, by size of model: a turn of a peer with the largest takes most of a minute.
ROUNDS_OF = {"small": ROUNDS, "tiny": ROUNDS, "mid": 3}


@dataclass(frozen=True)
class Asked:
    """Clozes about one trajectory, each with its images."""

    samples: tuple[Sample, ...]
    pictures: tuple[tuple[Picture, ...], ...]


def make_chat(size: str, architecture: str = "idefics3", seed: int = 0, packed: bool = False) -> Chat:
    """A model with random weights that reads frames of ``WORLD``, without compression of their tokens.

    Args:
        packed: whether packed rows will go through it, for which it gets the attention that training chooses.
    """
    config = Tiny(architecture=architecture, image_size=64, **SIZES[size])  # pyright: ignore[reportArgumentType]
    form = ClozeFormat("grid", False, (WORLD,), tuple(NAMED))
    model, processor = tiny.build(config, form.worlds, seed)
    set_attention(model, choose_attention("auto", torch.device("cpu"), model, packed))
    return Chat(Policy(size, model.eval(), processor, form))


def parameters(chat: Chat) -> str:
    """How many parameters a model has, to be read."""
    return f"{sum(p.numel() for p in chat.policy.model.parameters()) / 1e6:.1f} M parameters"


def trajectories(count: int) -> list[Trajectory]:
    """Pieces of training episodes, each of another: ``FRAMES`` states that all look different, and ``BEYOND`` more."""
    length = FRAMES + BEYOND - 1
    found: list[Trajectory] = []
    seed = 0
    while len(found) < count:
        [episode] = play(WORLD, MixtureAgent(0.5), [seed], "train", 3 * FRAMES)
        windows = (window_at(episode, start, length) for start in range(len(episode) - length + 1))
        found += [window for window in windows if _all_differ(window)][:1]
        seed += 1
    return found


def _all_differ(window: Trajectory) -> bool:
    frames = simulator(window.world).render_states(window.snapshots[:FRAMES])
    return len(np.unique(frames, axis=0)) == FRAMES


def single(window: Trajectory, count: int) -> Asked:
    """Clozes of all kinds about all moments of a window; each shows the images it asks about, before its question."""
    shown = window_at(window, 0, FRAMES - 1)
    return _with_images([sample for sample in _every_cloze(shown) if sample.images][:count], count)


def history(window: Trajectory, count: int) -> Asked:
    """Short clozes, the first after the first frame, the second after the second, and so on by turns.

    Each shows the frames up to its own and asks about what is there, was done before, or would follow.
    """
    after = [_short_clozes(window, frame) for frame in range(FRAMES)]
    by_turns = chain.from_iterable(zip_longest(*after))
    return _with_images([sample for sample in by_turns if sample is not None][:count], count)


#: Ways to ask ``count`` clozes about a window.
LAYOUTS: dict[str, Callable[[Trajectory, int], Asked]] = {"history": history, "single": single}


def _short_clozes(window: Trajectory, frame: int) -> list[Sample]:
    """All short clozes of which this frame is the last one shown, in an order left to chance."""
    found: dict[str, Sample] = {}
    for cloze in SHORT:
        pattern = named(cloze)
        earlier = frame + 1 - len(pattern.images)
        if earlier < 0:
            continue
        asked = with_history(pattern, earlier)
        part = window_at(window, 0, asked.length)
        for about in imagined(part) if pattern.dynamics and cloze != "inverse_dynamics" else (part,):
            with suppress(UnaskableError):
                sample = build(cloze, asked, about, "grid")
                found.setdefault(sample.question, sample)
    samples = list(found.values())
    return [samples[place] for place in np.random.default_rng(frame).permutation(len(samples))]


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

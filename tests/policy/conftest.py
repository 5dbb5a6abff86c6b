"""Small float64 policies of every tiny architecture, and cloze samples with their pictures."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest
import torch
from PIL import Image

from vagen.cloze.build import build
from vagen.cloze.grammar import NAMED, ClozeError, named
from vagen.cloze.sample import Sample, simulator, window_at
from vagen.config import Tiny
from vagen.mdp import Trajectory
from vagen.policy import tiny
from vagen.policy.attention import choose_attention, set_attention
from vagen.policy.batches import draw
from vagen.policy.chat import Chat, Picture
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.episodes import play

WORLDS = ("minigrid-rooms-6x6", "sokoban-6x6", "frozenlake-6x6")
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}


@pytest.fixture(scope="session")
def make_chat() -> Callable[..., Chat]:
    """``make_chat(architecture, explain=False, representation="grid", seed=0, merge=1)``: a chat with a small model.

    Calls with equal architecture, seed and merge share the model.
    """

    @cache
    def model_and_processor(architecture: str, seed: int, merge: int):
        config = Tiny(architecture=architecture, image_size=48, merge=merge, **SMALL)
        model, processor = tiny.build(config, WORLDS, seed)
        set_attention(model, choose_attention("auto", model.device, model, packed=True))
        return model.to(torch.float64).eval(), processor

    def make(
        architecture: str, explain: bool = False, representation: str = "grid", seed: int = 0, merge: int = 1
    ) -> Chat:
        model, processor = model_and_processor(architecture, seed, merge)
        form = ClozeFormat(representation, explain, WORLDS, tuple(NAMED))
        return Chat(Policy("small", model, processor, form))

    return make


@pytest.fixture(scope="session")
def windows() -> dict[str, list[Trajectory]]:
    """A few windows of three transitions, not all alike; the agent still has somewhere to go in their first state."""
    found = {}
    for world in WORLDS:
        episodes = play(world, MixtureAgent(0.5), range(40), "train", 8)
        fitting = [
            window_at(t, s, 3) for t in episodes for s in range(len(t) - 2) if len(set(t.actions[s : s + 3])) > 1
        ]
        solvable = [w for w in fitting if simulator(world).optimal_actions(w.snapshots[0])]
        found[world] = solvable[:: max(1, len(solvable) // 6)][:6]
    return found


@pytest.fixture(scope="session")
def every_cloze(windows) -> Callable[..., list[Sample]]:
    """``every_cloze(world, number=0, representation="grid")``: each named cloze the world can be asked."""

    def samples(world: str, number: int = 0, representation: str = "grid") -> list[Sample]:
        window, found = windows[world][number], []
        for name in NAMED:
            with suppress(ClozeError):  # not every world determines every answer
                found.append(build(name, named(name), window, representation))
        assert len(found) > len(NAMED) - 3, f"{world} can be asked too few clozes: {[s.name for s in found]}"
        return found

    return samples


@pytest.fixture(scope="session")
def stock_inputs() -> Callable:
    """``stock_inputs(chat, sample, pictures, system=None, answer=None)``: what transformers' own processor makes."""

    def inputs(chat: Chat, sample: Sample, pictures: list[Picture], system: str | None = None, answer=None):
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": sample.question}]
        messages = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        processor = chat.policy.processor
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        images = [[Image.fromarray(picture.pixels) for picture in pictures]] if pictures else None
        made = processor(text=[text], images=images, return_tensors="pt", return_mm_token_type_ids=True)
        if not hasattr(chat.policy.model.model, "get_rope_index"):
            made.pop("mm_token_type_ids", None)  # of no use to models with plain positions
        dtype = chat.policy.model.dtype
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in made.items()}

    return inputs


@pytest.fixture(scope="session")
def with_pictures() -> Callable:
    """``with_pictures(samples)``: pairs of a sample and its pictures."""
    return lambda samples: list(zip(samples, draw(samples), strict=True))

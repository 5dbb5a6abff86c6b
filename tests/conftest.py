"""Fixtures that several folders of tests share."""

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

# One thread, and threads that wait do not spin: the machine may be busy. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest

ARCHITECTURES = ("idefics3", "llava", "qwen2_5_vl", "qwen3_vl")
SMALL_WORLDS = ("frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6")

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """``script(name)``: ``scripts/<name>.py`` as a module."""

    @cache
    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"script_{name}", path)
        assert spec is not None, path
        assert spec.loader is not None, path
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    """Each family of tiny models."""
    return request.param


@pytest.fixture(scope="session")
def draw_samples() -> Callable:
    """``draw_samples(world, cloze, n, representation)``: samples of the report card, drawn once per session."""
    from vagen.cloze.grammar import named
    from vagen.evaluate import worldmodel

    @cache
    def draw(world: str, cloze: str, n: int = 8, representation: str = "grid") -> tuple:
        return tuple(worldmodel.draw_samples(world, cloze, named(cloze), n, 3, "test", representation))

    return draw


@pytest.fixture(scope="session")
def trajectories() -> dict[str, list]:
    """A dozen short training episodes of each small world, by a mixture of expert and random."""
    from vagen.rollout.agents import MixtureAgent
    from vagen.rollout.episodes import play

    agent = MixtureAgent(0.5)
    return {
        world: [t for t in play(world, agent, range(100, 118), "train", 8) if len(t)][:13] for world in SMALL_WORLDS
    }


@pytest.fixture(scope="session")
def shards(trajectories, tmp_path_factory) -> dict[str, Path]:
    """A folder of shards per small world: 13 trajectories, 5 to a shard. Not to be written to."""
    from vagen.data.shards import write_shards

    folder = tmp_path_factory.mktemp("shards")
    for world, episodes in trajectories.items():
        write_shards(folder / world, episodes, world=world, split="train", seed=0, behaviour="mixture(0.5)", size=5)
    return {world: folder / world for world in trajectories}

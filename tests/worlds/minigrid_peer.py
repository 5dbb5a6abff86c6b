"""MiniGrid itself, not wrapped by us: what tests hold our worlds against."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from minigrid.minigrid_env import MiniGridEnv

from worlds.minigrid_rules import NUMBERS


@dataclass
class Seen:
    """Everything that can be compared after a step."""

    reward: float
    terminated: bool
    truncated: bool
    pose: tuple[int, int, int]
    carrying: tuple[int, int, int] | None
    mission: str


def new_env(env_id: str) -> MiniGridEnv:
    spec = gymnasium.spec(env_id)
    return load_env_creator(spec.entry_point)(**spec.kwargs)


def reset(env: MiniGridEnv, seed: int) -> None:
    with redirect_stdout(io.StringIO()):  # BabyAI prints
        env.reset(seed=seed)


def seen(env: MiniGridEnv, reward: float = 0.0, terminated: bool = False, truncated: bool = False) -> Seen:
    x, y = env.agent_pos
    carrying = env.carrying.encode() if env.carrying else None
    pose = (int(x), int(y), int(env.agent_dir))
    return Seen(float(reward), bool(terminated), bool(truncated), pose, carrying, env.mission)


def step(env: MiniGridEnv, action: str) -> Seen:
    _, reward, terminated, truncated, _ = env.step(int(NUMBERS[action]))
    return seen(env, reward, terminated, truncated)


def frames(env: MiniGridEnv, tile_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Its full and its egocentric picture of the present state."""
    return env.get_frame(highlight=False, tile_size=tile_size), env.get_frame(tile_size=tile_size, agent_pov=True)


def likely_actions(world, rng: np.random.Generator, count: int) -> list[str]:
    """Random actions that walk more than they turn, so that something is met."""
    weights = np.array([3.0 if action == "forward" else 1.0 for action in world.actions])
    return [world.actions[i] for i in rng.choice(len(world.actions), size=count, p=weights / weights.sum())]

"""The episode loop: collecting, evaluating and reinforcement learning all play through here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vagen.data.frames import encode_frame, frame_hash
from vagen.data.shards import provenance
from vagen.mdp import Trajectory
from vagen.rollout.agents import Agent
from worlds import Frame, Snapshot, Split, World, make


@dataclass
class _Episode:
    """One episode while it is played."""

    world: World
    seed: int
    generator: np.random.Generator
    first_frame: Frame
    snapshots: list[Snapshot]
    success: bool
    noise_seeds: tuple[int, ...]
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    frames: list[bytes] = field(default_factory=list)  # stored where the world cannot draw its states again
    invalid: bool = False  # the agent's answer was no action; the episode ends there

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated or self.invalid


def play(
    world_id: str,
    agent: Agent,
    seeds: Sequence[int],
    split: Split,
    max_steps: int | None = None,
    batch: int = 64,
) -> Iterator[Trajectory]:
    """Play one episode per seed, ``batch`` side by side, and yield them in the order of the seeds.

    An episode is a function of (world, agent, seed, split) alone. It ends when the world ends it, at ``max_steps``
    (truncated), or when the agent's answer is no action (truncated, and never a success).

    Raises:
        WorldError: unknown world, or too few layouts for the split.
    """
    versions = provenance(world_id)
    worlds = [make(world_id) for _ in range(min(batch, len(seeds)))]
    for start in range(0, len(seeds), batch):
        chosen = seeds[start : start + batch]
        episodes = [_begin(world, seed, split) for world, seed in zip(worlds, chosen, strict=False)]
        while live := [episode for episode in episodes if not episode.over]:
            actions = agent.act([episode.world for episode in live], [episode.generator for episode in live])
            for episode, action in zip(live, actions, strict=True):
                _advance(episode, action, max_steps)
        for episode in episodes:
            yield Trajectory(
                world_id,
                split,
                episode.seed,
                agent.name,
                tuple(episode.snapshots),
                tuple(episode.actions),
                tuple(episode.rewards),
                episode.terminated,
                episode.truncated or episode.invalid,
                episode.success,
                frame_hash(episode.first_frame),
                versions,
                episode.noise_seeds,
                tuple(episode.frames),
            )


def _begin(world: World, seed: int, split: Split) -> _Episode:
    frame, info = world.reset(seed=seed, options={"split": split})
    snapshot = world.state().snapshot
    generator = np.random.default_rng([seed, 1])
    episode = _Episode(world, seed, generator, frame, [snapshot], bool(info["success"]), world.noise_seeds)
    _keep_frame(episode, frame)
    return episode


def _advance(episode: _Episode, action: int | None, max_steps: int | None) -> None:
    if action is None:
        episode.invalid = True
        return
    frame, reward, terminated, truncated, info = episode.world.step(action)  # type: ignore[arg-type]
    episode.actions.append(action)
    episode.rewards.append(float(reward))
    episode.snapshots.append(episode.world.state().snapshot)
    _keep_frame(episode, frame)
    episode.terminated = bool(terminated)
    episode.truncated = not terminated and (bool(truncated) or len(episode.actions) == max_steps)
    episode.success = bool(info["success"])


def _keep_frame(episode: _Episode, frame: Frame) -> None:
    if not episode.world.renders_from_state:
        episode.frames.append(encode_frame(frame))

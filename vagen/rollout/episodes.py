"""The episode loop: collecting, evaluating and reinforcement learning all play through here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vagen.data.frames import encode_frame, frame_hash
from vagen.data.shards import provenance
from vagen.mdp import Trajectory
from vagen.rollout.agents import Agent
from vagen.rollout.failures import WorldsCode
from worlds import Frame, Snapshot, Split, World, make


@dataclass
class Episode:
    """One episode while it is played.

    Attributes:
        world: a live world, in the episode's present state.
        split: that its layout is of.
        seed: the world was reset with.
        frame: the present image.
        snapshots: the states so far.
        success: the world's own verdict so far.
        first_frame: the image of the first state.
        noise_seeds: of the noise that the world puts on the episode.
        actions, rewards: the transitions so far.
        terminated, truncated: whether the world has ended it, or time has run out.
        frames: the images so far, stored where the world cannot draw its states again.
    """

    world: World
    split: Split
    seed: int
    frame: Frame
    snapshots: list[Snapshot]
    success: bool
    first_frame: Frame
    noise_seeds: tuple[int, ...]
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    frames: list[bytes] = field(default_factory=list)

    @classmethod
    def begin(cls, world: World, seed: int, split: Split) -> Episode:
        """Reset a world.

        Raises:
            WorldError: too few layouts for the split.
            WorldFailure: an error of the world's own.
        """
        with WorldsCode():
            frame, info = world.reset(seed=seed, options={"split": split})
            snapshot = world.state().snapshot
        episode = cls(world, split, seed, frame, [snapshot], bool(info["success"]), frame, world.noise_seeds)
        episode._keep_frame()
        return episode

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def step(self, action: int, max_steps: int | None) -> None:
        """Take an action; nothing of it is noted where the world raises an error.

        Args:
            max_steps: time runs out after so many, if not earlier.

        Raises:
            WorldFailure: an error of the world's own.
        """
        with WorldsCode():
            frame, reward, terminated, truncated, info = self.world.step(action)  # type: ignore[arg-type]
            snapshot = self.world.state().snapshot
        self.frame = frame
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.snapshots.append(snapshot)
        self._keep_frame()
        self.terminated = bool(terminated)
        self.truncated = not terminated and (bool(truncated) or len(self.actions) == max_steps)
        self.success = bool(info["success"])

    def trajectory(self, behaviour: str, versions: Mapping[str, Any]) -> Trajectory:
        """What happened.

        Args:
            behaviour: who acted.
            versions: of the packages that decide what an episode looks like.
        """
        return Trajectory(
            self.world.id,
            self.split,
            self.seed,
            behaviour,
            tuple(self.snapshots),
            tuple(self.actions),
            tuple(self.rewards),
            self.terminated,
            self.truncated,
            self.success,
            frame_hash(self.first_frame),
            versions,
            self.noise_seeds,
            tuple(self.frames),
        )

    def _keep_frame(self) -> None:
        if not self.world.renders_from_state:
            self.frames.append(encode_frame(self.frame))


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
        WorldFailure: an error of the world's own.
    """
    versions = provenance(world_id)
    worlds = [make(world_id) for _ in range(min(batch, len(seeds)))]
    for start in range(0, len(seeds), batch):
        chosen = seeds[start : start + batch]
        episodes = [Episode.begin(world, seed, split) for world, seed in zip(worlds, chosen, strict=False)]
        generators = [np.random.default_rng([seed, 1]) for seed in chosen]
        while live := [number for number, episode in enumerate(episodes) if not episode.over]:
            actions = agent.act([episodes[number].world for number in live], [generators[number] for number in live])
            for number, action in zip(live, actions, strict=True):
                if action is None:
                    episodes[number].truncated = True
                else:
                    episodes[number].step(action, max_steps)
        for episode in episodes:
            yield episode.trajectory(agent.name, versions)

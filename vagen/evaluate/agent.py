"""How often agents succeed: random, expert, and the model asked for its next action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vagen.cloze.statistics import wilson
from vagen.mdp import Trajectory
from vagen.progress import Progress
from vagen.rollout.agents import Agent
from vagen.rollout.collect import episode_seeds
from vagen.rollout.episodes import play
from worlds import Split


def evaluate(
    agents: Sequence[Agent], worlds: Sequence[str], episodes: int, seed: int, split: Split, max_steps: int | None
) -> dict[str, Any]:
    """Success of each agent in each world, on the same episodes.

    Returns:
        ``{"rows": [{world, agent, n, success, ci_low, ci_high, mean_return, mean_steps, example}], …}`` where
        ``example`` is the longest successful of the first episodes, else the first one: ``{"snapshots", "actions"}``.
    """
    rows = []
    with Progress(len(worlds) * len(agents) * episodes, "agents", "episodes") as progress:
        for world in worlds:
            seeds = episode_seeds(seed, world, f"agent-{split}", episodes)
            for agent in agents:
                played = []
                for episode in play(world, agent, seeds, split, max_steps):
                    played.append(episode)
                    progress.update(note=f"{agent.name} in {world}")
                rows.append(_row(world, agent.name, played))
    return {"rows": rows, "split": split, "seed": seed, "max_steps": max_steps}


def _row(world: str, agent: str, played: Sequence[Trajectory]) -> dict[str, Any]:
    success = wilson(sum(t.success for t in played), len(played))
    example = max(played[:10], key=lambda t: (t.success, len(t)))
    return {
        "world": world,
        "agent": agent,
        "n": success.n,
        "success": success.value,
        "ci_low": success.low,
        "ci_high": success.high,
        "mean_return": sum(sum(t.rewards) for t in played) / len(played),
        "mean_steps": sum(map(len, played)) / len(played),
        "example": {"snapshots": [dict(s) for s in example.snapshots], "actions": list(example.actions)},
    }

"""How often agents succeed: random, expert, and the model asked for its next action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vagen.cloze.statistics import wilson
from vagen.mdp import Trajectory
from vagen.progress import Progress
from vagen.rollout.agents import Agent
from vagen.rollout.collect import episode_seeds
from vagen.rollout.episodes import play
from vagen.rollout.rollouts import ConversingModel
from worlds import Split, WorldError

Player = Agent | ConversingModel


def evaluate(
    agents: Sequence[Player], worlds: Sequence[str], episodes: int, seed: int, split: Split, max_steps: int | None
) -> dict[str, Any]:
    """Success of each agent in each world, on the same episodes.

    Returns:
        A dictionary with a list ``rows``, each of ``world, agent, n, errors, success, ci_low, ci_high, mean_return,
        mean_steps`` and ``example``. ``errors`` counts episodes that a world broke off by an error of its own, which
        count for nothing else; ``example`` has the ``snapshots`` and ``actions`` of the longest successful of the
        first episodes, else of the first one.

    Raises:
        WorldError: all episodes of a world were broken off; says by what.
    """
    rows = []
    with Progress(len(worlds) * len(agents) * episodes, "agents", "episodes") as progress:
        for world in worlds:
            seeds = episode_seeds(seed, world, f"agent-{split}", episodes)
            for agent in agents:
                played = []
                for attempt in _play(agent, world, seeds, split, max_steps):
                    played.append(attempt)
                    progress.update(note=f"{agent.name} in {world}")
                rows.append(_row(world, agent.name, played))
    return {"rows": rows, "split": split, "seed": seed, "max_steps": max_steps}


def _play(
    player: Player, world: str, seeds: Sequence[int], split: Split, max_steps: int | None
) -> Iterator[tuple[Trajectory, str]]:
    """Episodes, each with the error of the world that broke it off, or ""."""
    if isinstance(player, ConversingModel):
        for rollout in player.play(world, seeds, split, max_steps):
            yield rollout.trajectory, rollout.error
    else:
        for trajectory in play(world, player, seeds, split, max_steps):
            yield trajectory, ""


def _row(world: str, agent: str, attempts: Sequence[tuple[Trajectory, str]]) -> dict[str, Any]:
    played = [trajectory for trajectory, error in attempts if not error]
    if not played:
        raise WorldError(f"every episode of world {world} was broken off by an error of its own ({attempts[0][1]})")
    success = wilson(sum(t.success for t in played), len(played))
    example = max(played[:10], key=lambda t: (t.success, len(t)))
    return {
        "world": world,
        "agent": agent,
        "n": success.n,
        "errors": len(attempts) - len(played),
        "success": success.value,
        "ci_low": success.low,
        "ci_high": success.high,
        "mean_return": sum(sum(t.rewards) for t in played) / len(played),
        "mean_steps": sum(map(len, played)) / len(played),
        "example": {"snapshots": [dict(s) for s in example.snapshots], "actions": list(example.actions)},
    }

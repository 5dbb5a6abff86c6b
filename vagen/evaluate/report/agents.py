"""How agents did, world by world, and one episode of each world as a strip of frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vagen.cloze.sample import simulator
from vagen.evaluate.report.inputs import AgentRow, Agents, Episode, ReportError
from vagen.evaluate.report.pictures import Picture, pictures_of

FRAMES_SHOWN = 24  # of an episode
FRAME_PIXELS = 96  # frames are enlarged by a whole factor to about this width


@dataclass(frozen=True)
class Strip:
    """An episode as frames; ``steps`` pairs each frame with the action that led to it ("start" for the first)."""

    world: str
    steps: list[tuple[str, Picture]]
    left_out: int


@dataclass(frozen=True)
class AgentsView:
    """``rows`` are (world, one entry per agent, or None); ``acting`` is the agent whose episodes are shown."""

    names: list[str]
    rows: list[tuple[str, list[AgentRow | None]]]
    acting: str
    strips: list[Strip]


def agents_view(agents: Agents, file: Path) -> AgentsView:
    names, acting = agent_names(agents), acting_agent(agents)
    cells = {(row.world, row.agent): row for row in agents.rows}
    worlds = list(dict.fromkeys(row.world for row in agents.rows))
    strips = [_strip(row.world, row.example, file) for row in agents.rows if row.agent == acting and row.example]
    return AgentsView(
        names=names,
        rows=[(world, [cells.get((world, name)) for name in names]) for world in worlds],
        acting=acting,
        strips=[strip for strip in strips if strip.steps],
    )


def agent_names(agents: Agents) -> list[str]:
    return list(dict.fromkeys(row.agent for row in agents.rows))


def acting_agent(agents: Agents) -> str:
    """The agent the page is about: the first that is no baseline, or else the last."""
    names = agent_names(agents)
    return next((name for name in names if not re.fullmatch(r"random|expert|mixture\(.*\)", name)), names[-1])


def _strip(world: str, episode: Episode, file: Path) -> Strip:
    if len(episode.snapshots) != len(episode.actions) + 1:
        raise ReportError(f"{file} is damaged: an episode of world {world!r} needs one state more than actions")
    pictures = pictures_of(world, episode.snapshots[:FRAMES_SHOWN], FRAME_PIXELS, file)
    if not pictures:
        return Strip(world, [], 0)
    words = simulator(world).actions
    if any(not 0 <= action < len(words) for action in episode.actions):
        raise ReportError(
            f"{file} is damaged: an episode of world {world!r} has an action that is not in 0 … {len(words) - 1}"
        )
    taken = ["start", *(words[action] for action in episode.actions)]
    return Strip(world, list(zip(taken, pictures, strict=False)), len(episode.snapshots) - len(pictures))

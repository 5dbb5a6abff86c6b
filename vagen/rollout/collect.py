"""``vagen collect``: play episodes and keep them as shards."""

from __future__ import annotations

import zlib
from pathlib import Path

from vagen.cloze.sample import simulator
from vagen.config import Collect
from vagen.data.card import CARD, dataset_card
from vagen.data.shards import MANIFEST, Manifest, write_shards
from vagen.files import check_folder
from vagen.progress import tracked
from vagen.rollout.agents import make_agent
from vagen.rollout.episodes import play


def episode_seeds(seed: int, world: str, purpose: str, n: int) -> range:
    """Seeds for ``n`` episodes; different (seed, world, purpose) give ranges that do not meet in practice."""
    start = zlib.crc32(f"{seed}/{world}/{purpose}".encode()) % 2**21
    return range(start * 1024, start * 1024 + n)


def collect(config: Collect, output: Path, seed: int, overwrite: bool = False) -> dict[Path, Manifest]:
    """Collect every world of the configuration into ``output/<world>/<split>``, each with a dataset card.

    Args:
        overwrite: replace shards that are there.

    Returns the manifests by folder.

    Raises:
        WorldError, OutputError: an unknown world, or a folder that is taken, before anything is collected.
    """
    folders = {world: output / world / config.split for world in config.worlds}
    for world, folder in folders.items():
        simulator(world)
        check_folder(folder, MANIFEST, overwrite)
    agent = make_agent(config.behaviour, config.epsilon)
    manifests = {}
    for world, folder in folders.items():
        seeds = episode_seeds(seed, world, f"collect-{config.split}", config.episodes)
        played = play(world, agent, seeds, config.split, config.max_steps)
        episodes = tracked(played, len(seeds), f"collect {world}", "episodes")
        manifests[folder] = write_shards(
            folder,
            (episode for episode in episodes if len(episode)),
            world=world,
            split=config.split,
            seed=seed,
            behaviour=agent.name,
            size=config.shard_size,
            overwrite=overwrite,
            describe=lambda manifest: {CARD: dataset_card(manifest, config.license)},
        )
    return manifests

"""What a training by reinforcement plays: episodes to learn from, to warm up with, and to be measured by.

Everything played is a function of the configuration, the step, and the policy, not of the number of processes: groups
are dealt out to the processes, and each has its seeds. Knows nothing about losses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vagen.cloze.grammar import named
from vagen.cloze.statistics import wilson
from vagen.config import Clozes, Config, ConfigError, Rl
from vagen.data.mixture import weight_at
from vagen.data.shards import read_trajectories, write_shards
from vagen.data.stream import GROUP_TRIES, DataError, Group, ask
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat
from vagen.rollout.agents import make_agent
from vagen.rollout.cached import CachedEngine
from vagen.rollout.collect import episode_seeds
from vagen.rollout.episodes import play
from vagen.rollout.rollouts import rollout, settings_of
from vagen.rollout.turns import Rollout
from vagen.train.experience import Episode, reward_weights, rewarded
from worlds import WorldError

COLLECTED = "collected"  # the folder of a run's collected episodes
SHARD = 500


@dataclass(frozen=True)
class Played:
    """One episode in numbers; all processes know those of all.

    Attributes:
        number, group, world: as in :class:`vagen.train.experience.Episode`.
        success: the world's verdict, or whether a cloze was answered right.
        total, outcome: reward, and reward without that for form.
        parts: of the reward, summed over the turns, by name.
        lengths: tokens of each response.
        formed: turns whose response had its form.
        cut: turns whose response ran into its limit.
        steps: transitions.
        truncated: the episode was cut.
        error: of the world; such an episode counts for nothing else.
    """

    number: int
    group: int
    world: str
    success: bool
    total: float
    outcome: float
    parts: dict[str, float]
    lengths: tuple[int, ...]
    formed: int
    cut: int
    steps: int
    truncated: bool
    error: str


def in_numbers(episode: Episode) -> Played:
    """An episode in numbers."""
    played, rewards = episode.rollout, episode.rewards
    return Played(
        number=episode.number,
        group=episode.group,
        world=played.trajectory.world,
        success=played.trajectory.success,
        total=episode.total,
        outcome=episode.outcome,
        parts={
            "task": sum(reward.task for reward in rewards),
            "format": sum(reward.format for reward in rewards),
            "state_estimation": sum(reward.state_estimation or 0.0 for reward in rewards),
            "transition": sum(reward.transition or 0.0 for reward in rewards),
        },
        lengths=tuple(len(turn.response) for turn in played.turns),
        formed=sum(turn.parsed is not None for turn in played.turns),
        cut=sum(turn.cut for turn in played.turns),
        steps=len(played.trajectory),
        truncated=played.trajectory.truncated,
        error=played.error,
    )


def sound_ones(played: Sequence[Played], step: int, announce: bool) -> list[Played]:
    """The episodes of a step that no world broke off by an error of its own.

    Args:
        announce: say how many others there are, and what was wrong with the first.

    Raises:
        WorldError: there is no sound one.
    """
    broken = [one for one in played if one.error]
    if broken:
        first = f"the first of world {broken[0].world} at {broken[0].error}"
        if len(broken) == len(played):
            raise WorldError(f"step {step}: every episode was broken off by an error of its world, {first}")
        if announce:
            said = f"{len(broken)} of {len(played)} episodes were broken off by errors of their worlds, {first}"
            print(f"vagen: step {step}: {said}", file=sys.stderr, flush=True)
    return [one for one in played if not one.error]


# ---------------------------------------------------------------------------------------------------------- collecting


def collect_pool(config: Config, rl: Rl, chat: Chat) -> None:
    """Collect the episodes of the warm-up into the run's folder, unless they are there already.

    Raises:
        ConfigError: the policy is to collect them itself, and does nothing.
    """
    warmup = rl.warmup
    engine = CachedEngine(chat, rl.rollouts.batch)
    for world in rl.rollouts.worlds:
        folder = Path(config.output) / COLLECTED / world
        if folder.exists():
            continue
        seeds = episode_seeds(config.seed, world, "rl-collect", warmup.episodes)
        if warmup.behaviour == "self":
            played = rollout(engine, world, seeds, range(len(seeds)), settings_of(chat, rl.rollouts))
            episodes = (one.trajectory for one in played)
        else:
            agent = make_agent(warmup.behaviour, warmup.epsilon)
            episodes = play(world, agent, seeds, "train", rl.rollouts.turns)
        kept = [episode for episode in episodes if len(episode)]
        if not kept:
            raise ConfigError(
                f"rl.warmup.behaviour={warmup.behaviour}: no action was taken in {len(seeds)} episodes of {world}; a "
                "policy that does not write actions yet has to learn from another, such as random"
            )
        write_shards(
            folder, kept, world=world, split="train", seed=config.seed, behaviour=warmup.behaviour, size=SHARD
        )


class Pool:
    """The collected episodes of a run, and clozes about any episodes.

    Args:
        config: whose ``clozes`` say what is asked.
    """

    def __init__(self, config: Config, rl: Rl):
        self._seed, self._clozes, self._worlds = config.seed, config.clozes, rl.rollouts.worlds
        self.patterns = {name: named(name) for name in config.clozes.weights}
        self._of: dict[str, list[Trajectory]] = {
            world: list(read_trajectories(Path(config.output) / COLLECTED / world)) for world in self._worlds
        }

    def episode(self, step: int, row: int) -> Trajectory:
        """The episode of a row of a warm-up step."""
        return next(self._walk(row, np.random.default_rng([self._seed, step, row, 3])))

    def group(self, step: int, row: int, progress: float) -> Group:
        """Clozes about one collected episode.

        Raises:
            DataError: no cloze fits any.
        """
        generator = np.random.default_rng([self._seed, step, row, 4])
        return self._asked(self._walk(row, generator), progress, generator)

    def about(self, episodes: Sequence[Rollout], unsure: float, step: int, row: int, progress: float) -> Group | None:
        """Clozes about one of some episodes of a group; ``None`` where none fits any.

        Args:
            unsure: share of their transitions that may be asked about; see :func:`least_sure`.
        """
        generator = np.random.default_rng([self._seed, step, row, 5])
        everywhere: list[Collection[int] | None] = [None] * len(episodes)
        starts = least_sure(episodes, unsure) if unsure < 1 else everywhere
        weights = self._weights(progress)
        found = (
            ask(episodes[number].trajectory, self.patterns, weights, self._clozes, generator, starts=starts[number])
            for number in generator.permutation(len(episodes)).tolist()
        )
        return next((group for group in found if group is not None), None)

    def groups(self, number: int) -> Iterator[Group]:
        """So many groups, to count the tokens of their answers."""
        return (self.group(0, row, 1.0) for row in range(number))

    def _walk(self, row: int, generator: np.random.Generator) -> Iterator[Trajectory]:
        pool = self._of[self._worlds[row % len(self._worlds)]]
        while True:
            yield pool[int(generator.integers(len(pool)))]

    def _asked(self, walk: Iterator[Trajectory], progress: float, generator: np.random.Generator) -> Group:
        for _, episode in zip(range(GROUP_TRIES), walk, strict=False):
            if group := ask(episode, self.patterns, self._weights(progress), self._clozes, generator):
                return group
        raise DataError(f"none of {GROUP_TRIES} collected episodes has room for any of {', '.join(self.patterns)}")

    def _weights(self, progress: float) -> dict[str, float]:
        return cloze_weights(self._clozes, progress)


def least_sure(episodes: Sequence[Rollout], share: float) -> list[set[int]]:
    """The transitions of each episode that followed on the responses which the policy was least sure of.

    What an action leads to is worth most where the policy does not know yet which to take (action entropy as in PaW,
    Lu et al. 2026). How sure it was is told by the mean negative log-probability of a response's tokens, an unbiased
    estimate of their entropy.

    Args:
        share: of all transitions, rounded up; of equals the earlier come first.
    """
    doubts = [
        (-float(np.mean(turn.log_probs)), number, turn.steps + place)
        for number, episode in enumerate(episodes)
        for turn in episode.turns
        for place in range(len(turn.actions))
    ]
    chosen: list[set[int]] = [set() for _ in episodes]
    for _, number, transition in sorted(doubts, key=lambda doubt: -doubt[0])[: math.ceil(share * len(doubts))]:
        chosen[number].add(transition)
    return chosen


def cloze_weights(clozes: Clozes, progress: float) -> dict[str, float]:
    """The weight of each cloze at a share of the training."""
    return {name: weight_at(weight, progress) for name, weight in clozes.weights.items()}


# ------------------------------------------------------------------------------------------------------------- playing


def sampler(chat: Chat, rl: Rl, responses: int) -> CachedEngine:
    """What writes so many responses side by side, or as many as the configuration lets it."""
    return CachedEngine(chat, min(rl.rollouts.batch, max(1, responses)))


def play_worlds(chat: Chat, config: Config, rl: Rl, step: int, rank: int, ranks: int) -> list[Episode]:
    """This process's episodes of a step, in order."""
    settings, weights = rl.rollouts, reward_weights(rl)
    own = range(rank, settings.groups, ranks)
    engine = sampler(chat, rl, len(own) * settings.members)
    episodes = []
    for place, world in enumerate(settings.worlds):
        groups = [group for group in own if group % len(settings.worlds) == place]
        seeds = episode_seeds(config.seed, world, "rl", (step + 1) * settings.groups)
        of_episode = [group for group in groups for _ in range(settings.members)]
        wanted = [seeds[step * settings.groups + group] for group in of_episode]
        played = rollout(engine, world, wanted, of_episode, settings_of(chat, settings))
        for number, one in enumerate(played):
            member = number % settings.members
            rewards = rewarded(one, weights, config.clozes.representation)
            episodes.append(Episode(one.group * settings.members + member, one.group, one, rewards))
    return sorted(episodes, key=lambda episode: episode.number)


# ----------------------------------------------------------------------------------------------------------- measuring


def successes(chat: Chat, rl: Rl, rank: int, ranks: int) -> list[tuple[int, int]]:
    """Successes and episodes of this process's share of the validation episodes, in each world.

    Episodes that a world broke off by an error of its own are not counted.
    """
    settings, engine = rl.evaluation, CachedEngine(chat, rl.rollouts.batch)
    found = []
    for world in rl.rollouts.worlds:
        seeds = episode_seeds(settings.seed, world, f"rl-{settings.split}", settings.episodes)[rank::ranks]
        how = settings_of(chat, rl.rollouts, settings.split, settings.temperature)
        played = rollout(engine, world, seeds, range(len(seeds)), how)
        won = [one.trajectory.success for one in played if not one.error]
        found.append((sum(won), len(won)))
    return found


def success_metrics(names: Sequence[str], counts: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Success with its 95 % interval by the names of worlds (or of what else is asked), and the mean over them.

    Raises:
        WorldError: a world broke off every episode by an error of its own.
    """
    values: dict[str, float] = {}
    for world, (right, total) in zip(names, counts, strict=True):
        if not total:
            raise WorldError(f"every validation episode of world {world} was broken off by an error of its own")
        interval = wilson(right, total)
        values |= {
            f"eval/{world}/success": interval.value,
            f"eval/{world}/success_low": interval.low,
            f"eval/{world}/success_high": interval.high,
        }
    mean = sum(right / total for right, total in counts) / len(counts)
    return {"eval/success": mean, **values}


def share_of(episodes: Sequence[Played], what: Callable[[Played], float]) -> float:
    """The mean of something over episodes; 0 without any."""
    return sum(map(what, episodes)) / max(1, len(episodes))

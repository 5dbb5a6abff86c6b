"""The episode loop: an episode is a function of world, agent, seed and split, and what it tells is what happened."""

import json
from collections import Counter

import numpy as np
import pytest

import worlds
from vagen.cloze.grammar import named
from vagen.data.frames import frame_hash
from vagen.evaluate import worldmodel
from vagen.rollout.agents import ExpertAgent, MixtureAgent, RandomAgent, make_agent
from vagen.rollout.episodes import play
from worlds import SPLITS, WorldError

SMALL = ("frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6")
AGENTS = [RandomAgent(), ExpertAgent(), MixtureAgent(0.5)]

CERTAIN = [id for id in worlds.registered() if worlds.make(id).deterministic]

on_every_world = pytest.mark.parametrize("world", worlds.registered())
on_every_certain_world = pytest.mark.parametrize("world", CERTAIN)
on_small_worlds = pytest.mark.parametrize("world", SMALL)
by_every_agent = pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)


class Scripted:
    """Turns left and right until its answer, after so many steps, is no action."""

    name = "scripted"

    def __init__(self, valid_steps: dict[str, int]):
        self.valid_steps = valid_steps  # by the key of the layout
        self.taken = Counter()
        self.largest = 0

    def act(self, worlds, generators):
        self.largest = max(self.largest, len(worlds))
        assert len({id(world) for world in worlds}) == len(worlds) == len(generators)
        actions = []
        for world in worlds:
            key = world.key(world.state().snapshot)
            self.taken[key] += 1
            actions.append(None if self.taken[key] > self.valid_steps.get(key, 10**6) else self.taken[key] % 2)
        return actions


def played(*arguments, **settings) -> list:
    return list(play(*arguments, **settings))


# ---------------------------------------------------------------------------------------------------- pure functions


@by_every_agent
@on_small_worlds
def test_episodes_do_not_depend_on_their_neighbours(world, agent):
    seeds = range(40, 51)
    together = played(world, agent, seeds, "train", 8)
    assert [episode.seed for episode in together] == list(seeds)
    for batch in (1, 4, 11):
        assert played(world, agent, seeds, "train", 8, batch=batch) == together, f"batch={batch} changes episodes"
    assert played(world, agent, [50, 43, 43], "train", 8) == [together[10], together[3], together[3]]
    assert len({json.dumps(episode.snapshots) for episode in together}) > 5, "episodes are hardly different"


def test_no_seeds_are_no_episodes():
    assert played("sokoban-6x6", RandomAgent(), [], "train") == []


@by_every_agent
@on_every_world
def test_episodes_are_what_a_fresh_world_does(world, agent):
    fresh = worlds.make(world)
    for split in SPLITS:
        for episode in play(world, agent, range(3), split, 12):
            frame, info = fresh.reset(seed=episode.seed, options={"split": split})
            assert episode.frame_hash == frame_hash(frame)
            assert episode.snapshots[0] == fresh.state().snapshot
            assert (episode.world, episode.split, episode.behaviour) == (world, split, agent.name)
            assert fresh.split(episode.snapshots[0]) == split
            terminated = False
            for t in range(len(episode)):
                assert not terminated, "the episode went on after its end"
                _, reward, terminated, _, info = fresh.step(episode.actions[t])
                assert episode.rewards[t] == reward
                assert episode.snapshots[t + 1] == fresh.state().snapshot
            assert episode.terminated == terminated
            assert episode.truncated == (not terminated)
            assert episode.success == info["success"]
            assert len(episode) <= 12
            assert terminated or len(episode) == 12
            assert json.loads(json.dumps(episode.snapshots)) == list(episode.snapshots), "no JSON"


def test_without_a_limit_the_world_ends_the_episode():
    for episode in play("sokoban-6x6", RandomAgent(), range(3), "train"):
        assert episode.terminated or len(episode) == worlds.make("sokoban-6x6").max_steps
        assert episode.truncated != episode.terminated


# ------------------------------------------------------------------------------------------------------------ agents


@on_every_certain_world
def test_the_expert_succeeds_in_the_fewest_steps(world):
    """It ties, or beats, every other way there is: after each of its steps, success is one step nearer."""
    episodes = played(world, ExpertAgent(), range(8), "test")
    assert all(episode.success and episode.terminated for episode in episodes)
    by_chance = played(world, RandomAgent(), range(8), "test", max(map(len, episodes)))
    assert sum(episode.success for episode in by_chance) < len(episodes)
    for expert, random in zip(episodes, by_chance, strict=True):
        assert expert.snapshots[0] == random.snapshots[0], "agents do not meet the same episodes"
        assert not random.success or len(random) >= len(expert)


def test_the_expert_takes_every_optimal_action():
    world = worlds.make("frozenlake-6x6")
    generator = np.random.default_rng(0)
    several = 0
    for seed in range(20):
        world.reset(seed=seed)
        best = world.optimal_actions(world.state().snapshot)
        chosen = {ExpertAgent().act([world], [generator])[0] for _ in range(30)}
        assert chosen == set(best)
        several += len(best) > 1
    assert several


def test_the_expert_acts_at_random_where_nothing_helps():
    world = worlds.make("sokoban-6x6")
    #  the box is in a corner, the target is not
    map = "#######____##____##__._##____#######"
    world.restore({"map": map, "agent": 21, "boxes": [7], "steps": 0})
    assert world.optimal_actions(world.state().snapshot) == ()
    generator = np.random.default_rng(0)
    assert {ExpertAgent().act([world], [generator])[0] for _ in range(60)} == set(range(4))


def test_random_is_uniform():
    world = worlds.make("sokoban-6x6")
    world.reset(seed=0)
    generator = np.random.default_rng(0)
    counts = Counter(RandomAgent().act([world], [generator])[0] for _ in range(4000))
    assert set(counts) == set(range(4))
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 16.3  # chi square, 3 degrees, p = 0.001


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_a_mixture_strays_as_often_as_it_says(epsilon):
    world = worlds.make("sokoban-6x6")
    world.reset(seed=0)
    best = world.optimal_actions(world.state().snapshot)
    generator = np.random.default_rng(0)
    strayed = np.mean([MixtureAgent(epsilon).act([world], [generator])[0] not in best for _ in range(2000)])
    assert strayed == pytest.approx(epsilon * (1 - len(best) / 4), abs=0.04)


def test_agents_by_name():
    assert [make_agent(name).name for name in ("random", "expert")] == ["random", "expert"]
    assert make_agent("mixture", 0.25).name == "mixture(0.25)"
    with pytest.raises(WorldError, match="unknown behaviour 'greedy': choose random, expert or mixture"):
        make_agent("greedy")


def test_agents_leave_worlds_as_they_are():
    world = worlds.make("sokoban-6x6")
    world.reset(seed=0)
    before = world.state()
    for agent in AGENTS:
        agent.act([world], [np.random.default_rng(0)])
        assert world.state() == before


# --------------------------------------------------------------------------------------------------- invalid answers


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_an_answer_that_is_no_action_ends_its_episode_as_a_failure(batch):
    world = "minigrid-rooms-8x8"  # turning around never ends it
    seeds = range(6)
    live = worlds.make(world)
    keys = []
    for seed in seeds:
        live.reset(seed=seed, options={"split": "val"})
        keys.append(live.key(live.state().snapshot))
    agent = Scripted({keys[0]: 0, keys[2]: 3})
    episodes = played(world, agent, seeds, "val", 7, batch=batch)
    assert agent.largest == min(batch, 6)
    assert [len(episode) for episode in episodes] == [0, 7, 3, 7, 7, 7]
    for episode in episodes:
        assert (episode.terminated, episode.truncated, episode.success) == (False, True, False)
        assert len(episode.snapshots) == len(episode.actions) + 1 == len(episode.rewards) + 1
        assert episode.actions == tuple((t + 1) % 2 for t in range(len(episode)))


def test_an_agent_that_never_answers_fails_everywhere():
    class Silent:
        name = "silent"

        def act(self, worlds, generators):
            return [None] * len(worlds)

    for episode in play("frozenlake-4x4", Silent(), range(5), "test"):
        assert (len(episode), episode.success, episode.truncated) == (0, False, True)


# ---------------------------------------------------------------------------------------------- samples of the report


def test_samples_are_a_function_of_their_arguments(draw_samples):
    world, cloze = "sokoban-6x6", "forward_dynamics"
    fresh = sample(world, cloze, 8, 3)
    assert tuple(fresh) == draw_samples(world, cloze, 8)
    assert fresh != sample(world, cloze, 8, 4)
    assert len({s.window.seed for s in fresh}) == 8, "two samples from one episode are not independent"
    assert all(s.window.split == "test" == s.world.split(s.window.snapshots[0]) for s in fresh)


def test_dynamics_are_mostly_asked_where_something_changes():
    samples = sample("frozenlake-4x4", "forward_dynamics", 100, 0)
    changing = [s.world.facts(s.window.snapshots[0]) != s.world.facts(s.window.snapshots[1]) for s in samples]
    assert 0.8 < np.mean(changing) <= 1


def test_samples_that_cannot_be_found_are_refused():
    actions = " ".join(f"a{t}" for t in range(20))
    with pytest.raises(WorldError, match=r"only 0 of 3 samples of 'o0 .*' found; ask for fewer"):
        sample("frozenlake-4x4", f"o0 {actions} -> s20", 3, 0)


def sample(world: str, cloze: str, n: int, seed: int) -> list:
    return worldmodel.draw_samples(world, cloze, named(cloze), n, seed, "test", "grid")

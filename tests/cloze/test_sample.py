"""How samples are built: windows, imagined actions, questions and answers, checked on fresh worlds."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

import worlds
import worlds.core
from vagen.cloze.build import build, write_reward
from vagen.cloze.grammar import NAMED, ClozeError, Task, named, parse
from vagen.cloze.sample import Outcome, UnaskableError, execute, imagined, simulator, window_at
from vagen.cloze.sample import outcome as outcome_of
from vagen.cloze.scoring import score
from vagen.mdp import Trajectory
from worlds.core import WorldSpec
from worlds.text import REPRESENTATIONS, read_facts

# What chance does is asked about in test_chance.py.
CERTAIN = [id for id in worlds.registered() if worlds.make(id).deterministic]
on_every_world = pytest.mark.parametrize("world", CERTAIN)
on_all_that_can_be_asked = pytest.mark.parametrize(
    ("world", "cloze"),
    [(w, c) for w in CERTAIN for c in NAMED if "reward" not in c or worlds.make(w).visible_reward],
)
in_every_representation = pytest.mark.parametrize("representation", REPRESENTATIONS)

#  A lake with a hole at (1, 0) and the goal at (2, 2); the agent starts at (0, 0).
LAKE = "_O________G_____"
LEFT, DOWN, RIGHT, UP = range(4)


def lake(agents: list[int], actions: list[int], rewards: list[float] | None = None, **flags) -> Trajectory:
    """A trajectory over ``LAKE`` by the agent's cells, written down by hand."""
    snapshots = tuple({"map": LAKE, "agent": cell, "steps": step} for step, cell in enumerate(agents))
    paid = tuple(rewards or [0.0] * len(actions))
    return Trajectory("frozenlake-4x4", "train", 0, "hand", snapshots, tuple(actions), paid, **flags)


DOWN_TWICE_RIGHT_TWICE = lake(
    [0, 4, 8, 9, 10], [DOWN, DOWN, RIGHT, RIGHT], [0.0, 0.0, 0.0, 1.0], terminated=True, success=True
)


# ----------------------------------------------------------------------------------------------------------- windows


def test_windows_hold_the_transitions_of_their_trajectory(trajectories):
    for episodes in trajectories.values():
        for episode in episodes:
            for start in range(len(episode)):
                for length in range(1, len(episode) - start + 1):
                    window = window_at(episode, start, length)
                    assert len(window) == length
                    assert len(window.snapshots) == length + 1
                    for t in range(length):
                        assert window.transition(t) == episode.transition(start + t)
            assert window_at(episode, 0, len(episode)) == episode


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_only_the_last_window_ends(flag):
    episode = replace(DOWN_TWICE_RIGHT_TWICE, **{"terminated": False, flag: True})
    assert getattr(window_at(episode, 1, 3), flag)
    assert getattr(window_at(episode, 3, 1), flag)
    assert not getattr(window_at(episode, 0, 3), flag)
    assert not getattr(window_at(episode, 2, 1), flag)
    assert not window_at(episode, 2, 0).terminated


def test_only_the_last_window_of_a_success_succeeds():
    assert window_at(DOWN_TWICE_RIGHT_TWICE, 2, 2).success
    assert not window_at(DOWN_TWICE_RIGHT_TWICE, 0, 2).success


def test_a_window_that_is_too_short_is_refused():
    with pytest.raises(ClozeError, match=r"cloze 'plan_inference' needs 3 transitions, the window has 2"):
        build("plan_inference", named("plan_inference"), window_at(DOWN_TWICE_RIGHT_TWICE, 0, 2), "grid")


def test_no_optimal_action_is_asked_where_there_is_none():
    at_goal = lake([10, 10], [LEFT])
    with pytest.raises(ClozeError, match=r"slot a0\*: no action is optimal here"):
        build("policy", named("policy"), at_goal, "grid")
    assert build("policy", named("policy"), at_goal, "grid", with_answer=False).answer == ""


@on_every_world
def test_rewards_are_asked_only_where_they_can_be_known(world):
    """Where the reward falls with the steps taken, which no image shows, nobody can know it."""
    fresh = worlds.make(world)
    fresh.reset(seed=0)
    terminated, rewards = False, set()
    while not terminated:
        snapshot = fresh.state().snapshot
        [action, *_] = fresh.optimal_actions(snapshot)
        terminated = fresh.step(action)[2]
    for steps in (0, fresh.max_steps // 2):
        before = {**snapshot, "steps": steps}
        fresh.restore(before)
        _, reward, *_ = fresh.step(action)
        rewards.add(reward)
        window = Trajectory(world, "train", 0, "hand", (before, fresh.state().snapshot), (action,), (reward,), True)
    if len(rewards) == 1:
        assert score(build("reward", named("reward"), window, "grid"), write_reward(reward)).correct
    else:
        with pytest.raises(ClozeError, match=rf"slot r0: in {world} the reward depends on what cannot be seen"):
            build("reward", named("reward"), window, "grid")


@pytest.mark.parametrize(
    "pattern",
    [
        *("o0 o1 -> a0", "o0 -> a0*", "o0 a0 -> r0", "o0 a0 -> d0", "o0 -> b0", "o0 a0 a1 -> s2", "a0 o1 -> s0"),
        *("o0 a0 -> s1?2", "o0 a0 -> o1?2", "o0 a0 o1 a0' -> s1'", "o0 a0 a1 {o1 o2} -> order"),
    ],
)
def test_what_is_left_to_chance_is_not_asked(pattern, monkeypatch):
    spec = WorldSpec("slippery", "worlds.frozen_lake:FrozenLake", {"size": 4, "slippery": True})
    monkeypatch.setitem(worlds.core._REGISTRY, "slippery", spec)
    world = worlds.make("slippery")
    world.reset(seed=0)
    before = world.state().snapshot
    world.step(0)
    after = world.state().snapshot
    window = Trajectory("slippery", "train", 0, "hand", (before, after, after), (0, 0), (0.0, 0.0))
    with pytest.raises(ClozeError, match=r"slippery is random"):
        build(pattern, parse(pattern), window, "grid")
    assert build("state", parse("o0 -> s0"), window, "grid").answer, "what an image shows can be asked in any world"
    assert build("next", parse("o0 a0 -> s1"), window, "grid").answer, "one step ahead has a ceiling"
    simulator.cache_clear()


# ---------------------------------------------------------------------------------------------------------- imagined


@on_every_world
def test_imagined_windows_are_what_a_fresh_world_does(world, draw_samples):
    for cloze in ("forward_dynamics", "rollout"):
        for sample in draw_samples(world, cloze, n=4):
            window = sample.window
            outcomes = list(imagined(window))
            fresh = worlds.make(world)
            assert [w.actions[-1] for w in outcomes] == list(range(len(sample.world.actions)))
            assert outcomes[window.actions[-1]] == window, "what really happened is changed"
            for outcome in outcomes:
                fresh.restore(json.loads(json.dumps(window.snapshots[-2])))
                _, reward, terminated, _, info = fresh.step(outcome.actions[-1])
                assert outcome.snapshots[-1] == fresh.state().snapshot
                assert (outcome.rewards[-1], outcome.terminated) == (reward, terminated)
                if outcome is not window:
                    assert outcome.success == info["success"]
                assert outcome.snapshots[:-1] == window.snapshots[:-1]
                assert outcome.actions[:-1] == window.actions[:-1]
                assert outcome.rewards[:-1] == window.rewards[:-1]
                for t in range(len(window) - 1):
                    assert not outcome.transition(t).terminated


def test_imagining_is_not_disturbed_by_others_who_use_the_simulator():
    alone = list(imagined(DOWN_TWICE_RIGHT_TWICE))
    disturbed = []
    for outcome in imagined(DOWN_TWICE_RIGHT_TWICE):
        disturbed.append(outcome)
        simulator("frozenlake-4x4").reset(seed=7)
    assert disturbed == alone


# ----------------------------------------------------------------------------------------------------------- execute


@on_every_world
def test_plans_are_executed_as_a_fresh_world_would(world, draw_samples):
    fresh = worlds.make(world)
    for sample in draw_samples(world, "plan_inference", n=4):
        simulator(world).reset(seed=5)  # what the simulator did before must not matter
        states = execute(simulator(world), sample.window.snapshots[0], sample.window.actions)
        assert states == list(sample.window.snapshots[1:])
        for action in range(len(sample.world.actions)):
            plan = [action, *sample.window.actions[1:]]
            fresh.restore(sample.window.snapshots[0])
            steps = [(fresh.step(a)[2], fresh.state().snapshot) for a in plan]
            expected = None if any(ended for ended, _ in steps[:-1]) else [snapshot for _, snapshot in steps]
            assert execute(simulator(world), sample.window.snapshots[0], plan) == expected


def test_a_plan_ends_where_the_world_ends():
    world = simulator("frozenlake-4x4")
    start = DOWN_TWICE_RIGHT_TWICE.snapshots[0]
    assert execute(world, start, [RIGHT])[-1]["agent"] == 1  # falls into the hole with its last step
    assert execute(world, start, [RIGHT, RIGHT]) is None
    assert execute(world, start, []) == []


@pytest.mark.parametrize(("deterministic", "steps"), [(True, 1), (False, 3)])
def test_outcomes_are_remembered_where_nothing_is_left_to_chance(deterministic, steps, monkeypatch):
    world, taken = worlds.make("frozenlake-4x4"), []
    step = world.step
    monkeypatch.setattr(world, "deterministic", deterministic)
    monkeypatch.setattr(world, "step", lambda action: taken.append(action) or step(action))
    start = DOWN_TWICE_RIGHT_TWICE.snapshots[0]
    found = [outcome_of(world, start, DOWN) for _ in range(3)]
    assert len(taken) == steps
    assert found == [Outcome(DOWN_TWICE_RIGHT_TWICE.snapshots[1], 0.0, False)] * 3
    assert outcome_of(world, DOWN_TWICE_RIGHT_TWICE.snapshots[4], LEFT) is None, "the world has ended there"


# --------------------------------------------------------------------------------------------- questions and answers


@pytest.mark.parametrize(
    ("pattern", "representation", "answer"),
    [
        ("o0 -> s0", "natural", "agent 0 0; goal 2 2; hole 1 0"),
        ("o0 a0 -> s1", "natural", "agent 0 1; goal 2 2; hole 1 0"),
        ("o0 a0 -> s1", "json", '{"agent": [[0, 1]], "goal": [[2, 2]], "hole": [[1, 0]]}'),
        ("o0 a0 -> s1", "grid", "_ O _ _\n@ _ _ _\n_ _ G _\n_ _ _ _"),
        ("o0 a0 a1 a2 a3 -> s4", "grid", "_ O _ _\n_ _ _ _\n_ _ + _\n_ _ _ _"),
        ("o0 o1 -> a0", "grid", "down"),
        ("o1 o4 -> a1 a2 a3", "grid", "down, right, right"),
        ("o0 -> a0*", "grid", "down"),  # right leads into the hole
        ("o0 a0 a1 a2 -> r2", "grid", "0"),
        ("o3 a3 -> r3", "grid", "1"),
        ("o2 a2 -> d2", "grid", "no"),
        ("o3 a3 -> d3", "grid", "yes"),
    ],
)
def test_answers_are_true(pattern, representation, answer):
    sample = build(pattern, parse(pattern), DOWN_TWICE_RIGHT_TWICE, representation)
    assert sample.answer == answer
    assert score(sample, answer).correct


def test_images_are_those_of_the_given_observations():
    sample = build("x", parse("o0 o2 a2 -> s3"), DOWN_TWICE_RIGHT_TWICE, "grid")
    assert [s["agent"] for s in sample.images] == [0, 8]
    assert "0 2" in sample.question, "the question does not say which times the images show"
    sample = build("x", parse("o1 o0 -> a0"), DOWN_TWICE_RIGHT_TWICE, "grid")
    assert [s["agent"] for s in sample.images] == [4, 0]
    assert "1 0" in sample.question


@in_every_representation
@on_every_world
def test_a_text_only_twin_tells_the_state_it_gives_and_nothing_else(world, representation, draw_samples):
    pattern = named("text_forward_dynamics")
    told_apart = 0
    for sample in draw_samples(world, "text_forward_dynamics", n=4):
        sample = build(sample.name, pattern, sample.window, representation)
        before, after = (sample.world.facts(s) for s in sample.window.snapshots)
        assert sample.images == ()
        head, separator, rest = sample.question.partition(": ")
        state, separator, rest = rest.partition(f". action 0: {sample.world.actions[sample.window.actions[0]]}")
        assert head == "state 0"
        assert separator
        assert read_facts(state, sample.world.schema, representation) == before
        told_apart += before != after
        assert (sample.answer in sample.question) == (before == after), "the question tells the answer"
        twin = build("forward_dynamics", named("forward_dynamics"), sample.window, representation)
        assert twin.answer == sample.answer
        assert sample.question.endswith(twin.question), "the twin asks something else"
    assert told_apart >= 2


def without_what_is_not_given(window: Trajectory, pattern, other: Trajectory) -> Trajectory:
    """The window with everything that a pattern does not give replaced by something else."""
    given = {(slot.kind, slot.time) for slot in pattern.given}
    actions = len(simulator(window.world).actions)
    return replace(
        window,
        seed=window.seed + 1,
        behaviour="someone else",
        snapshots=tuple(
            old if {("o", t), ("s", t), ("b", t)} & given else other.snapshots[0]
            for t, old in enumerate(window.snapshots)
        ),
        actions=tuple(a if ("a", t) in given else (a + 1) % actions for t, a in enumerate(window.actions)),
        rewards=tuple(r if ("r", t) in given else r + 7 for t, r in enumerate(window.rewards)),
        terminated=window.terminated if any(slot.kind == "d" for slot in pattern.given) else not window.terminated,
        truncated=not window.truncated,
        success=not window.success,
        frame_hash="",
        provenance={},
    )


def check_that_nothing_else_shows(sample, other: Trajectory) -> None:
    window = without_what_is_not_given(sample.window, sample.pattern, other)
    assert window != sample.window
    changed = build(sample.name, sample.pattern, window, sample.representation, with_answer=False)
    assert changed.question == sample.question, f"{sample.pattern}: the question depends on what is not given"
    assert changed.images == sample.images, f"{sample.pattern}: the images depend on what is not given"


@on_all_that_can_be_asked
def test_questions_depend_on_nothing_but_what_is_given(world, cloze, draw_samples):
    samples = draw_samples(world, cloze, n=4)
    if samples[0].pattern.choices or samples[0].pattern.task == "order":
        return  # the right answer is among what is shown
    for number, sample in enumerate(samples):
        check_that_nothing_else_shows(sample, samples[number - 1].window)


def all_patterns(times: int, most_given: int):
    """Every pattern of so many times and given slots, in order of its words."""
    slots = [f"{kind}{time}" for time in range(times) for kind in "osardb"]
    slots += ["a0'", "o1'", "s1'", "a1'"]
    asked = [*slots, *(f"{slot}?2" for slot in slots), *(f"a{t}*" for t in range(times)), "s1'", "r0'", "d1'", "b1'"]
    asked += [f"a{t} a{t + 1}" for t in range(times - 1)]
    for count in range(1, most_given + 1):
        for shown in itertools.combinations(slots, count):
            for wanted in asked:
                yield f"{' '.join(shown)} -> {wanted}"


def test_any_pattern_that_is_accepted_can_be_asked_and_answered(trajectories):
    """Its own answer is right, and nothing but what is given shows."""
    rng = np.random.default_rng(0)
    tasks, refused = Counter(), defaultdict(set)
    for text in all_patterns(3, 3):
        try:
            pattern = parse(text)
        except ClozeError:
            continue
        episodes = [e for e in trajectories[rng.choice(sorted(trajectories))] if len(e) >= max(1, pattern.length)]
        episode, other = (episodes[i] for i in rng.choice(len(episodes), 2, replace=False))
        length = max(1, pattern.length)
        window = window_at(episode, int(rng.integers(len(episode) - length + 1)), length)
        try:
            sample = build(text, pattern, window, REPRESENTATIONS[rng.integers(3)])
        except UnaskableError as error:
            refused[pattern.task].add(str(error))
            continue
        except ClozeError as error:
            refused["world"].add(str(error).partition(": ")[2])
            continue
        assert score(sample, sample.answer).correct, f"{text}: its own answer {sample.answer!r} is wrong"
        if not (pattern.choices or pattern.counterfactual):  # another action than that taken, given or not
            check_that_nothing_else_shows(sample, other)
        tasks[pattern.task] += 1
    assert set(tasks) == set(get_args(Task)) - {"order"}, tasks
    assert min(tasks.values()) > 20, tasks
    assert all("in minigrid-rooms-6x6 the reward depends on" in reason for reason in refused.pop("world"))
    reasons = {reason for of_task in refused.values() for reason in of_task}
    known = ("no action is optimal here", "wrong options differ", "the counterfactual branch ends")
    assert all(any(part in reason for part in known) for reason in reasons), reasons


@pytest.mark.parametrize(
    ("reward", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-0.1, "-0.1"),
        (0.9, "0.9"),
        (10.9, "10.9"),
        (10.0, "10"),
        (-1.1, "-1.1"),
        (100.0, "100"),
    ],
)
def test_rewards_are_written_short(reward, text):
    assert write_reward(reward) == text

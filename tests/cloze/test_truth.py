"""What counts as right beyond the truth itself, against every state, action and order there is, tried one by one."""

import itertools
import json

import numpy as np
import pytest

import worlds
from vagen.cloze.build import build
from vagen.cloze.grammar import ClozeError, named, parse
from vagen.cloze.sample import LABELS, UnaskableError, read_labels, window_at, write_labels
from vagen.cloze.scoring import accepted_answers, answer_count, score
from vagen.cloze.statistics import ceiling, copy_floor, majority_floor, random_floor
from vagen.cloze.windows import Strata, choose_start, choose_window, events
from vagen.mdp import Trajectory
from worlds import Facts
from worlds.text import write_actions, write_facts

# What chance does is asked about in test_chance.py.
CERTAIN = [id for id in worlds.registered() if worlds.make(id).deterministic]

SMALL = ("frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6")
on_small_worlds = pytest.mark.parametrize("world", SMALL)


def agent_anywhere(sample) -> list[Facts]:
    """The asked state with the agent put into every pose that the schema knows, over whatever lies there."""
    world = sample.world
    truth = world.facts(sample.snapshot(sample.pattern.asked[0]))
    (agent,) = truth.of_kind("agent")
    rest = truth.things - {agent}
    poses = itertools.product(range(world.schema.width), range(world.schema.height), world.schema.kinds["agent"])
    found = [Facts(rest | {type(agent)("agent", x, y, detail)}) for x, y, detail in poses]
    return [facts for facts in found if world.realise(facts, like=sample.snapshot(sample.pattern.asked[0]))]


def shown_after(world_id: str, facts: Facts, like, actions) -> list[Facts] | None:
    """What a fresh world shows after each action from the state with these facts; ``None`` if it ends early."""
    world = worlds.make(world_id)
    world.restore(world.realise(facts, like=like))
    shown = []
    for action in actions:
        if world.terminated:
            return None
        world.step(action)
        shown.append(world.state().facts)
    return shown


# ------------------------------------------------------------------------------------------------------- retrodiction


@on_small_worlds
@pytest.mark.parametrize("cloze", ["retrodiction", "a0 a1 o2 -> s0", "text_retrodiction"])
def test_every_state_that_leads_to_what_is_shown_was_possible(world, cloze, draw_samples):
    several = 0
    for sample in draw_samples(world, cloze, n=6):
        steps = sample.pattern.length
        like, last = sample.window.snapshots[0], sample.world.facts(sample.window.snapshots[steps])
        right = 0
        for facts in agent_anywhere(sample):
            shown = shown_after(world, facts, like, sample.window.actions[:steps])
            expected = shown is not None and shown[-1] == last
            answer = write_facts(facts, sample.world.schema, sample.representation)
            assert score(sample, answer).correct == expected, f"{cloze} in {world}: {answer!r}"
            right += expected
        assert right >= 1, "the truth is among them"
        several += right > 1
    if world == "frozenlake-4x4":
        assert several, "no sample had several possible pasts: the test proves nothing"


def test_a_state_that_has_ended_leads_nowhere():
    """On the goal nothing moves any more, so "it was there before" does not explain that it is there now."""
    lake = "G___" + "____" * 3
    snapshots = tuple({"map": lake, "agent": cell, "steps": step} for step, cell in enumerate([1, 0]))
    window = Trajectory("frozenlake-4x4", "train", 0, "hand", snapshots, (0,), (1.0,), terminated=True, success=True)
    sample = build("retrodiction", named("retrodiction"), window, "grid")
    assert score(sample, sample.answer).correct
    assert not score(sample, "+ _ _ _\n_ _ _ _\n_ _ _ _\n_ _ _ _").correct


@on_small_worlds
def test_an_infilled_state_lies_between_what_is_shown(world, draw_samples):
    for sample in draw_samples(world, "o0 o2 a1 -> s1", n=6):
        first, _, last = sample.window.snapshots[:3]
        one_step = {sample.world.facts(s) for a in range(len(sample.world.actions)) for s in after(world, first, a)}
        for facts in agent_anywhere(sample):
            shown = shown_after(world, facts, first, [sample.window.actions[1]])
            expected = facts in one_step and shown is not None and shown[-1] == sample.world.facts(last)
            answer = write_facts(facts, sample.world.schema, sample.representation)
            assert score(sample, answer).correct == expected, f"{world}: {answer!r}"


def after(world_id: str, snapshot, action: int) -> list:
    world = worlds.make(world_id)
    world.restore(snapshot)
    world.step(action)
    return [world.state().snapshot]


# ------------------------------------------------------------------------------------------------------------ actions


@on_small_worlds
@pytest.mark.parametrize(
    ("cloze", "length", "asked"),
    [("infill_action", 2, (0,)), ("o0 a1 o3 -> a0 a2", 3, (0, 2)), ("o0 o1 o3 a2 -> a0 a1", 3, (0, 1))],
)
def test_infilled_actions_are_tried_with_those_given(world, cloze, length, asked, draw_samples):
    for sample in draw_samples(world, cloze, n=6):
        window = sample.window
        shown_at = [slot.time for slot in sample.pattern.given if slot.kind == "o" and slot.time]
        for plan in itertools.product(range(len(sample.world.actions)), repeat=len(asked)):
            actions = list(window.actions[:length])
            for time, action in zip(asked, plan, strict=True):
                actions[time] = action
            first = sample.world.facts(window.snapshots[0])
            shown = shown_after(world, first, window.snapshots[0], actions)
            expected = shown is not None and all(
                shown[t - 1] == sample.world.facts(window.snapshots[t]) for t in shown_at
            )
            answer = write_actions(plan, sample.world.actions)
            assert score(sample, answer).correct == expected, f"{cloze} in {world}: {answer!r}"


# ----------------------------------------------------------------------------------------------------- counterfactuals


@pytest.mark.parametrize("world", CERTAIN)
def test_counterfactuals_are_what_a_fresh_world_does(world, draw_samples):
    differing = 0
    samples = draw_samples(world, "counterfactual", n=8)
    for sample in samples:
        [factual], [other] = sample.window.actions[:1], sample.branch.actions
        assert other != factual, "the counterfactual action is the one that was taken"
        [expected] = after(world, json.loads(json.dumps(sample.window.snapshots[0])), other)
        facts = sample.world.facts(expected)
        assert score(sample, write_facts(facts, sample.world.schema, sample.representation)).correct
        taken = sample.world.facts(sample.window.snapshots[1])
        differing += facts != taken
        answer = write_facts(taken, sample.world.schema, sample.representation)
        assert score(sample, answer).correct == (facts == taken)
        assert f"action 0: {sample.world.actions[factual]}" in sample.question
        assert f"action 0': {sample.world.actions[other]}" in sample.question
    assert differing >= len(samples) - 1, "nearly every counterfactual should change what is seen"


@on_small_worlds
def test_branches_go_on_with_the_actions_taken_where_none_is_primed(world, trajectories):
    pattern = parse("o0 a0 a1 a2 a1' -> s3'")
    for episode in trajectories[world]:
        if len(episode) < 3:
            continue
        try:
            sample = build("branch", pattern, window_at(episode, 0, 3), "grid")
        except UnaskableError:
            continue
        own, taken = sample.branch.actions, episode.actions[:3]
        assert (own[0], own[2]) == (taken[0], taken[2])
        assert own[1] != taken[1]
        assert sample.branch.snapshots[:2] == episode.snapshots[:2]


# ------------------------------------------------------------------------------------------------------------ choices


@pytest.mark.parametrize("world", CERTAIN)
@pytest.mark.parametrize("cloze", ["next_observation", "s0 a0 -> o1?4", "o0 a0 a1 -> o2?3"])
def test_options_differ_in_their_pixels_and_one_is_right(world, cloze, draw_samples):
    samples = draw_samples(world, cloze, n=12)
    for sample in samples:
        number = sample.pattern.choices
        options = sample.images[-number:]
        frames = sample.world.render_states(options)
        assert len({frame.tobytes() for frame in frames}) == number, "two options look the same"
        right = LABELS.index(sample.answer)
        truth = sample.world.render_states([sample.window.snapshots[sample.pattern.length]])[0]
        assert [np.array_equal(frame, truth) for frame in frames] == [n == right for n in range(number)]
        assert [score(sample, LABELS[n]).correct for n in range(number)] == [n == right for n in range(number)]
        assert f"image {sample.pattern.length}: {' '.join(LABELS[:number])}?" in sample.question
    assert len({sample.answer for sample in samples}) > 1, "the right option stands always in the same place"


@on_small_worlds
def test_other_actions_outcomes_are_the_first_distractors(world, draw_samples):
    for sample in draw_samples(world, "next_observation", n=8):
        before = sample.window.snapshots[0]
        outcomes = {sample.world.facts(s) for a in range(len(sample.world.actions)) for s in after(world, before, a)}
        shown = {sample.world.facts(snapshot) for snapshot in sample.images[1:]}
        assert len(shown & outcomes) == min(len(outcomes), 4)


@on_small_worlds
@pytest.mark.parametrize("cloze", ["o0 a0 -> s1?3", "o0 o1 -> a0?2", "o0 -> a0*?2", "o0 a0 -> d0?2", "o0 -> b0?4"])
def test_options_in_words_have_one_right_answer(world, cloze, draw_samples):
    free = str(parse(cloze)).partition("?")[0]
    for sample in draw_samples(world, cloze, n=8, representation="json"):
        asked = build("free", parse(free), sample.window, sample.representation)
        options = [part.split(": ", 1)[1] for part in sample.question.split(". ") if part[:3] in options_of(sample)]
        assert len(options) == len(set(options)) == sample.pattern.choices
        assert [score(asked, option).correct for option in options] == [
            label == sample.answer for label in LABELS[: len(options)]
        ]


def options_of(sample) -> set[str]:
    return {f"{label}: " for label in LABELS[: sample.pattern.choices]}


def test_a_window_with_too_few_different_outcomes_is_not_asked():
    lake = "G" + "O" * 3 + "_OOO" + "O" * 8
    states = [{"map": lake, "agent": 4, "steps": 0}, {"map": lake, "agent": 0, "steps": 1}]
    window = Trajectory("frozenlake-4x4", "train", 0, "hand", tuple(states), (3,), (1.0,), True, success=True)
    assert build("few", parse("o0 a0 -> o1?4"), window, "grid").answer
    with pytest.raises(UnaskableError, match="only 3 wrong options differ"):
        build("many", parse("o0 a0 -> o1?8"), window, "grid")


# -------------------------------------------------------------------------------------------------------------- order


@on_small_worlds
@pytest.mark.parametrize("cloze", ["reorder_observations", "text_reorder_states", "reorder_actions"])
def test_every_order_that_shows_the_same_counts(world, cloze, draw_samples):
    for sample in draw_samples(world, cloze, n=8):
        window, asked = sample.window, sample.pattern.asked
        for order in itertools.permutations(range(len(asked))):
            placed = [asked[sample.order[label]].time for label in order]
            if asked[0].kind == "a":
                first = sample.world.facts(window.snapshots[0])
                shown = shown_after(world, first, window.snapshots[0], [window.actions[time] for time in placed])
                expected = shown == [sample.world.facts(s) for s in window.snapshots[1:4]]
            else:
                expected = all(
                    sample.world.facts(window.snapshots[one]) == sample.world.facts(window.snapshots[two.time])
                    for one, two in zip(placed, asked, strict=True)
                )
            assert score(sample, write_labels(order)).correct == expected
            assert (order in accepted_answers(sample)) == expected
        assert score(sample, sample.answer).correct


def test_orders_are_shuffled(draw_samples):
    orders = {sample.order for sample in draw_samples("sokoban-6x6", "reorder_observations", n=40)}
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("text", "labels"),
    [("B A C", (1, 0, 2)), ("B,A,C", (1, 0, 2)), ("A", (0,)), ("", None), ("D", None), ("a b", None), ("A.", None)],
)
def test_labels_are_read_strictly(text, labels):
    assert read_labels(text, 3) == labels


# ------------------------------------------------------------------------------------------------------------- budget


@on_small_worlds
def test_budgets_are_the_fewest_steps_or_impossible(world, draw_samples):
    for sample in draw_samples(world, "budget", n=10):
        steps = sample.world.steps_to_go(sample.window.snapshots[0])
        assert sample.answer == ("impossible" if steps is None else str(steps))
        assert score(sample, sample.answer).correct
        for wrong in ("", "-1", "soon", str((steps or 0) + 1), "impossible" if steps is not None else "3"):
            assert not score(sample, wrong).correct
    assert score(sample, f" 0{sample.answer} ").correct == (sample.answer != "impossible")


def test_boxes_that_are_lost_make_it_impossible():
    ground = "######" + "#____#" * 2 + "#___.#" + "#____#" + "######"
    snapshot = {"map": ground, "agent": 14, "boxes": [7], "steps": 0}
    window = Trajectory("sokoban-6x6", "train", 0, "hand", (snapshot,), (), ())
    assert build("budget", named("budget"), window, "grid").answer == "impossible"


# --------------------------------------------------------------------------------------------------- floors, ceilings


def test_floors_of_choices_and_orders(draw_samples):
    choices = draw_samples("sokoban-6x6", "next_observation", n=40)
    assert random_floor(choices).value == pytest.approx(1 / 4)
    assert copy_floor(choices) is None
    assert majority_floor(choices).value < 0.6
    orders = draw_samples("sokoban-6x6", "reorder_observations", n=20)
    accepted = [len(accepted_answers(sample)) for sample in orders]
    assert random_floor(orders).value == pytest.approx(sum(accepted) / 20 / 6)
    assert answer_count(orders[0]) == 6
    assert ceiling(orders) == 1


def test_copying_the_later_state_is_a_floor_of_retrodiction(draw_samples):
    """Right where the action may have changed nothing."""
    samples = draw_samples("frozenlake-4x4", "retrodiction", n=40)
    hits = 0
    for sample in samples:
        later = write_facts(sample.world.facts(sample.window.snapshots[1]), sample.world.schema, "grid")
        hits += score(sample, later).correct
    assert copy_floor(samples).value == hits / 40


def test_chance_sets_the_ceiling_of_slippery_ice(monkeypatch):
    from vagen.cloze.sample import simulator

    spec = worlds.core.WorldSpec("slippery", "worlds.frozen_lake:FrozenLake", {"size": 4, "slippery": True})
    monkeypatch.setitem(worlds.core._REGISTRY, "slippery", spec)
    world = worlds.make("slippery")
    samples = []
    for seed in range(30):
        world.reset(seed=seed)
        before = world.state().snapshot
        _, reward, terminated, *_ = world.step(seed % 4)
        window = Trajectory(
            "slippery", "test", seed, "hand", (before, world.state().snapshot), (seed % 4,), (reward,), terminated
        )
        samples.append(build("forward_dynamics", named("forward_dynamics"), window, "grid"))
    chances = [
        max(chance for chance, _ in world.outcomes(s.window.snapshots[0], s.window.actions[0])) for s in samples
    ]
    assert ceiling(samples) == pytest.approx(np.mean(chances))
    assert ceiling(samples) < 0.6
    simulator.cache_clear()


# ------------------------------------------------------------------------------------------------------------- strata


def test_balanced_strata_make_pushes_common(trajectories):
    rng = np.random.default_rng(0)
    drawn = {True: [], False: []}
    for balance, episode, _ in itertools.product((True, False), trajectories["sokoban-6x6"], range(40)):
        start = choose_start(episode, range(len(episode)), Strata(0.1, balance), rng)
        drawn[balance].append("box" in events(episode)[start])
    assert np.mean(drawn[True]) > np.mean(drawn[False]) + 0.1


@pytest.mark.parametrize("idle", [0.0, 0.5, 1.0])
def test_idle_windows_have_their_share(trajectories, idle):
    rng = np.random.default_rng(0)
    drawn = []
    for episode in trajectories["frozenlake-4x4"]:
        kinds = events(episode)
        if () in kinds and any(kinds):
            drawn += [
                kinds[choose_start(episode, range(len(kinds)), Strata(idle, True), rng)] == () for _ in range(200)
            ]
    assert len(drawn) >= 200
    assert np.mean(drawn) == pytest.approx(idle, abs=0.06)


def test_terminations_are_asked_as_often_of_ends_as_of_others(trajectories):
    rng = np.random.default_rng(0)
    pattern = named("termination")
    ended = [e for e in trajectories["frozenlake-4x4"] if e.terminated and len(e) > 2]
    ends = [choose_window(e, pattern, Strata(), rng) == len(e) - 1 for e in ended for _ in range(100)]
    assert np.mean(ends) == pytest.approx(0.5, abs=0.1)


def test_no_window_is_found_in_what_is_too_short(trajectories):
    rng = np.random.default_rng(0)
    episode = window_at(trajectories["sokoban-6x6"][0], 0, 2)
    for cloze in ("rollout", "termination", "policy"):
        found = choose_window(episode, named(cloze), Strata(), rng)
        assert (found is None) == (cloze == "rollout")


def test_patterns_that_worlds_cannot_answer_are_refused(monkeypatch):
    world = worlds.make("sokoban-6x6")
    window = Trajectory("sokoban-6x6", "train", 0, "hand", (), (), ())
    for attribute, value, cloze, reason in (
        ("has_solver", False, "policy", "has no solver"),
        ("has_solver", False, "budget", "has no solver"),
        ("fully_visible", False, "retrodiction", "is seen in part"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(type(world), attribute, value)
            with pytest.raises(ClozeError, match=reason):
                build(cloze, named(cloze), window_like(window, named(cloze).length), "grid")


def window_like(window: Trajectory, length: int) -> Trajectory:
    """Any window of so many transitions; nothing of it is looked at before the world is."""
    world = worlds.make(window.world)
    world.reset(seed=0)
    states = tuple(world.state().snapshot for _ in range(length + 1))
    return Trajectory(window.world, "train", 0, "hand", states, (0,) * length, (0.0,) * length)

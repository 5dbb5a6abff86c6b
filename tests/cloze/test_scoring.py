"""Exact scores against answers found by brute force: every action and every plan tried on a fresh world."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import worlds
from vagen.cloze.build import build
from vagen.cloze.grammar import NAMED, named, parse
from vagen.cloze.scoring import Score, accepted_answers, field_f1, score
from vagen.mdp import Trajectory
from worlds import Facts, Thing
from worlds.text import REPRESENTATIONS, write_actions, write_facts

SMALL = ("frozenlake-4x4", "frozenlake-6x6", "sokoban-6x6", "minigrid-rooms-6x6")

# What chance does is asked about in test_chance.py.
CERTAIN = [id for id in worlds.registered() if worlds.make(id).deterministic]
on_every_world = pytest.mark.parametrize("world", CERTAIN)
on_small_worlds = pytest.mark.parametrize("world", SMALL)
on_every_cloze = pytest.mark.parametrize("cloze", NAMED)
on_all_that_can_be_asked = pytest.mark.parametrize(
    ("world", "cloze"),
    [(w, c) for w in CERTAIN for c in NAMED if "reward" not in c or worlds.make(w).visible_reward],
)


def lake(map: str, agents: list[int], actions: list[int], **flags) -> Trajectory:
    """A trajectory over a 4 x 4 lake by the agent's cells, written down by hand."""
    snapshots = tuple({"map": map, "agent": cell, "steps": step} for step, cell in enumerate(agents))
    return Trajectory("frozenlake-4x4", "train", 0, "hand", snapshots, tuple(actions), (0.0,) * len(actions), **flags)


def facts_along(world: worlds.World, snapshot, plan) -> list[Facts] | None:
    """What a plan shows after each step; ``None`` if the world ends before all steps are taken."""
    world.restore(snapshot)
    shown = []
    for number, action in enumerate(plan):
        _, _, terminated, _, _ = world.step(action)
        shown.append(world.state().facts)
        if terminated and number < len(plan) - 1:
            return None
    return shown


def best_actions(world: worlds.World, snapshot) -> set[int]:
    """Every action that starts a shortest way to success, by a search of all that ``step`` can reach."""
    start = world.facts(snapshot)
    edges: dict[Facts, list[Facts | None]] = {}
    solved: set[Facts] = set()
    queue = [(start, snapshot)]
    for facts, state in queue:
        if facts in edges:
            continue
        edges[facts] = []
        for action in range(len(world.actions)):
            world.restore(state)
            _, _, terminated, _, info = world.step(action)
            after = world.state()
            if info["success"]:
                solved.add(after.facts)
            dead = terminated and not info["success"]
            edges[facts].append(None if dead else after.facts)
            if not terminated:
                queue.append((after.facts, after.snapshot))
    far = dict.fromkeys(solved, 0)
    for distance in itertools.count(1):
        near = [f for f, to in edges.items() if f not in far and any(far.get(t) == distance - 1 for t in to)]
        far.update(dict.fromkeys(near, distance))
        if not near:
            break
    if start not in far or start in solved:
        return set()
    return {action for action, to in enumerate(edges[start]) if to is not None and far.get(to) == far[start] - 1}


# ------------------------------------------------------------------------------------------------------------- truth


@on_all_that_can_be_asked
def test_the_truth_is_right_in_every_representation(world, cloze, draw_samples):
    for sample in draw_samples(world, cloze, n=4):
        for representation in REPRESENTATIONS:
            written = build(sample.name, sample.pattern, sample.window, representation)
            result = score(written, written.answer)
            assert result.correct, f"{written.question!r}: its own answer {written.answer!r} is wrong"
            assert result.parsed
            assert score(written, f" {written.answer}\n").correct, "white space around an answer makes it wrong"
            if written.pattern.task == "state" and not written.pattern.choices:
                assert set(result.field_f1.values()) == {1.0}
            else:
                assert result.field_f1 == {}


# --------------------------------------------------------------------------------------------------- equivalence sets


@pytest.mark.parametrize("cloze", ["inverse_dynamics", "text_inverse_dynamics"])
@on_every_world
def test_every_action_with_the_same_visible_outcome_counts(world, cloze, draw_samples):
    fresh = worlds.make(world)
    for sample in draw_samples(world, cloze, n=8):
        before, after = sample.window.snapshots
        right = {
            action
            for action in range(len(fresh.actions))
            if facts_along(fresh, before, [action]) == [fresh.facts(after)]
        }
        assert sample.window.actions[0] in right
        assert accepted_answers(sample) == {(action,) for action in right}
        for action, word in enumerate(fresh.actions):
            assert score(sample, word) == Score(action in right, True, {}), (word, sample.window)


def test_bumping_into_an_edge_is_like_bumping_into_another():
    corner = lake("__________G_____", [0, 0], [0])
    sample = build("inverse_dynamics", named("inverse_dynamics"), corner, "grid")
    assert sample.answer == "left"
    right = {word for word in sample.world.actions if score(sample, word).correct}
    assert right == {"left", "up"}


def test_what_nobody_sees_does_not_make_an_action_wrong():
    """A step counter that differs, as hidden contents would."""
    bump = lake("__________G_____", [0, 0], [0])
    bump = replace(bump, snapshots=(bump.snapshots[0], {**bump.snapshots[1], "steps": 50}))
    assert score(build("inverse_dynamics", named("inverse_dynamics"), bump, "grid"), "up").correct


@on_small_worlds
def test_every_optimal_action_counts(world, draw_samples):
    fresh = worlds.make(world)
    several = 0
    for sample in draw_samples(world, "policy", n=16):
        best = best_actions(fresh, sample.window.snapshots[0])
        assert best
        assert accepted_answers(sample) == {(action,) for action in best}
        for action, word in enumerate(fresh.actions):
            assert score(sample, word) == Score(action in best, True, {}), (word, sample.window)
        several += len(best) > 1
    if world != "sokoban-6x6":  # pushing one box leaves hardly a choice
        assert several, "no sample has several optimal actions: the test shows little"


def test_the_optimal_action_is_asked_at_its_own_time():
    walk = lake("__________G_____", [8, 9, 10], [2, 2], terminated=True, success=True)
    sample = build("x", parse("o0 a0 -> a1*"), walk, "grid")
    assert {word for word in sample.world.actions if score(sample, word).correct} == {"right"}


@pytest.mark.parametrize("cloze", ["plan_inference", "s0 o2 -> a0 a1"])
@on_small_worlds
def test_plans_are_scored_by_execution(world, cloze, draw_samples):
    fresh = worlds.make(world)
    others = 0
    for sample in draw_samples(world, cloze, n=8):
        length = len(sample.pattern.asked)
        end = fresh.facts(sample.window.snapshots[length])
        for plan in itertools.product(range(len(fresh.actions)), repeat=length):
            shown = facts_along(fresh, sample.window.snapshots[0], plan)
            arrives = shown is not None and shown[-1] == end
            answer = write_actions(plan, fresh.actions)
            assert score(sample, answer) == Score(arrives, True, {}), (answer, sample.window)
            others += arrives and plan != sample.window.actions
    assert others, "no other plan arrives: the test shows little"


def test_a_plan_must_not_end_before_it_is_over():
    walk = lake("_G______________", [0, 4, 5, 1], [1, 2, 3], terminated=True, success=True)
    sample = build("plan_inference", named("plan_inference"), walk, "grid")
    assert score(sample, "down, right, up").correct
    assert score(sample, "left, left, right").correct, "arrives with its last step"
    assert not score(sample, "right, left, left").correct, "the episode was over after its first step"


@on_small_worlds
def test_a_plan_must_pass_through_what_is_shown_between(world, draw_samples):
    fresh = worlds.make(world)
    for sample in draw_samples(world, "o0 o1 o2 -> a0 a1", n=16):
        shown = [fresh.facts(snapshot) for snapshot in sample.window.snapshots[1:]]
        for plan in itertools.product(range(len(fresh.actions)), repeat=2):
            expected = facts_along(fresh, sample.window.snapshots[0], plan) == shown
            assert score(sample, write_actions(plan, fresh.actions)).correct == expected, (plan, sample.window)


# ------------------------------------------------------------------------------------------------------ wrong answers


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@on_every_world
def test_a_state_with_one_thing_moved_is_wrong(world, representation, draw_samples):
    sample = draw_samples(world, "forward_dynamics", n=4)[0]
    sample = build(sample.name, sample.pattern, sample.window, representation)
    schema, truth = sample.world.schema, sample.world.facts(sample.window.snapshots[1])
    empty = [(x, y) for x in range(schema.width) for y in range(schema.height) if not truth.at(x, y)]
    for thing in sorted(truth.things):
        moved = replace(thing, x=empty[0][0], y=empty[0][1])
        result = score(sample, write_facts(Facts(truth.things - {thing} | {moved}), schema, representation))
        assert (result.correct, result.parsed) == (False, True)
        n = len(truth.of_kind(thing.kind))
        assert result.field_f1[thing.kind] == pytest.approx((n - 1) / n), "n - 1 of n things are right"
        assert all(value == 1 for kind, value in result.field_f1.items() if kind != thing.kind)


def test_the_state_before_is_a_wrong_answer_where_something_changed(draw_samples):
    changed = 0
    for sample in draw_samples("minigrid-rooms-6x6", "forward_dynamics"):
        before, after = (sample.world.facts(s) for s in sample.window.snapshots)
        result = score(sample, write_facts(before, sample.world.schema, "grid"))
        assert result.correct == (before == after)
        changed += before != after
    assert changed


@pytest.mark.parametrize(
    ("cloze", "answer", "parsed"),
    [
        ("inverse_dynamics", "", False),
        ("inverse_dynamics", "jump", False),
        ("inverse_dynamics", "LEFT", False),
        ("inverse_dynamics", "left, left", True),
        ("inverse_dynamics", "left,", False),
        ("plan_inference", "down", True),
        ("plan_inference", "down, down, down, down", True),
        ("plan_inference", "down down down", False),
        ("policy", "left, left", True),
        ("policy", "a", False),
        ("reward", "", False),
        ("reward", "nan", True),
        ("reward", "inf", True),
        ("reward", "-1e999", True),
        ("reward", "0.5", True),
        ("reward", "0, 0", False),
        ("reward", "none", False),
        ("termination", "", False),
        ("termination", "Yes", False),
        ("termination", "yes no", False),
        ("termination", "true", False),
        ("state_estimation", "", False),
        ("state_estimation", "_", False),
        ("state_estimation", "agent 0 0", False),
    ],
)
def test_an_answer_that_is_none_is_wrong(cloze, answer, parsed, draw_samples):
    for sample in draw_samples("frozenlake-4x4", cloze):
        result = score(sample, answer)
        assert (result.correct, result.parsed) == (False, parsed)
        if cloze == "state_estimation":
            assert result.field_f1 == dict.fromkeys(("agent", "goal", "hole"), 0.0)


@pytest.mark.parametrize(("said", "truth"), [("yes", "no"), ("no", "yes")])
def test_the_other_event_is_wrong(said, truth):
    ends = truth == "yes"
    walk = lake("_G______________", [0, 1 if ends else 4], [2 if ends else 1], terminated=ends, success=ends)
    sample = build("termination", named("termination"), walk, "grid")
    assert sample.answer == truth
    assert score(sample, truth).correct
    assert score(sample, said) == Score(False, True, {})


@pytest.mark.parametrize(("answer", "correct"), [("1", True), (" 1.00\n", True), ("+1", True), ("0.99", False)])
def test_rewards_are_compared_as_numbers(answer, correct):
    walk = replace(lake("_G______________", [0, 1], [2], terminated=True, success=True), rewards=(1.0,))
    sample = build("reward", named("reward"), walk, "grid")
    assert score(sample, answer).correct == correct


def test_junk_after_much_space_is_still_junk(draw_samples):
    [sample, *_] = draw_samples("frozenlake-4x4", "inverse_dynamics")
    assert not score(sample, sample.answer + " " * 100_000 + ", jump").correct


JUNK = (
    st.text()
    | st.text(alphabet='0123456789 ,;:.-+eE[]{}"_@GOagentholyws\n', max_size=80)
    | st.sampled_from(("[" * 100_000, '{"agent":' * 20_000, "9" * 100_000, "1e" + "9" * 5000, "\x00", "\ud800"))
)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@on_every_cloze
def test_no_answer_makes_scoring_raise(cloze, representation, draw_samples):
    """And what is scored as right says the same as the truth: read on its own, not by the scorer."""
    samples = [
        build(sample.name, sample.pattern, sample.window, representation)
        for world in ("frozenlake-4x4", "sokoban-6x6")
        for sample in draw_samples(world, cloze)[:2]
    ]
    edits = st.builds(
        lambda sample, start, length, put: (sample, sample.answer[:start] + put + sample.answer[start + length :]),
        st.sampled_from(samples),
        st.integers(0, 40),
        st.integers(0, 4),
        st.text(alphabet='0123456789 ,;"[]{}_@Gagent\n', max_size=3),
    )

    @settings(max_examples=40)
    @given(st.tuples(st.sampled_from(samples), JUNK) | edits)
    @example((samples[0], ""))
    def check(pair):
        sample, answer = pair
        result = score(sample, answer)
        assert not (result.correct and not result.parsed)
        assert all(0 <= value <= 1 for value in result.field_f1.values())
        if result.correct and sample.pattern.task == "state" and not sample.pattern.choices:
            letters = [sorted(c for c in text if not c.isspace() and c != ".") for text in (answer, sample.answer)]
            assert letters[0] == letters[1], f"{answer!r} is taken for {sample.answer!r}"

    check()


# ---------------------------------------------------------------------------------------------------------------- F1


def things(*cells: tuple) -> Facts:
    return Facts(frozenset(Thing(*cell) for cell in cells))


@pytest.mark.parametrize(
    ("truth", "answer", "expected"),
    [
        (things(("a", 1, 1)), things(("a", 1, 1)), {"a": 1.0}),
        (things(("a", 1, 1)), things(("a", 1, 2)), {"a": 0.0}),
        (things(("a", 1, 1, "east")), things(("a", 1, 1, "west")), {"a": 0.0}),
        (things(("a", 1, 1)), things(("b", 1, 1)), {"a": 0.0, "b": 0.0}),
        (things(("a", 1, 1), ("w", 0, 0), ("w", 1, 0)), things(("a", 1, 1), ("w", 0, 0)), {"a": 1.0, "w": 2 / 3}),
        (things(("w", 0, 0), ("w", 1, 0)), things(("w", 0, 0), ("w", 2, 0)), {"w": 0.5}),
        (things(("w", 0, 0)), things(("w", 0, 0), ("w", 1, 0), ("w", 2, 0)), {"w": 0.5}),
        (things(("w", 0, 0)), things(), {"w": 0.0}),
        (things(), things(), {}),
    ],
)
def test_field_f1(truth, answer, expected):
    assert field_f1(truth, answer) == pytest.approx(expected)
    assert field_f1(answer, truth) == pytest.approx(expected), "F1 is symmetric"

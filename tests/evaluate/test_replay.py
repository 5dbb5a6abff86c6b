"""The scorer against the replay, which plays every history there is: over patterns of all kinds, answer by answer."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vagen.cloze.build import build
from vagen.cloze.grammar import ClozeError, parse
from vagen.cloze.sample import UnaskableError, window_at, write_labels
from vagen.cloze.scoring import score
from vagen.evaluate import replay
from vagen.evaluate.replay import ReplayError, explains
from vagen.mdp import Trajectory
from worlds import Facts
from worlds.text import write_actions, write_facts

LEFT, DOWN, RIGHT, UP = range(4)
OPEN = "__________G_____"


def lake(map: str, agents: list[int], actions: list[int], rewards: list[float] | None = None, **flags) -> Trajectory:
    """A trajectory over a 4 x 4 lake by the agent's cells, written down by hand."""
    snapshots = tuple({"map": map, "agent": cell, "steps": step} for step, cell in enumerate(agents))
    paid = tuple(rewards or [0.0] * len(actions))
    return Trajectory("frozenlake-4x4", "train", 0, "hand", snapshots, tuple(actions), paid, **flags)


def right_answers(pattern: str, window: Trajectory, answers) -> set[str]:
    """Which answers are right, by the scorer and by the replay alike."""
    sample = build(pattern, parse(pattern), window, "natural")
    right = {answer for answer in answers if score(sample, answer).correct}
    assert right == {answer for answer in answers if explains(sample, answer)}
    return right


def pairs(words: tuple[str, ...], length: int) -> list[str]:
    return [", ".join(plan) for plan in itertools.product(words, repeat=length)]


WORDS = ("left", "down", "right", "up")


# ---------------------------------------------------------------------------------- all that is given counts, by hand


def test_a_reward_on_the_way_rules_out_plans():
    """A box is put on its target with the first step or with the second; the other step bumps into a wall."""
    ground = "########" + "#__.___#" + "#______#" * 3 + "#____._#" + "#______#" + "########"
    states = [
        {"map": ground, "agent": agent, "steps": step, "boxes": [box, 36]}
        for step, (agent, box) in enumerate([(9, 10), (9, 10), (10, 11)])
    ]
    push = Trajectory("sokoban-8x8-2box", "train", 0, "hand", tuple(states), (0, 3), (-0.1, 0.9))
    plans = pairs(("up", "down", "left", "right"), 2)
    assert right_answers("o0 o2 -> a0 a1", push, plans) == {"up, right", "left, right", "right, up"}
    assert right_answers("o0 o2 r0 -> a0 a1", push, plans) == {"up, right", "left, right"}
    assert right_answers("o0 r1 o2 -> a0 a1", push, plans) == {"up, right", "left, right"}


def test_steps_to_go_on_the_way_rule_out_plans():
    walk = lake(OPEN, [5, 6, 5], [RIGHT, LEFT])
    free = right_answers("o0 o2 -> a0 a1", walk, pairs(WORDS, 2))
    assert free == {"left, right", "right, left", "up, down", "down, up"}
    assert right_answers("o0 o2 b1 -> a0 a1", walk, pairs(WORDS, 2)) == {"right, left", "down, up"}


def places(map: str) -> dict[str, int]:
    """Where the agent could be, as an answer: the cell by the text of the state."""
    from vagen.cloze.sample import simulator

    world = simulator("frozenlake-4x4")
    texts = {}
    for cell in range(16):
        facts = world.facts({"map": map, "agent": cell, "steps": 0})
        texts[write_facts(facts, world.schema, "natural")] = cell
    return texts


def test_both_branches_tell_of_the_state_before_they_part():
    walk = lake(OPEN, [0, 0], [LEFT])
    cells = places(OPEN)
    factual = right_answers("a0 o1 -> s0", walk, cells)
    assert {cells[answer] for answer in factual} == {0, 1}
    pattern = parse("a0 o1 a0' o1' -> s0")
    branch = build("both", pattern, walk, "natural").branch
    assert branch is not None
    both = right_answers("a0 o1 a0' o1' -> s0", walk, cells)
    assert {cells[answer] for answer in both} == {0}, f"after {branch.actions} only one cell fits"


def test_steps_to_go_tell_of_the_state_they_are_given_for():
    walk = lake(OPEN, [8, 8], [LEFT])
    cells = places(OPEN)
    assert {cells[answer] for answer in right_answers("a0 o1 -> s0", walk, cells)} == {8, 9}
    assert {cells[answer] for answer in right_answers("a0 o1 b0 -> s0", walk, cells)} == {8}


def test_the_action_before_the_fork_serves_both_branches():
    """Up from the top row, or down and then up from it: the first looks the same after ``up``, not after another."""
    walk = lake(OPEN, [1, 1, 1], [UP, UP])
    assert right_answers("o0 o2 a1 -> a0", walk, WORDS) == {"up", "down"}
    assert right_answers("o0 o2 a1 a1' o2' -> a0", walk, WORDS) == {"up"}


# ------------------------------------------------------------------------------------- all patterns, answer by answer


def random_pattern(rng: np.random.Generator) -> str:
    slots = [f"{kind}{time}" for time in range(4) for kind in "osaaard"] + ["b0", "b1", "b2"]
    slots += ["a0'", "a0'", "a1'", "o1'", "s1'", "o2'", "o2'", "r0'", "r1'", "d1'", "b2'"]
    asked = ["s0", "s0", "s1", "s1", "s2", "a0", "a1", "a0 a1", "a1 a2", "a0 a2", "a0'", "a1'", "s1'", "s2'"]
    shown = rng.choice(slots, int(rng.integers(2, 8)))
    return f"{' '.join(dict.fromkeys(shown))} -> {rng.choice(asked)}"


def ambiguous(pattern) -> bool:
    return pattern.task == "actions" or (pattern.task == "state" and not pattern.is_foretold(pattern.asked[0]))


def possible_answers(sample) -> list[str]:
    """Every sequence of actions; or the asked state with the agent put anywhere."""
    world = sample.world
    if sample.pattern.task == "actions":
        plans = itertools.product(range(len(world.actions)), repeat=len(sample.pattern.asked))
        return [write_actions(plan, world.actions) for plan in plans]
    truth = world.facts(sample.snapshot(sample.pattern.asked[0]))
    (agent,) = truth.of_kind("agent")
    poses = itertools.product(range(world.schema.width), range(world.schema.height), world.schema.kinds["agent"])
    states = [Facts(truth.things - {agent} | {replace(agent, x=x, y=y, detail=d)}) for x, y, d in poses]
    return [write_facts(f, world.schema, sample.representation) for f in states if world.schema.allows(f)]


@pytest.mark.parametrize("world", ["frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6"])
def test_the_scorer_and_the_replay_agree_on_every_answer(world, trajectories):
    rng = np.random.default_rng(7)
    tried, told = Counter(), Counter()
    while sum(tried.values()) < 60:
        try:
            pattern = parse(random_pattern(rng))
        except ClozeError:
            continue
        if not ambiguous(pattern):
            continue
        episodes = [episode for episode in trajectories[world] if len(episode) >= pattern.length]
        episode = episodes[rng.integers(len(episodes))]
        window = window_at(episode, int(rng.integers(len(episode) - pattern.length + 1)), pattern.length)
        try:
            sample = build(str(pattern), pattern, window, "grid")
        except UnaskableError:
            continue
        right = 0
        for answer in possible_answers(sample):
            correct = score(sample, answer).correct
            assert correct == explains(sample, answer), f"{pattern}: {answer!r} in {window}"
            right += correct
        assert right, f"{pattern}: the truth is not among the right answers"
        tried[pattern.task] += 1
        told["counterfactual"] += pattern.counterfactual
        told["several"] += right > 1
        for kind in "rdb":
            told[kind] += any(slot.kind == kind for slot in pattern.given)
    assert min(tried.values()) >= 10, tried
    assert min(told.values()) >= 5, told


@pytest.mark.parametrize("cloze", ["reorder_actions", "reorder_observations", "text_reorder_states", "policy"])
def test_the_replay_agrees_on_orders_and_policies(cloze, draw_samples):
    for world in ("frozenlake-4x4", "sokoban-6x6"):
        for sample in draw_samples(world, cloze, n=8):
            orders = itertools.permutations(range(len(sample.pattern.asked)))
            answers = sample.world.actions if cloze == "policy" else map(write_labels, orders)
            for answer in answers:
                assert score(sample, answer).correct == explains(sample, answer)
            assert explains(sample, sample.answer)


def test_too_many_histories_are_refused(monkeypatch, draw_samples):
    sample = draw_samples("frozenlake-4x4", "o0 o2 a1 -> s1", n=4)[0]
    assert explains(sample, sample.answer)
    monkeypatch.setattr(replay, "MOST_HISTORIES", 3)
    with pytest.raises(ReplayError, match="more than 3 histories"):
        explains(sample, sample.answer)


def test_a_long_way_with_unknown_actions_is_searched_quickly(trajectories):
    """Eleven unknown actions before the asked state are 4 million plans; states on the way are only a few."""
    cells = [0, 1, 2, 3, 7, 11, 10 + 1, 15, 14, 13, 12, 8, 4]
    actions = [RIGHT, RIGHT, RIGHT, DOWN, DOWN, RIGHT, DOWN, LEFT, LEFT, LEFT, UP, UP]
    walk = lake("____" * 2 + "__G_" + "____", cells, actions)
    sample = build("far", parse("o0 a11 o12 -> s11"), walk, "natural")
    assert score(sample, sample.answer).correct
    elsewhere = sample.world.facts({**walk.snapshots[0], "agent": 3})
    assert not score(sample, write_facts(elsewhere, sample.world.schema, "natural")).correct

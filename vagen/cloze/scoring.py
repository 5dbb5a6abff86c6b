"""Exact scores of answers, computed from the simulator; never by a judge, never by string overlap.

An answer that does not parse is wrong. Where several answers are right, every one of them counts: an action whose
visible outcome is the same, another optimal action, a plan that also arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from vagen.cloze.sample import NO, YES, Sample, execute
from worlds import Facts
from worlds.text import read_actions, read_facts

PLANS_TRIED = 4096  # beyond so many possible plans, equivalence sets are not enumerated


@dataclass(frozen=True)
class Score:
    """What one answer is worth.

    Attributes:
        correct: the answer is right.
        parsed: it could be read at all.
        field_f1: for states, F1 over the things of each kind: kind -> value in [0, 1]; kinds that neither the truth
            nor the answer has are absent. Empty for other tasks.
    """

    correct: bool
    parsed: bool
    field_f1: dict[str, float]


def score(sample: Sample, answer: str) -> Score:
    """Score a free-form answer to a sample."""
    match sample.pattern.task:
        case "state":
            return _score_state(sample, answer)
        case "actions":
            return _score_actions(sample, answer)
        case "policy":
            chosen = read_actions(answer, sample.world.actions)
            best = sample.world.optimal_actions(sample.window.snapshots[sample.pattern.asked[0].time])
            return Score(chosen is not None and len(chosen) == 1 and chosen[0] in best, chosen is not None, {})
        case "reward":
            return _score_reward(sample, answer)
        case _:
            return Score(answer.strip() == sample.answer, answer.strip() in (YES, NO), {})


def true_facts(sample: Sample) -> Facts:
    """The facts a state cloze asks for."""
    return sample.world.facts(sample.window.snapshots[sample.pattern.asked[0].time])


def accepted_plans(sample: Sample) -> frozenset[tuple[int, ...]]:
    """The equivalence set of a cloze that asks for actions: every sequence of as many actions that is right.

    Tries all of them, so it is meant for short plans; see :data:`PLANS_TRIED`.
    """
    actions = range(len(sample.world.actions))
    if sample.pattern.task == "policy":
        best = sample.world.optimal_actions(sample.window.snapshots[sample.pattern.asked[0].time])
        return frozenset((action,) for action in best)
    return frozenset(plan for plan in product(actions, repeat=len(sample.pattern.asked)) if _arrives(sample, plan))


def plan_count(sample: Sample) -> int:
    """How many sequences of actions could be answered."""
    return len(sample.world.actions) ** len(sample.pattern.asked)


def field_f1(truth: Facts, answer: Facts) -> dict[str, float]:
    """F1 per kind of thing: twice the shared things over the sum of things."""
    kinds = {thing.kind for thing in truth.things | answer.things}
    result = {}
    for kind in sorted(kinds):
        right, given = set(truth.of_kind(kind)), set(answer.of_kind(kind))
        result[kind] = 2 * len(right & given) / (len(right) + len(given))
    return result


def _score_state(sample: Sample, answer: str) -> Score:
    truth = true_facts(sample)
    facts = read_facts(answer, sample.world.schema, sample.representation)
    if facts is None:
        return Score(False, False, dict.fromkeys((thing.kind for thing in truth.things), 0.0))
    return Score(facts == truth, True, field_f1(truth, facts))


def _score_actions(sample: Sample, answer: str) -> Score:
    actions = read_actions(answer, sample.world.actions)
    if actions is None:
        return Score(False, False, {})
    if len(actions) != len(sample.pattern.asked):
        return Score(False, True, {})
    return Score(_arrives(sample, actions), True, {})


def _arrives(sample: Sample, actions: tuple[int, ...]) -> bool:
    """Whether ``actions`` in place of the asked ones lead to states that look like all those shown."""
    first, last = sample.pattern.asked[0].time, sample.pattern.asked[-1].time
    snapshots, world = sample.window.snapshots, sample.world
    if actions == sample.window.actions[first : last + 1]:
        return True
    states = execute(world, snapshots[first], actions)
    shown = [slot.time for slot in sample.pattern.given if slot.kind in "os" and first < slot.time <= last + 1]
    return states is not None and all(
        world.facts(states[time - first - 1]) == world.facts(snapshots[time]) for time in shown
    )


def _score_reward(sample: Sample, answer: str) -> Score:
    try:
        value = float(answer)
    except ValueError:
        return Score(False, False, {})
    return Score(abs(value - float(sample.answer)) < 1e-9, True, {})

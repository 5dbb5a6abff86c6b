"""Exact scores of answers, computed from the simulator; never by a judge, never by string overlap.

An answer that does not parse is wrong. Where several answers are right, every one of them counts: an action whose
visible outcome is the same, another optimal action, a plan that also arrives, another state that leads to what is
shown, another order of things that look the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial

from vagen.cloze.sample import IMPOSSIBLE, LABELS, NO, YES, Sample, read_labels
from vagen.cloze.truth import PLANS_TRIED, agrees, arrives, is_order, optimal_actions, seen_states, true_facts
from worlds import Facts
from worlds.text import read_actions, read_facts, write_facts


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
    if sample.pattern.choices:
        chosen = read_labels(answer, sample.pattern.choices)
        parsed = chosen is not None and len(chosen) == 1
        return Score(parsed and chosen == read_labels(sample.answer, len(LABELS)), parsed, {})
    match sample.pattern.task:
        case "state":
            return _score_state(sample, answer)
        case "actions":
            return _score_actions(sample, answer)
        case "policy":
            chosen = read_actions(answer, sample.world.actions)
            right = chosen is not None and len(chosen) == 1 and chosen[0] in optimal_actions(sample)
            return Score(right, chosen is not None, {})
        case "order":
            order = read_labels(answer, len(sample.pattern.asked))
            return Score(order is not None and is_order(sample, order), order is not None, {})
        case "reward":
            return _score_reward(sample, answer)
        case "budget":
            text = answer.strip()
            parsed = text == IMPOSSIBLE or (text.isascii() and text.isdigit() and len(text) < 9)
            return Score(parsed and (text.lstrip("0") or "0") == sample.answer, parsed, {})
        case _:
            return Score(answer.strip() == sample.answer, answer.strip() in (YES, NO), {})


def accepted_answers(sample: Sample) -> frozenset[Hashable]:
    """Every right answer, for tasks with few possible ones; of states only the true one.

    Tries all plans and orders, so it is meant for short ones; see :func:`answer_count`.
    """
    asked = sample.pattern.asked
    actions = range(len(sample.world.actions))
    match "choice" if sample.pattern.choices else sample.pattern.task:
        case "actions":
            return frozenset(plan for plan in product(actions, repeat=len(asked)) if arrives(sample, plan))
        case "policy":
            return frozenset((action,) for action in optimal_actions(sample))
        case "order":
            return frozenset(order for order in permutations(range(len(asked))) if is_order(sample, order))
        case _:
            return frozenset([sample.answer])


def chances(sample: Sample) -> dict[str, float]:
    """How likely each state is that a random world may be in after the last given action, by its text."""
    [asked] = sample.pattern.asked
    world, window = sample.world, sample.window
    found: Counter[Facts] = Counter()
    for chance, snapshot in world.outcomes(window.snapshots[asked.time - 1], window.actions[asked.time - 1]):
        found[world.belief(seen_states(sample), snapshot)] += chance  # type: ignore[assignment]
    return {write_facts(facts, world.schema, sample.representation): float(p) for facts, p in found.items()}


def answer_count(sample: Sample) -> int | None:
    """How many answers could be given, where they can be counted; ``None`` for states, rewards and the like."""
    pattern = sample.pattern
    if pattern.choices:
        return pattern.choices
    if pattern.task == "order":
        return factorial(len(pattern.asked))
    if pattern.task in ("actions", "policy"):
        return len(sample.world.actions) ** len(pattern.asked)
    return None


def can_enumerate(sample: Sample) -> bool:
    """Whether :func:`accepted_answers` is quick enough to be asked."""
    return (answer_count(sample) or 1) <= PLANS_TRIED


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
    return Score(agrees(sample, facts), True, field_f1(truth, facts))


def _score_actions(sample: Sample, answer: str) -> Score:
    actions = read_actions(answer, sample.world.actions)
    if actions is None:
        return Score(False, False, {})
    if len(actions) != len(sample.pattern.asked):
        return Score(False, True, {})
    return Score(arrives(sample, actions), True, {})


def _score_reward(sample: Sample, answer: str) -> Score:
    try:
        value = float(answer)
    except ValueError:
        return Score(False, False, {})
    return Score(abs(value - float(sample.answer)) < 1e-9, True, {})

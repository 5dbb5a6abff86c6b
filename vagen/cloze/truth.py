"""What is right, found by simulating: which states, actions and orders agree with everything a cloze shows.

Knows nothing about text or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from vagen.cloze.grammar import Slot
from vagen.cloze.sample import Sample, execute
from worlds import Facts, Snapshot

PLANS_TRIED = 4096  # beyond so many possible plans, equivalence sets are not enumerated


def true_facts(sample: Sample) -> Facts:
    """The facts a state cloze asks for: all of them, or in a partial view what the states shown tell of them."""
    return sample.world.belief(seen_states(sample), sample.snapshot(sample.pattern.asked[0]))


def seen_states(sample: Sample) -> list[Snapshot]:
    """The states whose images or texts are given."""
    return [sample.snapshot(slot) for slot in sample.pattern.given if slot.kind in "os"]


def optimal_actions(sample: Sample) -> tuple[int, ...]:
    """The right answers of a policy cloze."""
    return sample.world.optimal_actions(sample.snapshot(sample.pattern.asked[0]))


def agrees(sample: Sample, facts: Facts) -> bool:
    """Whether a state with these facts can be the asked one.

    Where the asked state follows from what is given, it is one state. Else (retrodiction, infilling) it is every state
    that the given actions lead on to what is shown later, and that some actions lead to from what is shown before.
    """
    truth = true_facts(sample)
    [asked] = sample.pattern.asked
    if facts == truth or sample.pattern.is_foretold(asked):
        return facts == truth
    candidate = sample.world.realise(facts, like=sample.snapshot(asked))
    return candidate is not None and _leads_on(sample, asked, candidate) and _is_reached(sample, asked, facts)


def arrives(sample: Sample, actions: Sequence[int]) -> bool:
    """Whether ``actions`` in place of the asked ones lead to states that look like all those shown."""
    asked = sample.pattern.asked
    if tuple(actions) == tuple(map(sample.action, asked)):
        return True
    first = asked[0]
    shown = sample.pattern.outcomes_of(first)
    plan = list(sample.trajectory(first.primed).actions[first.time : max(slot.time for slot in shown)])
    for slot, action in zip(asked, actions, strict=True):
        plan[slot.time - first.time] = action
    return _shows(sample, first, execute(sample.world, sample.snapshot(first), plan), shown)


def is_order(sample: Sample, order: Sequence[int]) -> bool:
    """Whether the labels, in this order, are in order of time: the same is seen in each place, or the plan arrives."""
    asked = sample.pattern.asked
    if sorted(order) != list(range(len(asked))):
        return False
    placed = [asked[sample.order[label]] for label in order]
    if asked[0].kind == "a":
        return arrives(sample, [sample.action(slot) for slot in placed])
    facts = sample.world.facts
    return all(
        facts(sample.snapshot(one)) == facts(sample.snapshot(two)) for one, two in zip(placed, asked, strict=True)
    )


def _shows(sample: Sample, start: Slot, states: list[Snapshot] | None, shown: Sequence[Slot]) -> bool:
    """Whether ``states``, the first of them one step after ``start``, look like those shown."""
    facts = sample.world.facts
    return states is not None and all(
        facts(states[slot.time - start.time - 1]) == facts(sample.snapshot(slot)) for slot in shown
    )


def _leads_on(sample: Sample, asked: Slot, candidate: Snapshot) -> bool:
    shown = sample.pattern.outcomes_of(asked)
    actions = sample.trajectory(asked.primed).actions[asked.time : max(slot.time for slot in shown)]
    return _shows(sample, asked, execute(sample.world, candidate, actions), shown)


def _is_reached(sample: Sample, asked: Slot, facts: Facts) -> bool:
    """Whether some choice of the actions not given leads from the last state known before to the facts."""
    pattern, world = sample.pattern, sample.world
    before = [time for time in range(asked.time) if (time, asked.primed and time > pattern.fork) in pattern.foretold]
    if not before:
        return True
    start = max(before)
    trajectory = sample.trajectory(asked.primed)
    choices = [
        [trajectory.actions[time]] if pattern.knows_action(time, asked.primed) else range(len(world.actions))
        for time in range(start, asked.time)
    ]
    for plan in product(*choices):
        states = execute(world, trajectory.snapshots[start], plan)
        if states is not None and world.facts(states[-1]) == facts:
            return True
    return False

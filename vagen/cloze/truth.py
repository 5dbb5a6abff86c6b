"""What is right, found by simulating: which states, actions and orders agree with everything a cloze shows.

An answer is right if some history with it shows all that is given: each image and state, reward, end and number of
steps to go, in the factual trajectory and in the counterfactual branch at once; actions that are neither given nor
asked may be any. Knows nothing about text or images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vagen.cloze.grammar import Node, Slot
from vagen.cloze.sample import Outcome, Sample, outcome
from worlds import Facts, Snapshot

PLANS_TRIED = 4096  # beyond so many possible plans, equivalence sets are not enumerated

#: The state of the factual trajectory and that of the branch, at one time; ``None`` where it is not followed.
History = tuple[Snapshot | None, Snapshot | None]


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
    truth, pattern = true_facts(sample), sample.pattern
    [asked] = pattern.asked
    if facts == truth or pattern.is_foretold(asked):
        return facts == truth
    node = pattern.node(asked)
    known = [time for time in range(asked.time) if (time, asked.primed and time > pattern.fork) in pattern.foretold]
    if known:
        return _is_consistent(sample, max(known), _foretold_at(sample, max(known)), {}, (node, facts))
    candidate = sample.world.realise(facts, like=sample.snapshot(asked))
    if candidate is None or not _shows(sample, node, candidate):
        return False
    first = (None, candidate) if node[1] else (candidate, None)
    return _is_consistent(sample, asked.time, first, {}, None)


def arrives(sample: Sample, actions: Sequence[int]) -> bool:
    """Whether ``actions`` in place of the asked ones lead to all that is shown."""
    asked = sample.pattern.asked
    if tuple(actions) == tuple(map(sample.action, asked)):
        return True
    start = asked[0].time
    return _is_consistent(sample, start, _foretold_at(sample, start), dict(zip(asked, actions, strict=True)), None)


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


# ---------------------------------------------------------------------------------------------------------- histories


def _is_consistent(
    sample: Sample, start: int, first: History, chosen: Mapping[Slot, int], asked: tuple[Node, Facts] | None
) -> bool:
    """Whether a history that begins with ``first`` at time ``start`` shows all that is given from there on.

    Args:
        chosen: the actions answered.
        asked: which state is asked, and the facts answered.
    """
    pattern = sample.pattern
    followed = (first[0] is not None, first[1] is not None or start <= pattern.fork)
    ends = [max((time for time, primed in pattern.clues if primed == branch), default=0) for branch in (False, True)]
    if asked:
        ends[asked[0][1]] = max(ends[asked[0][1]], asked[0][0])
    if start <= pattern.fork < ends[1]:
        ends[0] = max(ends[0], pattern.fork)
    until = (ends[0] * followed[0], ends[1] * followed[1])
    decided = max([asked[0][0] if asked else start, *(slot.time + 1 for slot in chosen)])
    histories = [first]
    for time in range(start, max(until)):
        if time >= decided and _actual(sample, time, histories[0]) in histories:
            return True  # as things went, all of it was shown
        longer = (later for history in histories for later in _continued(sample, time, history, chosen, until))
        histories = _distinct(history for history in longer if _is_answered(sample, time + 1, history, asked))
        if not histories:
            return False
    return True


def _continued(
    sample: Sample, time: int, history: History, chosen: Mapping[Slot, int], until: tuple[int, int]
) -> Iterator[History]:
    """The histories one step on that show what is given, by every action not known."""
    pattern = sample.pattern
    factual = history[0] if time < until[0] else None
    branch = history[time > pattern.fork] if pattern.fork <= time < until[1] else None
    own = Slot("a", time, True)
    branches_off = own in pattern.given or own in pattern.asked  # else the branch takes the factual action
    for action in _possible(sample, Slot("a", time), chosen) if factual or not branches_off else (0,):
        for other in _possible(sample, own, chosen) if branch and branches_off else (action,):
            after = [
                None if state is None else _after(sample, (time + 1, primed), state, taken)
                for state, taken, primed in ((factual, action, False), (branch, other, True))
            ]
            if (after[0] is None) == (factual is None) and (after[1] is None) == (branch is None):
                yield after[0], after[1]


def _possible(sample: Sample, slot: Slot, chosen: Mapping[Slot, int]) -> Sequence[int]:
    """The actions that can stand in a slot."""
    if slot in chosen:
        return (chosen[slot],)
    return (sample.action(slot),) if slot in sample.pattern.given else range(len(sample.world.actions))


def _after(sample: Sample, node: Node, before: Snapshot, action: int) -> Snapshot | None:
    """The state after an action; ``None`` if it is not what is given, or the world had ended."""
    result = outcome(sample.world, before, action)
    return result.snapshot if result is not None and _shows(sample, node, result.snapshot, result) else None


def _shows(sample: Sample, node: Node, snapshot: Snapshot, result: Outcome | None = None) -> bool:
    """Whether a state, and the transition that led to it, look like what is given of them."""
    world = sample.world
    for slot in sample.pattern.clues.get(node, ()):
        trajectory = sample.trajectory(slot.primed)
        match slot.kind:
            case "o" | "s":
                same = world.facts(snapshot) == world.facts(trajectory.snapshots[slot.time])
            case "b":
                same = world.steps_to_go(snapshot) == world.steps_to_go(trajectory.snapshots[slot.time])
            case "r":
                same = result is None or round(result.reward, 2) == round(trajectory.rewards[slot.time], 2)
            case _:
                same = result is None or result.terminated == trajectory.transition(slot.time).terminated
        if not same:
            return False
    return True


def _is_answered(sample: Sample, time: int, history: History, asked: tuple[Node, Facts] | None) -> bool:
    """Whether a history has the answered state where it is asked."""
    if asked is None or asked[0][0] != time:
        return True
    state = history[asked[0][1]]
    return state is not None and sample.world.facts(state) == asked[1]


def _foretold_at(sample: Sample, time: int) -> History:
    """The states at a time that follow from what is given."""
    foretold = sample.pattern.foretold
    factual = sample.window.snapshots[time] if (time, False) in foretold else None
    return factual, sample.trajectory(True).snapshots[time] if (time, True) in foretold else None


def _actual(sample: Sample, time: int, like: History) -> History:
    """The states at a time as things went, of the trajectories that ``like`` follows."""
    factual, branch = like
    return (
        None if factual is None else sample.window.snapshots[time],
        None if branch is None else sample.trajectory(True).snapshots[time],
    )


def _distinct(histories: Iterable[History]) -> list[History]:
    return list({json.dumps(history): history for history in histories}.values())

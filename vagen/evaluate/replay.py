"""A second opinion on answers that are not the truth: plain, slow, and by other means than the scorer.

Every history is played from its start in a world of its own, one list of actions after the other, and compared pixel
for pixel with what the cloze shows. Nothing here is shared with ``vagen.cloze.truth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

from vagen.cloze.grammar import ClozeError, Slot
from vagen.cloze.sample import Sample, read_labels
from worlds import Frame, Snapshot, World, make
from worlds.text import read_actions, read_facts

MOST_HISTORIES = 1 << 14  # that are played for one answer


class ReplayError(ClozeError):
    """A cloze that leaves more histories open than can be played."""


@dataclass(frozen=True)
class _Moment:
    """A state of a history as it was played, with the reward and end of the transition that led to it."""

    snapshot: Snapshot
    frame: Frame
    reward: float
    terminated: bool


@lru_cache(maxsize=16)
def _world(id: str) -> World:
    """Not the simulator that the scorer uses."""
    return make(id)


def explains(sample: Sample, answer: str) -> bool:
    """Whether some history with ``answer`` in place of what is asked shows all that the cloze gives.

    Raises:
        ReplayError: too many histories to play.
    """
    pattern, world = sample.pattern, _world(sample.window.world)
    if pattern.choices or pattern.task in ("reward", "termination", "budget"):
        return answer == sample.answer
    match pattern.task:
        case "policy":
            actions = read_actions(answer, world.actions)
            return actions is not None and len(actions) == 1 and _brings_nearer(sample, world, actions[0])
        case "order":
            order = read_labels(answer, len(pattern.asked))
            return order is not None and sorted(order) == sorted(sample.order) and _is_ordered(sample, world, order)
        case "actions":
            actions = read_actions(answer, world.actions)
            return actions is not None and len(actions) == len(pattern.asked) and _leads(sample, world, actions)
        case _:
            return _can_have_been(sample, world, answer)


def _brings_nearer(sample: Sample, world: World, action: int) -> bool:
    before = sample.snapshot(sample.pattern.asked[0])
    world.restore(before)
    world.step(action)  # type: ignore[arg-type]
    far, left = world.steps_to_go(before), world.steps_to_go(world.state().snapshot)
    return bool(far) and left is not None and left == far - 1


def _is_ordered(sample: Sample, world: World, order: Sequence[int]) -> bool:
    asked = sample.pattern.asked
    placed = [asked[sample.order[label]] for label in order]
    if asked[0].kind == "a":
        return _leads(sample, world, [sample.action(slot) for slot in placed])
    shown, right = (world.render_states([sample.snapshot(slot) for slot in slots]) for slots in (placed, asked))
    return bool((shown == right).all())


def _leads(sample: Sample, world: World, actions: Sequence[int]) -> bool:
    """Whether the asked actions can have been these."""
    first = sample.pattern.asked[0]
    chosen = dict(zip(sample.pattern.asked, actions, strict=True))
    return any(_shows_all(sample, world, *history) for history in _histories(sample, world, first, None, chosen))


def _can_have_been(sample: Sample, world: World, answer: str) -> bool:
    """Whether the asked state can have been this one."""
    [asked] = sample.pattern.asked
    facts = read_facts(answer, world.schema, sample.representation)
    if facts is None or sample.pattern.is_foretold(asked):
        return facts is not None and facts == world.belief(
            [sample.snapshot(slot) for slot in sample.pattern.given if slot.kind in "os"], sample.snapshot(asked)
        )
    candidate = world.realise(facts, like=sample.snapshot(asked))
    if candidate is None:
        return False
    frame = world.render_states([candidate])[0]
    foretold, fork = sample.pattern.foretold, sample.pattern.fork
    known = [time for time in range(asked.time) if (time, asked.primed and time > fork) in foretold]
    start, first = (Slot("s", max(known), asked.primed), None) if known else (asked, candidate)
    for factual, branch in _histories(sample, world, start, first, {}):
        moment = (branch if asked.primed and asked.time > fork else factual).get(asked.time)
        if moment is not None and (moment.frame == frame).all() and _shows_all(sample, world, factual, branch):
            return True
    return False


def _histories(
    sample: Sample, world: World, start: Slot, first: Snapshot | None, chosen: dict[Slot, int]
) -> Iterator[tuple[dict[int, _Moment], dict[int, _Moment]]]:
    """Every factual trajectory and branch that begin at a slot, as moments by time, for all actions not known.

    Args:
        first: the state to begin with in place of what was there.
    """
    pattern, fork = sample.pattern, sample.pattern.fork
    times = range(start.time, pattern.length)
    slots = [Slot("a", time) for time in times]
    slots += [s for time in times if (s := Slot("a", time, True)) in (*pattern.given, *pattern.asked)]
    options = [
        [chosen[slot]]
        if slot in chosen
        else [sample.action(slot)]
        if slot in pattern.given
        else list(range(len(world.actions)))
        for slot in slots
    ]
    if prod(map(len, options)) > MOST_HISTORIES:
        raise ReplayError(f"cloze {sample.name!r} leaves more than {MOST_HISTORIES} histories open: give more actions")
    heads = _heads(sample, start, first)
    for actions in product(*options):
        taken = dict(zip(slots, actions, strict=True))
        factual = _play(world, heads[0], start.time, [taken[Slot("a", time)] for time in times])
        if start.time <= fork:
            begin, head = fork, factual[fork].snapshot if fork in factual and pattern.counterfactual else None
        else:
            begin, head = start.time, heads[1]
        plan = [taken.get(Slot("a", time, True), taken[Slot("a", time)]) for time in range(begin, pattern.length)]
        yield factual, _play(world, head, begin, plan)


def _heads(sample: Sample, start: Slot, first: Snapshot | None) -> list[Snapshot | None]:
    """The states that the factual trajectory and the branch begin with; ``None`` where unknown, or yet to fork."""
    pattern, time = sample.pattern, start.time
    if time <= pattern.fork:
        return [first or sample.window.snapshots[time], None]
    known = [primed for primed in (False, True) if (time, primed) in pattern.foretold]
    heads = [sample.trajectory(primed).snapshots[time] if primed in known else None for primed in (False, True)]
    if first is not None:
        heads = [None, first] if start.primed else [first, None]
    return heads


def _play(world: World, head: Snapshot | None, time: int, actions: Sequence[int]) -> dict[int, _Moment]:
    """The moments of a plan, until the world ends."""
    if head is None:
        return {}
    world.restore(head)
    moments = {time: _Moment(head, world.render(), 0.0, world.terminated)}
    for action in actions:
        if world.terminated:
            break
        frame, reward, terminated, _, _ = world.step(action)  # type: ignore[arg-type]
        time += 1
        moments[time] = _Moment(world.state().snapshot, frame, float(reward), terminated)
    return moments


def _shows_all(sample: Sample, world: World, factual: dict[int, _Moment], branch: dict[int, _Moment]) -> bool:
    """Whether all that is given after the first moments is seen in them."""
    pattern = sample.pattern
    for slot in pattern.given:
        time = slot.time + (slot.kind in "rd")
        moments = branch if slot.primed and time > pattern.fork else factual
        if slot.kind == "a" or not moments or time < min(moments) or (time == min(moments) and slot.kind in "rd"):
            continue
        if time not in moments:
            return False
        moment, trajectory = moments[time], sample.trajectory(slot.primed)
        truth = trajectory.snapshots[time]
        match slot.kind:
            case "o" | "s":
                same = bool((moment.frame == world.render_states([truth])[0]).all())
            case "b":
                same = world.steps_to_go(moment.snapshot) == world.steps_to_go(truth)
            case "r":
                same = abs(moment.reward - trajectory.rewards[slot.time]) < 0.005
            case _:
                same = moment.terminated == trajectory.transition(slot.time).terminated
        if not same:
            return False
    return True

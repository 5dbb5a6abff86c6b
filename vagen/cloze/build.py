"""Building cloze tests: a pattern applied to a window of a trajectory, written as images, a question and an answer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vagen.cloze.grammar import ClozeError, Pattern, Slot
from vagen.cloze.sample import (
    IMPOSSIBLE,
    LABELS,
    NO,
    YES,
    Sample,
    UnaskableError,
    counterfactual,
    execute,
    simulator,
    write_labels,
)
from vagen.cloze.truth import agrees, arrives, optimal_actions, seen_states, true_facts
from vagen.mdp import Trajectory
from worlds import Facts, Snapshot, World
from worlds.text import Representation, write_actions, write_facts

IDLE_BRANCHES = 0.1  # share of counterfactual branches whose first action may as well change nothing


def build(
    name: str, pattern: Pattern, window: Trajectory, representation: Representation, with_answer: bool = True
) -> Sample:
    """Apply a pattern to a window of at least ``pattern.length`` transitions.

    What is left to chance (the order of options, the counterfactual action) is a function of the window and the
    pattern.

    Args:
        with_answer: off to only ask, as an agent does in a state whose answer nobody knows; ``answer`` is then "".

    Raises:
        ClozeError: the window is too short, or the world does not determine the answer.
        UnaskableError: this window does not allow it: no action is optimal, too few different options, an outcome that
            nobody can foresee, or a branch that ends early.
    """
    if len(window) < pattern.length:
        raise ClozeError(f"cloze {name!r} needs {pattern.length} transitions, the window has {len(window)}")
    if with_answer:
        check_answerable(name, pattern, simulator(window.world))
    sample = Sample(name, pattern, window, representation)
    if pattern.counterfactual:
        sample = replace(sample, branch=_branch(sample))
    _check_foreseeable(sample)
    if not with_answer:
        return _written(sample, [], "")
    if pattern.task == "order":
        _check_orders_differ(sample)
        order = _generator(sample, "order").permutation(len(pattern.asked))
        sample = replace(sample, order=tuple(map(int, order)))
        return _written(sample, [], write_labels(np.argsort(order)))
    if pattern.choices:
        return _choice(sample)
    return _written(sample, [], _answer(sample))


def check_answerable(name: str, pattern: Pattern, world: World) -> None:
    """Refuse what a world's visible facts do not determine: accuracy would measure luck.

    Raises:
        ClozeError: names the slot and the reason.
    """
    asked = pattern.asked[0]
    written = [slot for slot in (*pattern.given, *pattern.asked) if slot.kind == "s"]
    if written and not world.knows_state:
        raise ClozeError(f"cloze {name!r}: slot {written[0]}: the state of {world.id} is not known, only its pictures")
    if pattern.task == "reward" and not world.visible_reward:
        raise ClozeError(f"cloze {name!r}: slot {asked}: in {world.id} the reward depends on what cannot be seen")
    solved = [slot for slot in (*pattern.given, asked) if slot.kind == "b" or slot.optimal]
    if solved and not world.has_solver:
        raise ClozeError(f"cloze {name!r}: slot {solved[0]}: {world.id} has no solver, which that takes")
    if pattern.task in ("actions", "policy") and pattern.choices > len(world.actions):
        raise ClozeError(
            f"cloze {name!r}: slot {asked}: {world.id} has {len(world.actions)} actions, fewer than the options"
        )
    retrodicts = pattern.task in ("state", "observation") and not pattern.is_foretold(asked)
    if retrodicts and not world.fully_visible:
        raise ClozeError(f"cloze {name!r}: slot {asked}: {world.id} is seen in part, and what came before stays open")
    if not world.deterministic:
        _check_chance(name, pattern, world)


def _check_chance(name: str, pattern: Pattern, world: World) -> None:
    """In a random world only those states can be asked whose chances the world knows.

    Raises:
        ClozeError: names the slot and the reason.
    """
    asked = pattern.asked[0]
    if solved := [slot for slot in pattern.given if slot.kind == "b"]:
        raise ClozeError(f"cloze {name!r}: slot {solved[0]}: {world.id} is random, no number of steps to go is sure")
    states = pattern.task == "state" and pattern.is_foretold(asked) and not (pattern.choices or pattern.counterfactual)
    if not states or pattern.horizon > 1:
        raise ClozeError(
            f"cloze {name!r}: slot {asked}: {world.id} is random; only states up to one step ahead can be scored"
        )
    start = pattern.anchor.time
    telling = [slot for slot in pattern.given if slot.kind != "a" and slot.time + (slot.kind in "rd") > start]
    if pattern.horizon and telling:
        raise ClozeError(
            f"cloze {name!r}: slot {telling[0]}: {world.id} is random, and this tells what came of it; leave it out"
        )


def _generator(sample: Sample, purpose: str) -> np.random.Generator:
    """Chance as a function of what the sample is about, the same in every process.

    Each purpose has its own: where the right option stands must not be told by which actions are shown.
    """
    window = sample.window
    content = [window.world, window.snapshots[0], window.actions, str(sample.pattern), purpose]
    return np.random.default_rng(zlib.crc32(json.dumps(content, sort_keys=True).encode()))


def _branch(sample: Sample) -> Trajectory:
    """The window with other actions than those taken where actions are primed.

    The first of them has another outcome than what was taken, if one has, and mostly one that changes something.
    """
    pattern, window, world = sample.pattern, sample.window, sample.world
    generator = _generator(sample, "branch")
    primed = {slot.time for slot in (*pattern.given, *pattern.asked) if slot.kind == "a" and slot.primed}
    actions = list(window.actions[: pattern.length])
    for time in sorted(primed):
        others = [action for action in range(len(world.actions)) if action != window.actions[time]]
        if time == pattern.fork:
            before, after = (world.facts(snapshot) for snapshot in window.snapshots[time : time + 2])
            outcomes = {action: _facts_after(world, window.snapshots[time], action) for action in others}
            others = [action for action in others if outcomes[action] != after] or others
            if generator.random() >= IDLE_BRANCHES:
                others = [action for action in others if outcomes[action] != before] or others
        if not others:
            raise UnaskableError(f"cloze {sample.name!r}: slot a{time}': {world.id} has no other action")
        actions[time] = int(generator.choice(others))
    return _joined(window, counterfactual(sample.own_window, actions[pattern.history :]), pattern.history)


def _joined(window: Trajectory, branch: Trajectory, start: int) -> Trajectory:
    """A branch that begins at a time of a window, with all that came before."""
    return replace(
        branch,
        snapshots=(*window.snapshots[:start], *branch.snapshots),
        actions=(*window.actions[:start], *branch.actions),
        rewards=(*window.rewards[:start], *branch.rewards),
        frames=(*window.frames[:start], *branch.frames),
    )


def _facts_after(world: World, snapshot: Snapshot, action: int):
    states = execute(world, snapshot, [action])
    return None if states is None else world.facts(states[-1])


def _check_foreseeable(sample: Sample) -> None:
    """Refuse what follows from a transition whose outcome cannot be known before."""
    pattern, world = sample.pattern, sample.world
    if not world.deterministic:
        return
    times = range(pattern.history, pattern.length)
    if pattern.task in ("policy", "budget"):  # what comes after the moment they ask about does not matter
        times = range(pattern.anchor.time, pattern.asked[0].time)
    elif not pattern.dynamics:
        return
    for trajectory in [window for window in (sample.window, sample.branch) if window is not None]:
        for time in times:
            if not world.foreseeable(trajectory.snapshots[time], trajectory.actions[time]):
                raise UnaskableError(f"cloze {sample.name!r}: what action {time} does cannot be known before")


def _check_orders_differ(sample: Sample) -> None:
    """Refuse to ask for the order of things that are all alike."""
    first, *others = (_value(sample, slot) for slot in sample.pattern.asked)
    if all(other == first for other in others):
        raise UnaskableError(f"cloze {sample.name!r}: what is to be put in order is all alike")


# ------------------------------------------------------------------------------------------------------------ choices


def _choice(sample: Sample) -> Sample:
    """Ask to choose the right option among wrong ones, all different."""
    wrong: list[Snapshot | str] = []
    for option in _wrong_options(sample):
        wrong.append(option)
        if len(wrong) == sample.pattern.choices - 1:
            break
    else:
        raise UnaskableError(f"cloze {sample.name!r}: only {len(wrong)} wrong options differ from each other here")
    [asked] = sample.pattern.asked
    right: Snapshot | str = sample.snapshot(asked) if sample.pattern.task == "observation" else _answer(sample)
    order = _generator(sample, "place").permutation(sample.pattern.choices).tolist()
    options = [right, *wrong]
    return _written(sample, [options[number] for number in order], LABELS[order.index(0)])


def _wrong_options(sample: Sample) -> Iterator[Snapshot | str]:
    """Wrong answers that differ from each other, the most tempting first."""
    world, task = sample.world, sample.pattern.task
    generator = _generator(sample, "options")
    match task:
        case "state" | "observation":
            yield from _wrong_states(sample)
        case "actions" | "policy":
            best = optimal_actions(sample) if task == "policy" else ()
            for action in generator.permutation(len(world.actions)).tolist():
                if not (action in best if task == "policy" else arrives(sample, [action])):
                    yield write_actions([action], world.actions)
        case "termination":
            yield NO if _answer(sample) == YES else YES
        case "reward":
            yield from _other_values(sample, [write_reward(r) for r in _rewards(sample)])
        case _:
            yield from _other_values(sample, _steps_around(sample))


def _other_values(sample: Sample, values: Sequence[str]) -> Iterator[str]:
    truth = _answer(sample)
    yield from (value for value in dict.fromkeys(values) if value != truth)


def _steps_around(sample: Sample) -> list[str]:
    """That it is impossible, and consecutive numbers among which the truth has any place."""
    truth = sample.world.steps_to_go(sample.snapshot(sample.pattern.asked[0]))
    generator, numbers = _generator(sample, "options"), sample.pattern.choices - 1
    if truth is None:
        lowest = int(generator.integers(1, len(LABELS)))
    else:
        lowest = truth - int(generator.integers(min(truth + 1, numbers)))
    return [IMPOSSIBLE, *(str(lowest + number) for number in range(numbers))]


def _rewards(sample: Sample) -> list[float]:
    """What each action would be paid, and what was paid in the window."""
    [asked] = sample.pattern.asked
    world, rewards = sample.world, []
    for action in range(len(world.actions)):
        world.restore(sample.snapshot(asked))
        rewards.append(float(world.step(action)[1]))  # type: ignore[arg-type]
    return [*rewards, *sample.window.rewards]


def _wrong_states(sample: Sample) -> Iterator[Snapshot | str]:
    """States near the asked one that cannot be it, no two of which show the same."""
    world, observed = sample.world, sample.pattern.task == "observation"
    given, seen = seen_states(sample), set[Facts]()
    for snapshot in (sample.snapshot(sample.pattern.asked[0]), *_near_states(sample)):
        facts = world.facts(snapshot) if observed else world.belief(given, snapshot)
        if seen and facts not in seen and not agrees(sample, facts):  # the first is the asked state itself
            yield snapshot if observed else write_facts(facts, world.schema, sample.representation)
        seen.add(facts)


def _near_states(sample: Sample) -> Iterator[Snapshot]:
    """What other actions would have led to, then the other states of the window, then those one step from them.

    Where nothing came before, a state one step on stands for it: if all options were one step from the right one, they
    alone would tell which it is.
    """
    [asked] = sample.pattern.asked
    world, trajectory = sample.world, sample.trajectory(asked.primed)
    generator = _generator(sample, "options")
    if asked.time:
        pivots = [trajectory.snapshots[asked.time - 1]]
    else:
        pivots = _after_any(world, trajectory.snapshots[0], generator)[:1]
    for start in pivots:
        yield from _after_any(world, start, generator)
    yield from trajectory.snapshots
    for start in (trajectory.snapshots[asked.time], *trajectory.snapshots):
        yield from _after_any(world, start, generator)


def _after_any(world: World, snapshot: Snapshot, generator: np.random.Generator) -> list[Snapshot]:
    """The states after each possible action, in random order."""
    found = (execute(world, snapshot, [action]) for action in generator.permutation(len(world.actions)).tolist())
    return [states[-1] for states in found if states is not None]


# --------------------------------------------------------------------------------------------------------------- text

_NOUNS = {"o": "image", "s": "state", "a": "action", "r": "reward", "d": "end", "b": "steps"}
_BY_MISSION = ("policy", "reward", "termination", "budget")  # what depends on the goal of the episode


def describe_notation(world: World, representation: Representation) -> str:
    """What a model that has never seen a cloze must be told besides the world's rules."""
    return (
        "An image at time t shows the world before action t; action t leads to time t + 1; times with ' are about "
        "what would have been after the action with '. "
        f"Actions: {', '.join(world.actions)}. {describe_states(representation)} "
        f"Steps are the fewest to success, or {IMPOSSIBLE}. Options and shuffled things have letters: answer with the "
        "letter, or with all letters in order of time. "
        "Answer with what is asked and nothing else."
    )


def describe_states(representation: Representation) -> str:
    """How states are written, in a sentence."""
    return _STATE_FORMATS[representation]


_STATE_FORMATS: dict[Representation, str] = {
    "natural": "A state is written 'kind x y detail, x y; kind x y', kinds in their usual order, things row by row.",
    "json": 'A state is written as JSON: {"kind": [[x, y, "detail"], ...], ...}.',
    "grid": "A state is written as one line per row and one word per cell.",
}


def _written(sample: Sample, options: Sequence[Snapshot | str], answer: str) -> Sample:
    """The sample with its images, question and answer."""
    pattern = sample.pattern
    shown = [sample.snapshot(slot) for slot in pattern.images]
    shuffled = [pattern.asked[number] for number in sample.order]
    if pattern.asked[0].kind == "o":
        shown += [sample.snapshot(slot) for slot in shuffled]
        shown += [option for option in options if not isinstance(option, str)]
    return replace(sample, images=tuple(shown), question=_question(sample, shuffled, options), answer=answer)


def _question(sample: Sample, shuffled: Sequence[Slot], options: Sequence[Snapshot | str]) -> str:
    pattern = sample.pattern
    labels = LABELS[: len(shuffled) or len(options)]
    names = [_time(slot) for slot in pattern.images]
    if pattern.asked[0].kind == "o":
        names += labels
    parts = [] if names == [str(time) for time in range(len(names))] else [f"images {' '.join(names)}"]
    parts += _circumstances(sample)
    parts += [
        f"{_NOUNS[slot.kind]} {_time(slot)}: {_value(sample, slot)}" for slot in pattern.given if slot.kind != "o"
    ]
    if pattern.asked[0].kind != "o":
        texts = [_value(sample, slot) for slot in shuffled] or [str(option) for option in options]
        parts += [f"{label}: {text}" for label, text in zip(labels, texts, strict=True)]
    return ". ".join([*parts, _asking(pattern, labels)])


def _asking(pattern: Pattern, labels: str) -> str:
    if pattern.task == "order":
        order = f"order {' '.join(labels)}?"
        # After a history the images alone do not tell which times are meant.
        times = " ".join(map(_time, pattern.asked))
        return f"{_NOUNS[pattern.asked[0].kind]} {times}: {order}" if pattern.history else order
    noun = "best action" if pattern.task == "policy" else _NOUNS[pattern.asked[0].kind]
    what = f"{noun} {' '.join(map(_time, pattern.asked))}"
    return f"{what}: {' '.join(labels)}?" if labels else f"{what}?"


def _circumstances(sample: Sample) -> list[str]:
    """What the images do not show and the answer may depend on."""
    pattern, world = sample.pattern, sample.world
    parts = []
    if pattern.task in _BY_MISSION and (mission := world.mission(sample.window.snapshots[0])):
        parts.append(f"mission: {mission}")
    anchors = [slot for slot in pattern.given if slot.kind in "os" and slot.time >= pattern.history]
    if anchors and (pattern.dynamics or pattern.task in _BY_MISSION):
        first = min(anchors, key=lambda slot: slot.time)
        if holding := world.inventory(sample.snapshot(first)):
            parts.append(f"holding {_time(first)}: {holding}")
    return parts


def _time(slot: Slot) -> str:
    return f"{slot.time}'" if slot.primed else str(slot.time)


def _value(sample: Sample, slot: Slot) -> str:
    """What fills a slot, as text."""
    world, trajectory = sample.world, sample.trajectory(slot.primed)
    match slot.kind:
        case "s" | "o":
            return write_facts(world.facts(trajectory.snapshots[slot.time]), world.schema, sample.representation)
        case "a":
            return write_actions([trajectory.actions[slot.time]], world.actions)
        case "r":
            return write_reward(trajectory.rewards[slot.time])
        case "b":
            return write_steps(world.steps_to_go(trajectory.snapshots[slot.time]))
        case _:
            return YES if trajectory.transition(slot.time).terminated else NO


def _answer(sample: Sample) -> str:
    """A right answer, where it is written freely."""
    pattern, world = sample.pattern, sample.world
    match pattern.task:
        case "policy":
            best = optimal_actions(sample)
            if not best:
                raise UnaskableError(
                    f"slot {pattern.asked[0]}: no action is optimal here, the goal is reached or out of reach"
                )
            return write_actions([best[0]], world.actions)
        case "actions":
            return write_actions([sample.action(slot) for slot in pattern.asked], world.actions)
        case "state":
            return write_facts(true_facts(sample), world.schema, sample.representation)
        case _:
            return _value(sample, pattern.asked[0])


def write_reward(reward: float) -> str:
    """A reward as it is asked and answered: two decimals, no trailing zeros."""
    return f"{round(reward, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0 makes -0.0 0.0


def write_steps(steps: int | None) -> str:
    """Steps to go as they are asked and answered."""
    return IMPOSSIBLE if steps is None else str(steps)

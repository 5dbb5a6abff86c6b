"""The cloze grammar: ``GIVEN -> ASKED`` over the slots of a window of a trajectory.

Slots are ``o0`` (image at time 0), ``s0`` (exact state at time 0, as text), ``a0`` (action from time 0 to time 1),
``r0`` (its reward), ``d0`` (whether it ended the world) and ``b0`` (the fewest steps to success from time 0). Marks:

* ``a0*`` asks for any optimal action;
* ``a0'`` is another action at time 0 than the one that was taken. It begins a counterfactual branch, whose later
  states and outcomes are primed as well (``s1'``); unprimed actions after it are taken in the branch too;
* ``o1?4`` asks to choose among four;
* ``{o1 o2 o3} -> order`` shows the slots in braces shuffled and asks for their order.

A pattern that cannot be answered from what it gives, or that gives its answer away, is refused with the slot and the
reason. This module knows nothing about worlds: it decides what a pattern means, not what is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Literal

SlotKind = Literal["o", "s", "a", "r", "d", "b"]
Task = Literal["state", "observation", "actions", "policy", "reward", "termination", "budget", "order"]
Node = tuple[int, bool]  # a state: its time, and whether it is one of the counterfactual branch

MOST_OPTIONS = 9  # of a choice, and slots of a shuffled group
ORDER = "order"
LONGEST = 64  # transitions of a cloze named with @k
PLUGINS = "vagen.clozes"  # group of entry points


class ClozeError(ValueError):
    """A cloze that cannot be; the message names the slot and the reason."""


@dataclass(frozen=True, order=True)
class Slot:
    """One link of the MDP at one time. ``primed``: of the counterfactual branch. ``optimal``: the ``*`` of ``a0*``."""

    kind: SlotKind
    time: int
    primed: bool = False
    optimal: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{self.time}{self.primed * chr(39)}{self.optimal * '*'}"


@dataclass(frozen=True)
class Pattern:
    """A parsed cloze.

    Attributes:
        given: the slots shown, in the order written, without those of the shuffled group.
        asked: the slots to fill in, in order of time and all of one kind; for ``order`` those of the shuffled group.
        task: what kind of answer fills them.
        choices: among how many options to choose; 0 where the answer is free.
        length: transitions that a window must have so that every slot exists.
        history: how many given observations, the first ones, only show what came before; see :func:`with_history`.
    """

    given: tuple[Slot, ...]
    asked: tuple[Slot, ...]
    task: Task
    choices: int
    length: int
    history: int = 0

    def __str__(self) -> str:
        given = " ".join(map(str, self.given))
        asked = " ".join(map(str, self.asked))
        if self.task == "order":
            return f"{given} {{{asked}}} -> {ORDER}".strip()
        return f"{given} -> {asked}{f'?{self.choices}' if self.choices else ''}"

    @cached_property
    def horizon(self) -> int:
        """Transitions the answer spans: 0 for reading off a state, k for a state or plan k actions away."""
        if self.task in ("state", "observation"):
            return abs(self.asked[0].time - self.anchor.time)
        if self.task == "budget":
            return 0
        return 1 if self.task == "policy" else len(self.asked)

    @cached_property
    def anchor(self) -> Slot:
        """The given state or observation that an asked state is reckoned from: the last before it, or the next."""
        [asked] = self.asked
        shown = [
            slot
            for slot in self.given
            if slot.kind in "os" and (slot.primed == asked.primed or (asked.primed and slot.time <= self.fork))
        ]
        if self.is_foretold(asked):
            return max((slot for slot in shown if slot.time <= asked.time), key=lambda slot: slot.time)
        return min((slot for slot in shown if slot.time > asked.time), key=lambda slot: slot.time)

    @cached_property
    def images(self) -> tuple[Slot, ...]:
        """The given observations, in order."""
        return tuple(slot for slot in self.given if slot.kind == "o")

    @property
    def shows_images(self) -> bool:
        """Whether any image is shown, given or to be chosen or ordered."""
        return bool(self.images) or (self.asked[0].kind == "o")

    @property
    def takes_history(self) -> bool:
        """Whether earlier observations can come before it: its images are those from its first moment on, in order.

        Then the images of a trajectory up to some time begin the prompts of all clozes asked after it. Of other clozes
        the images between would tell too much, as in ``a0 o1 -> s0`` or ``o0 o3 -> a0 a1 a2``.
        """
        return bool(self.images) and self.images == tuple(Slot("o", time) for time in range(len(self.images)))

    @property
    def dynamics(self) -> bool:
        """Whether the answer depends on what an action does."""
        return self.task not in ("policy", "budget") and self.horizon > 0

    @cached_property
    def fork(self) -> int:
        """The time of the first counterfactual action; beyond every slot where there is none."""
        times = [slot.time for slot in (*self.given, *self.asked) if slot.kind == "a" and slot.primed]
        return min(times, default=1000)

    @property
    def counterfactual(self) -> bool:
        return self.fork < 1000

    def knows_action(self, time: int, primed: bool) -> bool:
        """Whether the action of the factual trajectory (or of the branch) at a time is given."""
        if primed and time >= self.fork:
            own = Slot("a", time, True)
            if own in self.given or own in self.asked or time == self.fork:
                return own in self.given
        return Slot("a", time) in self.given

    @cached_property
    def foretold(self) -> frozenset[Node]:
        """The states that follow from the given ones and the given actions, the given ones included."""
        return self._closure([slot for slot in self.given if slot.kind in "os"])

    def is_foretold(self, slot: Slot) -> bool:
        """Whether the state at a slot's time follows from the given states and actions."""
        return self.node(slot) in self.foretold

    def node(self, slot: Slot) -> Node:
        """The state a slot is about; up to the fork the branch is the factual trajectory."""
        return slot.time, slot.primed and slot.time > self.fork

    def outcomes_of(self, slot: Slot) -> tuple[Slot, ...]:
        """The given states after a slot's time that its state or action leads to through given or asked actions."""
        found = []
        for time in range(slot.time + 1, self.length + 1):
            before = Slot("a", time - 1, slot.primed and time > self.fork)
            if before not in self.asked and not self.knows_action(time - 1, slot.primed):
                break
            here = (time, slot.primed and time > self.fork)
            found += [other for other in self.given if other.kind in "os" and self.node(other) == here]
        return tuple(found)

    @cached_property
    def clues(self) -> Mapping[Node, tuple[Slot, ...]]:
        """The given slots that tell of a state (o, s, b) or of the transition that led to it (r, d), by that state."""
        found: dict[Node, tuple[Slot, ...]] = {}
        for slot in self.given:
            if slot.kind != "a":
                time = slot.time + (slot.kind in "rd")
                node = (time, slot.primed and time > self.fork)
                found[node] = (*found.get(node, ()), slot)
        return found

    def _closure(self, start: Sequence[Slot]) -> frozenset[Node]:
        known = {self.node(slot) for slot in start}
        for time in range(self.length):
            for primed in (False, True):
                source = (time, primed and time > self.fork)
                branch_here = not primed or time >= self.fork
                if branch_here and source in known and self.knows_action(time, primed):
                    known.add((time + 1, primed))
        return frozenset(known)


#: The clozes with a name. Adding one is one entry.
NAMED: dict[str, str] = {
    "state_estimation": "o0 -> s0",
    "forward_dynamics": "o0 a0 -> s1",
    "inverse_dynamics": "o0 o1 -> a0",
    "retrodiction": "a0 o1 -> s0",
    "policy": "o0 -> a0*",
    "reward": "o0 a0 -> r0",
    "termination": "o0 a0 -> d0",
    "budget": "o0 -> b0",
    "rollout": "o0 a0 a1 a2 -> s3",
    "plan_inference": "o0 o3 -> a0 a1 a2",
    "infill_state": "o0 a0 o2 a1 -> s1",
    "infill_action": "o0 o2 a1 -> a0",
    "next_observation": "o0 a0 -> o1?4",
    "counterfactual": "o0 a0 o1 a0' -> s1'",
    "reorder_observations": "o0 a0 a1 a2 {o1 o2 o3} -> order",
    "reorder_actions": "o0 o1 o2 o3 {a0 a1 a2} -> order",
    "text_forward_dynamics": "s0 a0 -> s1",
    "text_inverse_dynamics": "s0 s1 -> a0",
    "text_retrodiction": "a0 s1 -> s0",
    "text_policy": "s0 -> a0*",
    "text_reward": "s0 a0 -> r0",
    "text_termination": "s0 a0 -> d0",
    "text_budget": "s0 -> b0",
    "text_rollout": "s0 a0 a1 a2 -> s3",
    "text_plan_inference": "s0 s3 -> a0 a1 a2",
    "text_infill_state": "s0 a0 s2 a1 -> s1",
    "text_infill_action": "s0 s2 a1 -> a0",
    "text_next_state": "s0 a0 -> s1?4",
    "text_counterfactual": "s0 a0 s1 a0' -> s1'",
    "text_reorder_states": "s0 a0 a1 a2 {s1 s2 s3} -> order",
    "text_reorder_actions": "s0 s1 s2 s3 {a0 a1 a2} -> order",
}


def _run(kind: str, start: int, stop: int) -> str:
    """Slots of one kind from ``start`` up to, not including, ``stop``."""
    return " ".join(f"{kind}{time}" for time in range(start, stop))


#: Clozes that come in any length: their patterns for k transitions, asked for as ``rollout@5``.
FAMILIES: dict[str, Callable[[int], str]] = {
    "rollout": lambda k: f"o0 {_run('a', 0, k)} -> s{k}",
    "retrodiction": lambda k: f"{_run('a', 0, k)} o{k} -> s0",
    "plan_inference": lambda k: f"o0 o{k} -> {_run('a', 0, k)}",
    "next_observation": lambda k: f"o0 {_run('a', 0, k)} -> o{k}?4",
    "reorder_observations": lambda k: f"o0 {_run('a', 0, k)} {{{_run('o', 1, k + 1)}}} -> {ORDER}",
    "reorder_actions": lambda k: f"{_run('o', 0, k + 1)} {{{_run('a', 0, k)}}} -> {ORDER}",
    "text_rollout": lambda k: f"s0 {_run('a', 0, k)} -> s{k}",
    "text_retrodiction": lambda k: f"{_run('a', 0, k)} s{k} -> s0",
    "text_plan_inference": lambda k: f"s0 s{k} -> {_run('a', 0, k)}",
}

_SLOT = re.compile(r"([osardb])(\d{1,3})('?)(\*?)(?:\?(\d{1,3}))?", re.ASCII)
_TASKS: dict[SlotKind, Task] = {
    "s": "state",
    "o": "observation",
    "a": "actions",
    "r": "reward",
    "d": "termination",
    "b": "budget",
}


def named(name: str) -> Pattern:
    """The pattern of a named cloze, or of a pattern written out.

    Raises:
        ClozeError: neither a name nor a pattern that can be answered.
    """
    if "->" in name:
        return parse(name)
    base, at, horizon = name.partition("@")
    if at:
        return _of_length(name, base, horizon)
    known = NAMED if name in NAMED else all_named()
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
        raise ClozeError(f"unknown cloze {name!r}: {hint} A pattern such as 'o0 a0 -> s1' works too.")
    return parse(known[name])


def _of_length(name: str, base: str, horizon: str) -> Pattern:
    """The pattern of a name such as ``rollout@5``."""
    if base not in FAMILIES:
        raise ClozeError(f"unknown cloze {name!r}: only {', '.join(FAMILIES)} come in any length (@k)")
    if not (horizon.isascii() and horizon.isdigit() and 1 <= int(horizon) <= LONGEST):
        raise ClozeError(f"unknown cloze {name!r}: write a number of transitions from 1 to {LONGEST} after the @")
    return parse(FAMILIES[base](int(horizon)))


@cache
def all_named() -> Mapping[str, str]:
    """The clozes with a name, those of installed plug-ins included.

    A distribution names its own by entry points of the group ``vagen.clozes``, each a name and the place of a pattern,
    such as ``hindsight = my_package.clozes:HINDSIGHT`` with ``HINDSIGHT = "a0 a1 o2 -> s0"``.

    Raises:
        ClozeError: a plug-in takes a name that is taken, or its pattern cannot be; names the distribution.
    """
    found = dict(NAMED)
    for point in entry_points(group=PLUGINS):
        origin = f"plug-in {point.dist.name if point.dist else '?'} ({PLUGINS}: {point.name})"
        if not point.name.isidentifier():
            raise ClozeError(f"{origin}: a cloze's name is made of letters, digits and _; choose another name")
        if point.name in found:
            raise ClozeError(f"{origin}: cloze {point.name!r} exists already; choose another name or uninstall it")
        try:
            pattern = point.load()
        except (ImportError, AttributeError) as error:
            raise ClozeError(f"{origin} cannot be loaded: {error}; uninstall or mend it") from None
        if not isinstance(pattern, str):
            raise ClozeError(f"{origin}: {point.value} is no pattern but a {type(pattern).__name__}")
        try:
            parse(pattern)
        except ClozeError as error:
            raise ClozeError(f"{origin}: {error}") from None
        found[point.name] = pattern
    return found


def parse(text: str) -> Pattern:
    """Parse and check a pattern.

    Raises:
        ClozeError: says which slot is wrong, and why.
    """
    given_text, arrow, asked_text = text.partition("->")
    if not arrow or "->" in asked_text:
        raise ClozeError(f"cloze {text!r}: write GIVEN -> ASKED with exactly one '->', such as 'o0 a0 -> s1'")
    given, group = _given(given_text, text)
    asked, choices = _asked(asked_text, group, text)
    if not (given or group) or not asked:
        side = "given" if not (given or group) else "asked"
        raise ClozeError(f"cloze {text!r}: nothing is {side}; slots are o, s, a, r, d, b with a time, such as o0")
    for slot in (*given, *asked):
        if (*given, *asked).count(slot) > 1:
            where = "both given and asked" if slot in given and slot in asked else "written twice"
            raise ClozeError(f"cloze {text!r}: slot {slot} is {where}")
    if starred := [slot for slot in given if slot.optimal]:
        raise ClozeError(f"cloze {text!r}: slot {starred[0]} is given, and only an asked action can be optimal (*)")
    length = max(slot.time + (slot.kind in "ard") for slot in (*given, *asked))
    task: Task = "order" if group else "policy" if any(s.optimal for s in asked) else _TASKS[asked[0].kind]
    pattern = Pattern(given, asked, task, choices, length)
    _check_branch(pattern, text)
    _CHECKS[task](pattern, text)
    return pattern


@cache
def with_history(pattern: Pattern, earlier: int) -> Pattern:
    """A pattern asked later in an episode, with the observations of all the time before.

    ``o0 a0 -> s1`` after two earlier observations is ``o0 o1 o2 a2 -> s3``. Earlier actions are not given: with them,
    clozes that ask for one could not share the images after it with those that give it.

    Raises:
        ClozeError: the pattern shows other images than those from its first moment on.
    """
    if not pattern.takes_history:
        raise ClozeError(f"cloze {str(pattern)!r} shows other images than those from its first moment on, in order")
    given, asked = (
        tuple(replace(s, time=s.time + earlier) for s in slots) for slots in (pattern.given, pattern.asked)
    )
    before = tuple(Slot("o", time) for time in range(earlier))
    return replace(
        pattern,
        given=before + given,
        asked=asked,
        length=pattern.length + earlier,
        history=pattern.history + earlier,
    )


def _given(words: str, text: str) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """The given slots, and those of the shuffled group."""
    before, brace, rest = words.partition("{")
    inside, closing, after = rest.partition("}")
    if bool(brace) != bool(closing) or "}" in before or any(mark in after for mark in "{}"):
        raise ClozeError(f"cloze {text!r}: write one shuffled group in braces, such as {{o1 o2 o3}}")
    if brace and not inside.split():
        raise ClozeError(f"cloze {text!r}: the shuffled group {{}} is empty")
    given = tuple(_free_slot(word, text) for word in [*before.split(), *after.split()])
    return given, tuple(sorted(_free_slot(word, text) for word in inside.split()))


def _asked(words: str, group: tuple[Slot, ...], text: str) -> tuple[tuple[Slot, ...], int]:
    """The asked slots, and the number of choices."""
    asked = words.split()
    if group and asked != [ORDER]:
        raise ClozeError(f"cloze {text!r}: slot {group[0]} is shuffled, and then only '-> {ORDER}' can be asked")
    if group:
        return group, 0
    if ORDER in asked:
        raise ClozeError(
            f"cloze {text!r}: '{ORDER}' needs a shuffled group such as {{o1 o2 o3}} among the given slots"
        )
    slots = sorted(_slot(word, text) for word in asked)
    choices = max((number for _, number in slots), default=0)
    if choices and len(slots) > 1:
        raise ClozeError(f"cloze {text!r}: slot {slots[1][0]}: a choice (?n) asks for one slot")
    return tuple(slot for slot, _ in slots), choices


def _free_slot(word: str, pattern: str) -> Slot:
    slot, choices = _slot(word, pattern)
    if choices:
        raise ClozeError(f"cloze {pattern!r}: slot {word!r} is given, and only an asked slot can be a choice (?n)")
    return slot


def _slot(word: str, pattern: str) -> tuple[Slot, int]:
    match = _SLOT.fullmatch(word)
    if match is None:
        raise ClozeError(
            f"cloze {pattern!r}: {word!r} is no slot; write o, s, a, r, d or b and a time, such as o0, a1* or s1'"
        )
    kind, time, primed, star, choices = match[1], int(match[2]), bool(match[3]), bool(match[4]), match[5]
    if star and kind != "a":
        raise ClozeError(f"cloze {pattern!r}: slot {word!r}: only actions can be optimal (*)")
    if choices is not None and not 2 <= int(choices) <= MOST_OPTIONS:
        raise ClozeError(f"cloze {pattern!r}: slot {word!r}: choose among 2 to {MOST_OPTIONS}")
    return Slot(kind, time, primed, star), int(choices or 0)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- checks


def _check_branch(pattern: Pattern, text: str) -> None:
    """Primed slots need a branch they lie on."""
    for slot in (*pattern.given, *pattern.asked):
        if not slot.primed:
            continue
        if slot.optimal:
            raise ClozeError(f"cloze {text!r}: slot {slot}: a counterfactual action (') cannot be optimal (*) too")
        first = pattern.fork + (slot.kind in "osb")
        if slot.time < first:
            raise ClozeError(f"cloze {text!r}: slot {slot} is counterfactual, and no earlier a' leads there")


def _one_kind(pattern: Pattern, text: str) -> None:
    first, *others = pattern.asked
    for other in others:
        if (other.kind, other.primed) != (first.kind, first.primed):
            raise ClozeError(f"cloze {text!r}: slots {first} and {other} are asked together; ask for one kind")


def _one_slot(pattern: Pattern, text: str) -> Slot:
    _one_kind(pattern, text)
    first, *others = pattern.asked
    if others:
        raise ClozeError(f"cloze {text!r}: slot {others[0]}: ask for one {first.kind} slot at a time")
    return first


def _need_foretold(pattern: Pattern, asked: Slot, text: str) -> None:
    """Check that the state at a slot's time follows from a given earlier one and the actions between."""
    if pattern.is_foretold(asked):
        return
    node = pattern.node(asked)
    on_the_way = [
        slot.time
        for slot in pattern.given
        if slot.kind in "os" and slot.time <= asked.time and (not pattern.node(slot)[1] or node[1])
    ]
    if not on_the_way:
        raise ClozeError(f"cloze {text!r}: slot {asked} needs an o or s at time {asked.time} or before")
    raise ClozeError(f"cloze {text!r}: slot {asked} depends on {_missing(pattern, max(on_the_way), asked)}, "
                     "which is not given")  # fmt: skip


def _missing(pattern: Pattern, start: int, asked: Slot) -> Slot:
    """The first action between a time and a slot that is not given."""
    for time in range(start, asked.time):
        if not pattern.knows_action(time, asked.primed):
            return Slot("a", time, asked.primed and time == pattern.fork)
    return Slot("a", asked.time)


def _check_state(pattern: Pattern, text: str) -> None:
    slot = _one_slot(pattern, text)
    if pattern.task == "observation" and not pattern.choices:
        raise ClozeError(
            f"cloze {text!r}: slot {slot} asks for an image; ask for the state s{slot.time}, or for a choice {slot}?4"
        )
    same = [other for other in pattern.given if other.kind == slot.kind and pattern.node(other) == pattern.node(slot)]
    if same:
        raise ClozeError(f"cloze {text!r}: slot {slot} is both given and asked")
    if not pattern.outcomes_of(slot):
        _need_foretold(pattern, slot, text)
    elif not any((time, slot.primed and time > pattern.fork) in pattern.foretold for time in range(slot.time + 1)):
        _check_nothing_before(pattern, slot, text)


def _check_nothing_before(pattern: Pattern, slot: Slot, text: str) -> None:
    """What is told of the time before a state, when no state is, rules out pasts that nobody can list."""
    if before := [other for other in pattern.given if other.time < slot.time]:
        raise ClozeError(
            f"cloze {text!r}: slot {before[0]} comes before {slot}, and no o or s there says where from; leave it out"
        )


def _check_actions(pattern: Pattern, text: str) -> None:
    if any(slot.optimal for slot in pattern.asked):
        raise ClozeError(f"cloze {text!r}: optimal (*) and plain actions are asked together")
    _one_kind(pattern, text)
    first, last = pattern.asked[0], pattern.asked[-1]
    _check_no_gap(pattern, text)
    _need_foretold(pattern, first, text)
    if not any(slot.time > last.time for slot in pattern.outcomes_of(first)):
        after, prime = last.time + 1, last.primed * "'"
        raise ClozeError(
            f"cloze {text!r}: slot {last} needs the outcome, o{after}{prime} or s{after}{prime}, among the given slots"
        )


def _check_no_gap(pattern: Pattern, text: str) -> None:
    for one, two in pairwise(pattern.asked):
        for time in range(one.time + 1, two.time):
            if not pattern.knows_action(time, one.primed):
                raise ClozeError(f"cloze {text!r}: slots {one} and {two} leave a gap; give or ask for a{time} too")


def _check_policy(pattern: Pattern, text: str) -> None:
    slot, *others = pattern.asked
    if any(other.kind == "a" and not other.optimal for other in pattern.asked):
        raise ClozeError(f"cloze {text!r}: optimal (*) and plain actions are asked together")
    _one_kind(pattern, text)
    if others:
        raise ClozeError(f"cloze {text!r}: slot {others[0]}: ask for one optimal action at a time")
    if Slot("a", slot.time) in pattern.given:
        raise ClozeError(f"cloze {text!r}: slot {slot} is both given and asked")
    _need_foretold(pattern, slot, text)


def _check_event(pattern: Pattern, text: str) -> None:
    """A reward or termination follows from the state before and the action, or else the state after."""
    slot = _one_slot(pattern, text)
    if slot.kind == "d" and pattern.choices > len(("yes", "no")):
        raise ClozeError(f"cloze {text!r}: slot {slot}: the end of an episode has two answers; choose among 2")
    _need_foretold(pattern, slot, text)
    after = (slot.time + 1, slot.primed and slot.time + 1 > pattern.fork)
    if not pattern.knows_action(slot.time, slot.primed) and after not in pattern.foretold:
        action = Slot("a", slot.time, slot.primed and slot.time == pattern.fork)
        raise ClozeError(f"cloze {text!r}: slot {slot} depends on {action}, which is not given")


def _check_budget(pattern: Pattern, text: str) -> None:
    _need_foretold(pattern, _one_slot(pattern, text), text)


def _check_order(pattern: Pattern, text: str) -> None:
    first, *others = pattern.asked
    if not others or len(others) >= MOST_OPTIONS:
        raise ClozeError(f"cloze {text!r}: slot {first}: a shuffled group has 2 to {MOST_OPTIONS} slots")
    _one_kind(pattern, text)
    if starred := [slot for slot in pattern.asked if slot.optimal]:
        raise ClozeError(f"cloze {text!r}: slot {starred[0]}: only an asked action can be optimal (*)")
    if first.kind not in "osa":
        raise ClozeError(f"cloze {text!r}: slot {first}: only o, s and a slots can be put in order")
    if first.kind == "a":
        _check_actions(pattern, text)
        return
    for slot in pattern.asked:
        if pattern.node(slot) in {pattern.node(other) for other in pattern.given if other.kind in "os"}:
            raise ClozeError(f"cloze {text!r}: slot {slot} is both given and asked")
        _need_foretold(pattern, slot, text)


_CHECKS = {
    "state": _check_state,
    "observation": _check_state,
    "actions": _check_actions,
    "policy": _check_policy,
    "reward": _check_event,
    "termination": _check_event,
    "budget": _check_budget,
    "order": _check_order,
}

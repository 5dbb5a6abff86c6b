"""The cloze grammar: ``GIVEN -> ASKED`` over the slots of a window of a trajectory.

Slots are ``o0`` (image at time 0), ``s0`` (exact state at time 0, as text), ``a0`` (action from time 0 to time 1),
``r0`` (its reward) and ``d0`` (whether it ended the world). ``a0*`` asks for any optimal action. A pattern that cannot
be answered from what it gives, or that gives its answer away, is refused with the slot and the reason.

This module knows nothing about worlds: it decides what a pattern means, not what is true.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Literal

SlotKind = Literal["o", "s", "a", "r", "d"]
Task = Literal["state", "actions", "policy", "reward", "termination"]


class ClozeError(ValueError):
    """A cloze that cannot be; the message names the slot and the reason."""


@dataclass(frozen=True, order=True)
class Slot:
    """One link of the MDP at one time. ``optimal`` is the ``*`` of ``a0*``."""

    kind: SlotKind
    time: int
    optimal: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{self.time}{'*' if self.optimal else ''}"


@dataclass(frozen=True)
class Pattern:
    """A parsed cloze.

    Attributes:
        given: the slots shown, in the order written.
        asked: the slots to fill in, in order of time; all of one kind.
        task: what kind of answer fills them.
        length: transitions that a window must have so that every slot exists.
    """

    given: tuple[Slot, ...]
    asked: tuple[Slot, ...]
    task: Task
    length: int

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.given))} -> {' '.join(map(str, self.asked))}"

    @property
    def horizon(self) -> int:
        """Transitions the answer spans: 0 for reading off a state, k for a state or plan k actions away."""
        if self.task == "state":
            anchor = max(s.time for s in self.given if s.kind in "os" and s.time <= self.asked[0].time)
            return self.asked[0].time - anchor
        return 1 if self.task == "policy" else len(self.asked)

    @property
    def images(self) -> tuple[Slot, ...]:
        """The given observations, in order."""
        return tuple(slot for slot in self.given if slot.kind == "o")

    @property
    def dynamics(self) -> bool:
        """Whether the answer depends on what an action does."""
        return self.task != "policy" and self.horizon > 0


#: The clozes with a name. Adding one is one entry.
NAMED: dict[str, str] = {
    "state_estimation": "o0 -> s0",
    "forward_dynamics": "o0 a0 -> s1",
    "inverse_dynamics": "o0 o1 -> a0",
    "policy": "o0 -> a0*",
    "reward": "o0 a0 -> r0",
    "termination": "o0 a0 -> d0",
    "rollout": "o0 a0 a1 a2 -> s3",
    "plan_inference": "o0 o3 -> a0 a1 a2",
    "text_forward_dynamics": "s0 a0 -> s1",
    "text_inverse_dynamics": "s0 s1 -> a0",
}

_SLOT = re.compile(r"([osard])(\d{1,3})(\*?)")
_NOT_YET = {
    "'": "counterfactual slots (')",
    "?": "multiple choice (?n)",
    "{": "shuffled slots ({...})",
    "b": "steps to go (b)",
}


def named(name: str) -> Pattern:
    """The pattern of a named cloze, or of a pattern written out.

    Raises:
        ClozeError: neither a name nor a pattern that can be answered.
    """
    if "->" in name:
        return parse(name)
    if name not in NAMED:
        near = get_close_matches(name, NAMED, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMED)}."
        raise ClozeError(f"unknown cloze {name!r}: {hint} A pattern such as 'o0 a0 -> s1' works too.")
    return parse(NAMED[name])


def parse(text: str) -> Pattern:
    """Parse and check a pattern.

    Raises:
        ClozeError: says which slot is wrong, and why.
    """
    given_text, arrow, asked_text = text.partition("->")
    if not arrow or "->" in asked_text:
        raise ClozeError(f"cloze {text!r}: write GIVEN -> ASKED with exactly one '->', such as 'o0 a0 -> s1'")
    given = tuple(_slot(word, text) for word in given_text.split())
    asked = tuple(sorted(_slot(word, text) for word in asked_text.split()))
    if not given or not asked:
        side = "given" if not given else "asked"
        raise ClozeError(f"cloze {text!r}: nothing is {side}; slots are o, s, a, r, d with a time, such as o0")
    for slot in (*given, *asked):
        if (*given, *asked).count(slot) > 1:
            where = "both given and asked" if slot in given and slot in asked else "written twice"
            raise ClozeError(f"cloze {text!r}: slot {slot} is {where}")
    if starred := [slot for slot in given if slot.optimal]:
        raise ClozeError(f"cloze {text!r}: slot {starred[0]} is given, and only an asked action can be optimal (*)")
    task = _task(given, asked, text)
    length = max(slot.time + (slot.kind in "ard") for slot in (*given, *asked))
    return Pattern(given, asked, task, length)


def _slot(word: str, pattern: str) -> Slot:
    for mark, meaning in _NOT_YET.items():
        if mark in word:
            raise ClozeError(f"cloze {pattern!r}: slot {word!r} uses {meaning}, which this version cannot build")
    match = _SLOT.fullmatch(word)
    if match is None:
        raise ClozeError(
            f"cloze {pattern!r}: {word!r} is no slot; write o, s, a, r or d and a time, such as o0 or a1*"
        )
    kind, time, star = match[1], int(match[2]), bool(match[3])
    if star and kind != "a":
        raise ClozeError(f"cloze {pattern!r}: slot {word!r}: only actions can be optimal (*)")
    return Slot(kind, time, star)  # type: ignore[arg-type]


def _task(given: tuple[Slot, ...], asked: tuple[Slot, ...], text: str) -> Task:
    """The task of a pattern, once it is sure that the given slots determine the asked ones."""
    kinds = {slot.kind for slot in asked}
    if len(kinds) > 1:
        raise ClozeError(f"cloze {text!r}: slots {asked[0]} and {asked[-1]} are asked together; ask for one kind")
    first = asked[0]
    if first.kind == "o":
        raise ClozeError(f"cloze {text!r}: slot {first} asks for an image; ask for the state s{first.time} instead")
    if first.kind == "a":
        return _action_task(given, asked, text)
    if len(asked) > 1:
        raise ClozeError(f"cloze {text!r}: slot {asked[1]}: ask for one {first.kind} slot at a time")
    if first.kind == "s":
        if Slot("s", first.time) in given:
            raise ClozeError(f"cloze {text!r}: slot {first} is both given and asked")
        _need_state(given, first.time, first, text)
        return "state"
    _need_state(given, first.time, first, text)
    if Slot("a", first.time) not in given:
        raise ClozeError(f"cloze {text!r}: slot {first} depends on a{first.time}, which is not given")
    return "reward" if first.kind == "r" else "termination"


def _need_state(given: tuple[Slot, ...], time: int, asked: Slot, text: str) -> None:
    """Check that the state at ``time`` follows from a given earlier one and the actions between."""
    anchors = [slot.time for slot in given if slot.kind in "os" and slot.time <= time]
    if not anchors:
        raise ClozeError(f"cloze {text!r}: slot {asked} needs an o or s at time {time} or before")
    for between in range(max(anchors), time):
        if Slot("a", between) not in given:
            raise ClozeError(f"cloze {text!r}: slot {asked} depends on a{between}, which is not given")


def _action_task(given: tuple[Slot, ...], asked: tuple[Slot, ...], text: str) -> Task:
    first, last = asked[0], asked[-1]
    if first.optimal and Slot("a", first.time) in given:
        raise ClozeError(f"cloze {text!r}: slot {first} is both given and asked")
    if first.optimal:
        if len(asked) > 1:
            raise ClozeError(f"cloze {text!r}: slot {asked[1]}: ask for one optimal action at a time")
        _need_state(given, first.time, first, text)
        return "policy"
    if any(slot.optimal for slot in asked):
        raise ClozeError(f"cloze {text!r}: optimal (*) and plain actions are asked together")
    for one, two in pairwise(asked):
        if two.time != one.time + 1:
            raise ClozeError(f"cloze {text!r}: slots {one} and {two} leave a gap; ask for consecutive actions")
    _need_state(given, first.time, first, text)
    after = last.time + 1
    if not any(slot.kind in "os" and slot.time == after for slot in given):
        raise ClozeError(f"cloze {text!r}: slot {last} needs the outcome, o{after} or s{after}, among the given slots")
    return "actions"

"""The opposite of a cloze about one transition: its answer becomes what is given, and what it gave is asked.

Where a state was foretold, ``o0 a0 -> s1``, that state is shown and the action asked, ``o0 s1 -> a0``; where an action
was inferred, ``o0 o1 -> a0``, that action is given and the state asked, ``o0 a0 -> s1``. So two models of a world, of
what actions do and of what was done, can judge each other.
"""

from __future__ import annotations

from dataclasses import replace

from vagen.cloze.build import build
from vagen.cloze.grammar import ClozeError, Pattern, parse
from vagen.cloze.sample import Sample, UnaskableError, window_at
from vagen.mdp import Trajectory
from worlds.text import read_actions, read_facts


def opposite_pattern(pattern: Pattern) -> Pattern:
    """What the opposite gives and asks.

    Raises:
        ClozeError: there is none, for the cloze is not about one transition's state or action.
    """
    given, asked = " ".join(map(str, pattern.given)), " ".join(map(str, pattern.asked))
    first, _, second = given.partition(" ")
    if not pattern.choices and first in ("o0", "s0"):
        if (second, asked) == ("a0", "s1"):
            return parse(f"{first} s1 -> a0")
        if (second, asked) in (("o1", "a0"), ("s1", "a0")):
            return parse(f"{first} a0 -> s1")
    raise ClozeError(f"cloze {pattern} has no opposite: only o0 a0 -> s1 and o0 o1 -> a0 have, and those of s0 and s1")


def opposite(sample: Sample, answer: str) -> Sample | None:
    """The opposite cloze if ``answer`` was right; its own answer is what ``sample`` gave.

    Returns:
        ``None`` where the answer cannot be read, or says what cannot be.
    """
    pattern = opposite_pattern(sample.pattern)
    window = window_at(sample.window, 0, 1)
    changed = _foretold(sample, window, answer) if pattern.task == "actions" else _done(sample, window, answer)
    if changed is None:
        return None
    try:
        return build(str(pattern), pattern, changed, sample.representation)
    except UnaskableError:
        return None


def _foretold(sample: Sample, window: Trajectory, answer: str) -> Trajectory | None:
    """The window as if its action had led to the state that was written."""
    facts = read_facts(answer, sample.world.schema, sample.representation)
    state = None if facts is None else sample.world.realise(facts, like=window.snapshots[0])
    return None if state is None else replace(window, snapshots=(window.snapshots[0], state), frames=window.frames[:1])


def _done(sample: Sample, window: Trajectory, answer: str) -> Trajectory | None:
    """The window as if the action that was written had been taken."""
    actions = read_actions(answer, sample.world.actions)
    return None if actions is None or len(actions) != 1 else replace(window, actions=actions)

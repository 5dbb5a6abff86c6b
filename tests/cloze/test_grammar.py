"""What each pattern means, and that every pattern that cannot be answered is refused with its slot and the reason."""

import contextlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vagen.cloze.grammar import FAMILIES, NAMED, ClozeError, Pattern, named, parse

# pattern: (given, asked, task, transitions needed, horizon, images, about dynamics)
MEANINGS = {
    "state_estimation": ("o0", "s0", "state", 0, 0, "o0", False),
    "forward_dynamics": ("o0 a0", "s1", "state", 1, 1, "o0", True),
    "inverse_dynamics": ("o0 o1", "a0", "actions", 1, 1, "o0 o1", True),
    "policy": ("o0", "a0*", "policy", 1, 1, "o0", False),
    "reward": ("o0 a0", "r0", "reward", 1, 1, "o0", True),
    "termination": ("o0 a0", "d0", "termination", 1, 1, "o0", True),
    "rollout": ("o0 a0 a1 a2", "s3", "state", 3, 3, "o0", True),
    "plan_inference": ("o0 o3", "a0 a1 a2", "actions", 3, 3, "o0 o3", True),
    "text_forward_dynamics": ("s0 a0", "s1", "state", 1, 1, "", True),
    "text_inverse_dynamics": ("s0 s1", "a0", "actions", 1, 1, "", True),
    "retrodiction": ("a0 o1", "s0", "state", 1, 1, "o1", True),
    "budget": ("o0", "b0", "budget", 0, 0, "o0", False),
    "infill_state": ("o0 a0 o2 a1", "s1", "state", 2, 1, "o0 o2", True),
    "infill_action": ("o0 o2 a1", "a0", "actions", 2, 1, "o0 o2", True),
    "next_observation": ("o0 a0", "o1", "observation", 1, 1, "o0", True),
    "counterfactual": ("o0 a0 o1 a0'", "s1'", "state", 1, 1, "o0 o1", True),
    "reorder_observations": ("o0 a0 a1 a2", "o1 o2 o3", "order", 3, 3, "o0", True),
    "reorder_actions": ("o0 o1 o2 o3", "a0 a1 a2", "order", 3, 3, "o0 o1 o2 o3", True),
    # written out
    "o0->s0": ("o0", "s0", "state", 0, 0, "o0", False),
    "  o0\ta0   ->\n s1 ": ("o0 a0", "s1", "state", 1, 1, "o0", True),
    "o0 a0 o2 a1 -> s1": ("o0 a0 o2 a1", "s1", "state", 2, 1, "o0 o2", True),  # infilling
    "o0 a0 o1 -> s1": ("o0 a0 o1", "s1", "state", 1, 0, "o0 o1", False),  # s1 is read off o1
    "s0 o1 a0 a1 -> s2": ("s0 o1 a0 a1", "s2", "state", 2, 1, "o1", True),
    "s0 o1 -> a0": ("s0 o1", "a0", "actions", 1, 1, "o1", True),
    "o1 o0 -> a0": ("o1 o0", "a0", "actions", 1, 1, "o1 o0", True),  # the order of images is kept
    "o0 s2 -> a1 a0": ("o0 s2", "a0 a1", "actions", 2, 2, "o0", True),  # what is asked is asked in order of time
    "o0 a0 -> a1*": ("o0 a0", "a1*", "policy", 2, 1, "o0", False),
    "s1 a1 -> d1": ("s1 a1", "d1", "termination", 2, 1, "", True),
    "o0 a0 a1 -> r1": ("o0 a0 a1", "r1", "reward", 2, 1, "o0", True),
    "o7 -> s7": ("o7", "s7", "state", 7, 0, "o7", False),
    "o0 r0 o1 d0 -> a0": ("o0 r0 o1 d0", "a0", "actions", 1, 1, "o0 o1", True),
    "o0 o1 -> r0": ("o0 o1", "r0", "reward", 1, 1, "o0 o1", True),  # by the states before and after
    "o0 o2 a1 -> s1": ("o0 o2 a1", "s1", "state", 2, 1, "o0 o2", True),  # back from o2, and one action from o0
    "a0 a1 o2 -> s0": ("a0 a1 o2", "s0", "state", 2, 2, "o2", True),
    "o0 a1 o3 -> a0 a2": ("o0 a1 o3", "a0 a2", "actions", 3, 2, "o0 o3", True),
    "o0 a0 b0 -> s1": ("o0 a0 b0", "s1", "state", 1, 1, "o0", True),
    "o0 -> a0*?3": ("o0", "a0*", "policy", 1, 1, "o0", False),
    "s1 -> o1?2": ("s1", "o1", "observation", 1, 0, "", False),
    "a0 o1 -> o0?4": ("a0 o1", "o0", "observation", 1, 1, "o1", True),
    "o0 {o1 o2} a0 a1 -> order": ("o0 a0 a1", "o1 o2", "order", 2, 2, "o0", True),
    "o0 a0 a1 a0' -> s2'": ("o0 a0 a1 a0'", "s2'", "state", 2, 2, "o0", True),  # a1 is taken in the branch too
    "o0 a0 a1 a1' -> s2'": ("o0 a0 a1 a1'", "s2'", "state", 2, 2, "o0", True),
    "o0 a0' s1' a1' -> r1'": ("o0 a0' s1' a1'", "r1'", "reward", 2, 1, "o0", True),
    "a0 o1 a0' o1' -> s0": ("a0 o1 a0' o1'", "s0", "state", 1, 1, "o1 o1'", True),
    "o0 a1 o2 -> s1": ("o0 a1 o2", "s1", "state", 2, 1, "o0 o2", True),
    "o0 o1 o1' -> a0'": ("o0 o1 o1'", "a0'", "actions", 1, 1, "o0 o1 o1'", True),
    "a0' s1' -> o1'?2": ("a0' s1'", "o1'", "observation", 1, 0, "", False),
}

# pattern: (slot named, reason given)
REFUSED = {
    # no pattern at all
    "": ("", "exactly one '->'"),
    "o0 a0 s1": ("", "exactly one '->'"),
    "o0 -> a0 -> s1": ("", "exactly one '->'"),
    "o0 - > s0": ("", "exactly one '->'"),
    "->": ("", "nothing is given"),
    "-> s0": ("", "nothing is given"),
    "o0 ->": ("", "nothing is asked"),
    # no slots
    "o0 x0 -> s1": ("'x0'", "is no slot"),
    "o -> s0": ("'o'", "is no slot"),
    "o0 -> order": ("'order'", "needs a shuffled group"),
    "O0 -> s0": ("'O0'", "is no slot"),
    "o0, a0 -> s1": ("'o0,'", "is no slot"),
    "o-1 -> s0": ("'o-1'", "is no slot"),
    "o1000 -> s1000": ("'o1000'", "is no slot"),
    "o0 -> a0**": ("'a0**'", "is no slot"),
    # given away, or twice
    "s0 -> s0": ("s0", "both given and asked"),
    "o0 o1 a0 -> a0": ("a0", "both given and asked"),
    "o0 a0 r0 -> r0": ("r0", "both given and asked"),
    "o0 o0 -> s0": ("o0", "written twice"),
    "o0 o00 -> s0": ("o0", "written twice"),
    "o0 a0 -> s1 s1": ("s1", "written twice"),
    # stars
    "o0 a0* -> s1": ("a0*", "given, and only an asked action can be optimal"),
    "o0 -> s0*": ("'s0*'", "only actions can be optimal"),
    "o0 a0 -> a1* a2*": ("a2*", "one optimal action at a time"),
    "o0 -> a0* a1": ("", "optimal (*) and plain actions"),
    "o0 -> a0* s0": ("s0", "ask for one kind"),
    "o0 o2 -> a0 a1*": ("", "optimal (*) and plain actions"),
    "o1 -> a0*": ("a0*", "needs an o or s at time 0 or before"),
    "o0 -> a1*": ("a1*", "depends on a0"),
    # several answers at once
    "o0 a0 -> s1 r0": ("r0", "ask for one kind"),
    "o0 a0 a1 -> s1 s2": ("s2", "one s slot at a time"),
    "o0 a0 a1 -> r0 r1": ("r1", "one r slot at a time"),
    "o0 a0 a1 -> d0 d1": ("d1", "one d slot at a time"),
    # images are not asked for
    "o0 a0 -> o1": ("o1", "ask for the state s1"),
    # not determined by what is given
    "o0 -> s1": ("s1", "depends on a0"),
    "o0 a1 -> s2": ("s2", "depends on a0"),
    "o0 a0 a2 -> s3": ("s3", "depends on a1"),
    "o1 -> s0": ("s0", "needs an o or s at time 0 or before"),
    "a0 -> s1": ("s1", "needs an o or s at time 1 or before"),
    "o0 -> r0": ("r0", "depends on a0"),
    "o0 -> d0": ("d0", "depends on a0"),
    "a0 -> d0": ("d0", "needs an o or s at time 0 or before"),
    "o0 a1 -> r1": ("r1", "depends on a0"),
    "o0 -> a0": ("a0", "needs the outcome, o1 or s1"),
    "o0 o2 -> a0": ("a0", "needs the outcome, o1 or s1"),
    "a0 o2 -> s0": ("s0", "needs an o or s at time 0 or before"),
    "o0 o2 -> s1": ("s1", "depends on a0"),
    "o1 -> a0": ("a0", "needs an o or s at time 0 or before"),
    "o0 o2 -> a1": ("a1", "depends on a0"),
    "o0 o3 -> a0 a2": ("a0 and a2", "leave a gap"),
    # steps to go
    "o0 -> b1": ("b1", "depends on a0"),
    "o0 b0 -> b0": ("b0", "both given and asked"),
    "o0 a0 -> b0 b1": ("b1", "one b slot at a time"),
    # what cannot be checked
    "a0 a1 o2 -> s1": ("a0", "comes before s1"),
    "r0 a1 o2 -> s1": ("r0", "comes before s1"),
    "o0 a0 -> d0?3": ("d0", "two answers"),
    # choices
    "o0 o1?4 -> a0": ("'o1?4'", "only an asked slot can be a choice"),
    "o0 a0 -> o1?1": ("'o1?1'", "choose among 2 to 9"),
    "o0 a0 -> o1?10": ("'o1?10'", "choose among 2 to 9"),
    "o0 a0 a1 -> o1?4 o2?4": ("o2", "a choice (?n) asks for one slot"),
    "o0 a0 o1 -> o1?4": ("o1", "both given and asked"),
    "o0 -> o1?4": ("o1", "depends on a0"),
    # counterfactuals
    "o0 a0 -> s1'": ("s1'", "no earlier a' leads there"),
    "o0 o0' a0' -> s1'": ("o0'", "no earlier a' leads there"),
    "o0 a1' -> s2'": ("s2'", "depends on a0"),
    "o0 a0' -> s2'": ("s2'", "depends on a1"),
    "o0 a0 a0' -> s2'": ("s2'", "depends on a1"),
    "o0 a0' -> s1": ("s1", "depends on a0"),
    "o0 o1' -> s1'": ("o1'", "no earlier a' leads there"),
    "o0 o1 -> a0'": ("a0'", "needs the outcome, o1' or s1'"),
    "a0' o1' -> s0": ("s0", "needs an o or s at time 0 or before"),  # ask about one trajectory at a time
    "o0 -> a0'*": ("a0'*", "cannot be optimal"),
    "o0 a0' s1' -> s1'": ("s1'", "both given and asked"),
    "o0 o1 o1' -> a0 a0'": ("a0 and a0'", "ask for one kind"),
    # shuffled groups
    "o0 a0 a1 {o1 o2} -> s2": ("o1", "only '-> order' can be asked"),
    "o0 a0 {o1} -> order": ("o1", "a shuffled group has 2 to 9 slots"),
    "o0 a0 {} -> order": ("", "the shuffled group {} is empty"),
    "o0 {o1 o2 -> order": ("", "one shuffled group in braces"),
    "o0 o1} -> order": ("", "one shuffled group in braces"),
    "{o0 o1} {a0 a1} -> order": ("", "one shuffled group in braces"),
    "o0 a0 {o1 o2} -> order": ("o2", "depends on a1"),
    "o0 a0 o1 a1 {o1 o2} -> order": ("o1", "both given and asked"),
    "o0 a0 a1 {o1 s2} -> order": ("o1 and s2", "ask for one kind"),
    "o0 a0 a1 {r0 r1} -> order": ("r0", "only o, s and a slots can be put in order"),
    "o0 {a0 a1} -> order": ("a1", "needs the outcome, o2 or s2"),
    "o0 o2 {a0 a1*} -> order": ("a1*", "only an asked action can be optimal"),
}


def words(slots) -> str:
    return " ".join(map(str, slots))


@pytest.mark.parametrize(("text", "meaning"), MEANINGS.items(), ids=MEANINGS)
def test_a_pattern_means(text, meaning):
    pattern = named(text)
    assert meaning == (
        words(pattern.given),
        words(pattern.asked),
        pattern.task,
        pattern.length,
        pattern.horizon,
        words(pattern.images),
        pattern.dynamics,
    ), f"{text!r} is misread"


@pytest.mark.parametrize("name", NAMED)
def test_names_stand_for_their_patterns(name):
    assert named(name) == parse(NAMED[name])
    assert str(named(name)) == NAMED[name], "the names' patterns are written as patterns are printed"


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in NAMED])
def test_families_hold_the_cloze_of_their_name(name):
    length = named(name).length
    assert named(f"{name}@{length}") == named(name)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("horizon", [2, 5, 8])
def test_families_come_in_any_length(name, horizon):
    assert named(f"{name}@{horizon}").length == horizon
    assert named(f"{name}@{horizon}").horizon == horizon


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("policy@2", "come in any length"),
        ("rollout@", "a number of transitions"),
        ("rollout@0", "a number of transitions"),
        ("rollout@-1", "a number of transitions"),
        ("rollout@65", "a number of transitions"),
        ("reorder_actions@10", "2 to 9 slots"),
    ],
)
def test_lengths_that_cannot_be_are_refused(name, reason):
    with pytest.raises(ClozeError, match=reason):
        named(name)


@pytest.mark.parametrize(("text", "slot", "reason"), [(t, *why) for t, why in REFUSED.items()], ids=REFUSED)
def test_a_pattern_that_cannot_be_is_refused(text, slot, reason):
    with pytest.raises(ClozeError) as caught:
        parse(text)
    message = str(caught.value)
    assert repr(text) in message, "the message does not say which pattern"
    rest = message.replace(repr(text), "")
    assert re.search(rf"(?<![\w']){re.escape(slot)}(?!\w)", rest), f"the message does not name {slot}: {message}"
    assert reason in rest, f"the message does not give the reason: {message}"


def test_a_given_action_gives_the_optimal_one_away():
    with pytest.raises(ClozeError, match="a0"):
        parse("o0 a0 -> a0*")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("forward_dynamic", "did you mean 'forward_dynamics'?"),
        ("Policy", "did you mean 'policy'?"),
        ("qqqq", "known: state_estimation, "),
        ("", "known: state_estimation, "),
    ],
)
def test_unknown_names_are_refused_with_a_hint(name, hint):
    with pytest.raises(ClozeError, match=re.escape(f"unknown cloze {name!r}: {hint}")):
        named(name)


SLOTS = st.builds(
    lambda kind, time, mark: f"{kind}{time}{mark}",
    st.sampled_from("osardb"),
    st.integers(0, 3),
    st.sampled_from(("", "", "", "", "*", "'", "?3")),
)
SIDE = st.lists(SLOTS, min_size=1, max_size=5).map(" ".join)
PATTERNS = st.builds("{} -> {}".format, SIDE, st.lists(SLOTS, min_size=1, max_size=3).map(" ".join))


@settings(max_examples=200)
@given(st.text() | st.text(alphabet="osardb0123->*?'{} \t", max_size=30) | PATTERNS)
@example("o\u0660 -> s0")  # a digit that is not ASCII
@example("o0 -> s\u00b2")
@example("\x00->\ud800")
def test_no_text_raises_anything_but_a_cloze_error(text):
    for read in (parse, named):
        with contextlib.suppress(ClozeError):
            assert isinstance(read(text), Pattern)


@settings(max_examples=300)
@given(PATTERNS)
def test_what_is_accepted_can_be_written_and_read_again(text):
    try:
        pattern = parse(text)
    except ClozeError:
        return
    assert parse(str(pattern)) == pattern
    given_text, asked_text = text.split("->")
    assert words(pattern.given) == given_text.strip(), "the order of what is given is lost"
    assert sorted(words(pattern.asked).split()) == sorted(asked_text.replace("?3", "").split())
    assert pattern.choices == (3 if "?3" in asked_text else 0)
    assert 0 <= pattern.horizon <= max(pattern.length, 1)
    times = [slot.time + (slot.kind in "ard") for slot in (*pattern.given, *pattern.asked)]
    assert pattern.length == max(times)
    assert not set(pattern.given) & set(pattern.asked), "an answer is given away"

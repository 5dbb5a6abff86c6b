"""The opposite of a cloze: what was answered is given, and what was given is asked."""

import pytest

import worlds
from vagen.cloze.build import build
from vagen.cloze.grammar import ClozeError, named, parse
from vagen.cloze.opposite import opposite, opposite_pattern
from vagen.cloze.sample import window_at
from vagen.cloze.scoring import score
from vagen.rollout.agents import RandomAgent
from vagen.rollout.episodes import play
from worlds.text import write_actions, write_facts


@pytest.fixture(params=["sokoban-6x6", "minigrid-rooms-6x6", "frozenlake-6x6"])
def window(request):
    [episode] = play(request.param, RandomAgent(), [3], "train", 6)
    return window_at(episode, 0, 1)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("o0 a0 -> s1", "o0 s1 -> a0"),
        ("s0 a0 -> s1", "s0 s1 -> a0"),
        ("o0 o1 -> a0", "o0 a0 -> s1"),
        ("s0 s1 -> a0", "s0 a0 -> s1"),
        ("o0 s1 -> a0", "o0 a0 -> s1"),
    ],
)
def test_what_was_asked_is_given(pattern, expected):
    assert str(opposite_pattern(parse(pattern))) == expected


@pytest.mark.parametrize("name", ["state_estimation", "retrodiction", "policy", "next_observation", "rollout@2"])
def test_other_clozes_have_none(name):
    with pytest.raises(ClozeError, match="has no opposite"):
        opposite_pattern(named(name))


@pytest.mark.parametrize("representation", ["grid", "json", "natural"])
def test_a_right_answer_leads_back(window, representation):
    """The opposite of a rightly answered cloze asks for what that gave, and is right by the simulator."""
    for name in ("forward_dynamics", "inverse_dynamics"):
        sample = build(name, named(name), window, representation)
        back = opposite(sample, sample.answer)
        assert back is not None
        assert score(back, back.answer).correct
        world = worlds.make(window.world)
        after = write_facts(world.facts(window.snapshots[1]), world.schema, representation)
        action = write_actions(window.actions, world.actions)
        assert back.answer == (action if name == "forward_dynamics" else after)
        assert (after if name == "forward_dynamics" else action) in back.question
        assert back.images == sample.images[:1]


def test_a_wrong_answer_is_taken_for_given(window):
    """The state that was written is shown, not the true one; the action that was named, not the one taken."""
    world = worlds.make(window.world)
    world.restore(window.snapshots[0])
    others = [a for a in range(len(world.actions)) if a != window.actions[0]]
    forward = build("forward_dynamics", named("forward_dynamics"), window, "grid")
    before = write_facts(world.facts(window.snapshots[0]), world.schema, "grid")
    stayed = opposite(forward, before)
    assert stayed is not None
    assert before in stayed.question
    assert stayed.answer == write_actions(window.actions, world.actions)
    inverse = build("inverse_dynamics", named("inverse_dynamics"), window, "grid")
    named_wrongly = opposite(inverse, write_actions([others[0]], world.actions))
    assert named_wrongly is not None
    assert write_actions([others[0]], world.actions) in named_wrongly.question
    assert named_wrongly.answer == write_facts(world.facts(window.snapshots[1]), world.schema, "grid")


@pytest.mark.parametrize("name", ["forward_dynamics", "inverse_dynamics"])
def test_what_cannot_be_read_or_be_has_none(window, name):
    sample = build(name, named(name), window, "grid")
    world = worlds.make(window.world)
    two = write_actions([0, 1], world.actions)
    for answer in ("", "nonsense", two):
        assert opposite(sample, answer) is None

"""Clozes asked after a history: the same questions later in an episode, with the same truth."""

from itertools import permutations, product

import pytest

from vagen.cloze.build import build
from vagen.cloze.grammar import FAMILIES, NAMED, ClozeError, named, parse, with_history
from vagen.cloze.sample import UnaskableError, counterfactual, simulator, window_at
from vagen.cloze.scoring import score
from vagen.cloze.statistics import ceiling, copy_floor
from vagen.cloze.windows import changes, event_shares
from vagen.evaluate.replay import explains
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.episodes import play
from worlds.frozen_lake import FrozenLake
from worlds.text import write_actions

FITTING = [name for name in NAMED if named(name).takes_history]
EARLIER = 2


@pytest.fixture(scope="module")
def episodes():
    """Episodes of at least six transitions, by world."""
    found = {}
    for world in ("sokoban-6x6", "minigrid-rooms-6x6"):
        found[world] = [e for e in play(world, MixtureAgent(0.3), range(60), "train", 9) if len(e) >= 6][:8]
        assert len(found[world]) == 8
    return found


def with_and_without(episode, name):
    """A cloze at time 2 of an episode, with and without what came before; ``None`` where it cannot be asked."""
    pattern = named(name)
    try:
        without = build(name, pattern, window_at(episode, EARLIER, pattern.length), "grid")
        return build(
            name, with_history(pattern, EARLIER), window_at(episode, 0, pattern.length + EARLIER), "grid"
        ), without
    except ClozeError:
        return None


def test_the_named_clozes_that_take_a_history_are_those_that_show_images_in_order():
    assert set(FITTING) == {
        *("state_estimation", "forward_dynamics", "inverse_dynamics", "policy", "reward", "termination", "budget"),
        *("rollout", "next_observation", "counterfactual", "reorder_observations", "reorder_actions"),
    }


@pytest.mark.parametrize("pattern", ["o0 -> s0", "o0 a0 o1 a0' -> s1'", "o0 s0 a0 -> s1?4", "o0 o1 -> s0"])
def test_clozes_that_begin_with_their_first_image_take_a_history(pattern):
    assert parse(pattern).takes_history


@pytest.mark.parametrize("pattern", ["a0 o1 -> s0", "o0 o2 a1 -> a0", "o1 o0 -> a0", "s0 a0 -> s1", "o1 -> s1"])
def test_clozes_that_show_images_out_of_order_or_none_are_asked_without(pattern):
    assert not parse(pattern).takes_history
    with pytest.raises(ClozeError, match="shows other images than those from its first moment on"):
        with_history(parse(pattern), 1)


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_a_history_makes_a_pattern_that_could_have_been_written(earlier):
    patterns = [named(name) for name in NAMED] + [parse(FAMILIES[name](k)) for name in FAMILIES for k in (2, 4)]
    for pattern in patterns:
        if not pattern.takes_history:
            continue
        later = with_history(pattern, earlier)
        written = parse(str(later))
        assert (written.given, written.asked, written.task) == (later.given, later.asked, later.task)
        assert (written.choices, written.length) == (later.choices, later.length)
        assert (later.horizon, later.dynamics) == (pattern.horizon, pattern.dynamics), (
            f"{pattern} became another cloze"
        )
        assert later.history == earlier
        assert len(later.images) == len(pattern.images) + earlier


def test_actions_of_the_history_are_neither_given_nor_written(episodes):
    """What the agent did before would answer the clozes that ask for it and share the images after it."""
    for world, found in episodes.items():
        for name in FITTING:
            for episode in found:
                if (pair := with_and_without(episode, name)) is None:
                    continue
                sample, _ = pair
                times = [slot.time for slot in sample.pattern.given if slot.kind == "a"]
                assert min(times, default=EARLIER) >= EARLIER
                named_actions = [
                    f"action {time}: {write_actions([episode.actions[time]], sample.world.actions)}" for time in (0, 1)
                ]
                assert not any(text in sample.question for text in named_actions), f"{world}: {sample.question}"


def test_the_images_of_the_history_come_first_and_in_order(episodes):
    for found in episodes.values():
        for name in FITTING:
            for episode in found:
                if (pair := with_and_without(episode, name)) is None:
                    continue
                after, alone = pair
                assert list(after.images[:EARLIER]) == list(episode.snapshots[:EARLIER])
                shown = len(alone.pattern.images)
                assert list(after.images[EARLIER : EARLIER + shown]) == list(alone.images[:shown])


def possible_answers(sample):
    """Answers to try: the truth of the sample, and all others where they are few."""
    actions = sample.world.actions
    match sample.pattern.task:
        case "actions" | "policy":
            length = len(sample.pattern.asked)
            return [write_actions(plan, actions) for plan in product(range(len(actions)), repeat=length)]
        case "order":
            return [" ".join(order) for order in permutations("ABC")]
        case "termination":
            return ["yes", "no"]
        case "budget":
            return [*map(str, range(12)), "impossible"]
        case _:
            return [sample.answer]


def test_truth_is_that_of_the_cloze_alone_where_everything_can_be_seen(episodes):
    """The shuffled and the counterfactual may be drawn otherwise: their answers are checked by replay instead."""
    compared = 0
    for name in FITTING:
        if "?" in NAMED[name] or named(name).counterfactual or named(name).task == "order":
            continue
        for episode in episodes["sokoban-6x6"]:
            if (pair := with_and_without(episode, name)) is None:
                continue
            after, alone = pair
            assert after.answer == alone.answer or name == "inverse_dynamics"
            for answer in possible_answers(alone):
                assert score(after, answer).correct == score(alone, answer).correct, f"{name}: {answer}"
                compared += 1
    assert compared > 100, "too few clozes could be asked"


def test_scores_after_a_history_agree_with_histories_played_anew(episodes):
    for world, found in episodes.items():
        for name in FITTING:
            for episode in found[:4]:
                if (pair := with_and_without(episode, name)) is None:
                    continue
                sample, _ = pair
                assert score(sample, sample.answer).correct, f"{name} in {world}: the truth is wrong"
                for answer in possible_answers(sample)[:12]:
                    expected = explains(sample, answer)
                    assert score(sample, answer).correct == expected, f"{name} in {world}: {answer}"


def test_branches_begin_after_the_history(episodes):
    name, checked = "counterfactual", 0
    for found in episodes.values():
        for episode in found:
            if (pair := with_and_without(episode, name)) is None:
                continue
            sample, checked = pair[0], checked + 1
            assert sample.branch.snapshots[: EARLIER + 1] == episode.snapshots[: EARLIER + 1]
            alone = counterfactual(window_at(episode, EARLIER, 1), sample.branch.actions[EARLIER:])
            assert sample.branch.snapshots[EARLIER:] == alone.snapshots
            assert sample.branch.rewards[EARLIER:] == alone.rewards
    assert checked > 4


def test_shuffled_groups_say_which_times_they_are_about(episodes):
    """After a history there are more actions between the images than are shuffled."""
    for name, times in (("reorder_actions", "action 2 3 4"), ("reorder_observations", "image 3 4 5")):
        asked = [pair for episode in episodes["sokoban-6x6"] if (pair := with_and_without(episode, name))]
        assert asked, f"{name} cannot be asked anywhere"
        for after, alone in asked:
            assert after.question.endswith(f"{times}: order A B C?")
            assert alone.question.endswith("order A B C?")
            assert "action 2 3 4" not in alone.question


def test_what_is_held_is_told_as_of_the_first_own_image(episodes, monkeypatch):
    """It cannot be seen, and what was held at the beginning of the history may not be any more."""
    episode = episodes["minigrid-rooms-6x6"][0]
    held = dict(zip(map(str, episode.snapshots), ("red key", "blue key", "green ball", ""), strict=False))
    world = simulator(episode.world)
    monkeypatch.setattr(type(world), "inventory", lambda self, snapshot: held.get(str(snapshot), ""))
    for earlier, expected in ((0, "holding 0: red key"), (2, "holding 2: green ball"), (3, None)):
        pattern = with_history(named("forward_dynamics"), earlier)
        question = build("forward_dynamics", pattern, window_at(episode, 0, earlier + 1), "grid").question
        assert expected in question if expected else "holding" not in question


def test_measures_of_a_sample_are_about_its_own_window(episodes):
    for episode in episodes["sokoban-6x6"]:
        after, alone = with_and_without(episode, "forward_dynamics")
        assert changes(after) == changes(alone)
        assert event_shares([after]) == event_shares([alone])
        assert copy_floor([after, after]) == copy_floor([alone, alone])
        assert ceiling([after]) == ceiling([alone]) == 1.0


def test_what_nobody_can_foresee_may_have_come_before(monkeypatch):
    """Only the outcomes that are asked must be foreseeable."""
    episode = next(e for e in play("frozenlake-4x4", MixtureAgent(0.0), range(20), "train", 9) if len(e) >= 4)
    first = episode.snapshots[0]["agent"]
    monkeypatch.setattr(FrozenLake, "foreseeable", lambda self, snapshot, action: snapshot["agent"] != first)
    pattern = named("forward_dynamics")
    with pytest.raises(UnaskableError):
        build("forward_dynamics", pattern, window_at(episode, 0, 1), "grid")
    assert build("forward_dynamics", with_history(pattern, 2), window_at(episode, 0, 3), "grid").answer

"""The multi-turn loop: what is sampled is what is kept, worlds fail alone, episodes make room for each other."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vagen.evaluate.agent import evaluate
from vagen.policy.packing import pack
from vagen.rollout import episodes, prompts, rollouts
from vagen.rollout.agents import RandomAgent
from vagen.rollout.cached import CachedEngine
from vagen.rollout.episodes import play
from vagen.rollout.failures import WorldFailure
from vagen.rollout.prompts import CONTEXTS, UNUSABLE
from vagen.rollout.responses import STRATEGIES, Response, Tags, describe_format, write_response
from vagen.rollout.rollouts import ConversingModel, RolloutError, Settings, read_turn, rollout
from vagen.rollout.sampling import Sampling
from worlds import WorldError, make
from worlds.text import REPRESENTATIONS, write_facts

WORLD = "minigrid-rooms-6x6"  # turning around never ends it
LEFT, JUNK = "<answer>turn left</answer>", "hm"
SETTINGS = Settings(strategy="no_think", max_turns=5, sampling=Sampling(max_tokens=40))


def played(engine, seeds=(1, 2, 3), groups=None, how=SETTINGS, world=WORLD) -> list:
    return list(rollout(engine, world, seeds, range(len(seeds)) if groups is None else groups, how))


class Broken(Exception):  # noqa: N818 - a world's own error, which nobody has heard of
    pass


@pytest.fixture
def break_world(monkeypatch):
    """``break_world(method, when)``: the world's method raises where ``when(world)`` is true."""

    def arrange(method: str, when, error: BaseException) -> None:
        kind = type(make(WORLD))
        whole = getattr(kind, method)

        def broken(self, *args, **kwargs):
            if when(self, *args, **kwargs):
                raise error
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(kind, method, broken)

    return arrange


# ------------------------------------------------------------------------------------------------- what is sampled


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exactly_the_responses_are_predicted(scripted, context, strategy):
    """Every token of a response and the end of its turn have a target; templates and observations have none."""
    said = write_response(Response("turn left", "a", "b", "c", "d"), strategy)
    engine = scripted(lambda request: said)
    (episode,) = played(engine, [1], how=replace(SETTINGS, strategy=strategy, context=context, window=2))
    wanted = engine.chat.answer_tokens(said)
    assert wanted[-1] in engine.chat.end_tokens
    for turn in episode.turns:
        assert turn.response.tolist() == wanted.tolist()
        assert turn.text == said
        assert turn.parsed is not None
        row = pack([turn.encoded])
        assert row.targets.tolist() == wanted.tolist()
        assert row.ids[row.sources[0]] == turn.prompt.ids[-1], "the first target is not predicted by the prompt's end"
    packed = pack([turn.encoded for turn in episode.turns])
    assert packed.targets.tolist() == wanted.tolist() * 5, "sharing changes what is trained"
    if context == "concat":
        assert len(packed.ids) == len(episode.turns[-1].prompt.ids) + len(wanted) - 1, "turns do not share prefixes"


def test_contexts_show_what_they_say(scripted):
    for context, shown in (("concat", [1, 2, 3, 4, 5]), ("window", [1, 2, 3, 3, 3]), ("no_concat", [1] * 5)):
        (episode,) = played(scripted(lambda request: LEFT), [1], how=replace(SETTINGS, context=context, window=3))
        assert [len(turn.pictures) for turn in episode.turns] == shown
        live = make(WORLD)
        frames = live.render_states(episode.trajectory.snapshots)
        for number, turn in enumerate(episode.turns):
            for picture, frame in zip(turn.pictures, frames[number + 1 - len(turn.pictures) :], strict=False):
                assert np.array_equal(picture.pixels, frame), "another image is shown"
            assert int(turn.prompt.image_of.max()) + 1 == len(turn.pictures)


def test_windows_hold_the_sampled_tokens(scripted):
    """Tokens that no tokenizer would write come back in later prompts as they are."""
    chat = scripted(lambda request: LEFT).chat
    letters = [chat.tokenizer(letter)["input_ids"][0] for letter in LEFT]
    end = chat.tokenizer.eos_token_id
    assert [*letters, end] != chat.answer_tokens(LEFT).tolist(), "the tokenizer writes letter by letter"
    for context in ("concat", "window"):
        engine = scripted(lambda request: [*letters, end])
        (episode,) = played(engine, [1], how=replace(SETTINGS, context=context, window=2))
        assert [turn.actions for turn in episode.turns] == [(0,)] * 5
        for turn in episode.turns[1:]:
            ids = turn.prompt.ids.tolist()
            places = [n for n in range(len(ids)) if ids[n : n + len(letters) + 1] == [*letters, end]]
            assert len(places) == len(turn.pictures) - 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_agents_are_told_rules_actions_notation_and_form(scripted, strategy, representation):
    engine = scripted(lambda request: LEFT)
    how = replace(SETTINGS, strategy=strategy, representation=representation, max_actions=3, max_turns=1)
    ((turn,),) = [r.turns for r in played(engine, [1], how=how)]
    told, world = engine.chat.tokenizer.decode(turn.prompt.ids), make(WORLD)
    assert world.rules in told
    assert ", ".join(world.actions) in told
    assert "1 to 3 actions" in told
    assert describe_format(strategy, Tags()) in told
    assert ("A state is written" in told) == (strategy not in ("no_think", "free_think"))
    ((silent,),) = [r.turns for r in played(engine, [1], how=replace(how, explain=False))]
    assert world.rules not in engine.chat.tokenizer.decode(silent.prompt.ids)


# ------------------------------------------------------------------------------------------------- actions and worlds


def way_of(world) -> list[str]:
    """The names of the actions that lead to success; the world is there then."""
    way = []
    while best := world.optimal_actions(world.state().snapshot):
        way.append(world.actions[best[0]])
        world.step(np.int64(best[0]))
    return way


def test_actions_are_taken_in_order_up_to_the_end_of_the_world(scripted):
    """Rewards are of the turn's own actions, and what comes after the end is not done."""
    world = make("frozenlake-4x4")
    for seed in range(99):
        world.reset(seed=seed, options={"split": "train"})
        way = way_of(world)
        if len(way) > 3:
            break
    two, rest = way[:2], [*way[2:], "left", "left"]
    lines = iter([f"<answer>{', '.join(two)}</answer>", f"<answer>{', '.join(rest)}</answer>"])
    how = replace(SETTINGS, max_actions=8, sampling=Sampling(max_tokens=99))
    (episode,) = played(scripted(lambda request: next(lines)), [seed], how=how, world="frozenlake-4x4")
    first, second = episode.turns
    names = world.actions
    assert ([names[a] for a in first.actions], [names[a] for a in second.actions]) == (two, way[2:])
    assert (first.steps, second.steps) == (0, 2)
    assert first.reward == sum(episode.trajectory.rewards[:2])
    assert second.reward == sum(episode.trajectory.rewards[2:]) > 0
    assert episode.trajectory.success
    assert episode.trajectory.terminated
    assert not episode.trajectory.truncated
    assert first.actions + second.actions == episode.trajectory.actions


@pytest.mark.parametrize(
    "said", [JUNK, "", "<answer>fly</answer>", f"{LEFT}.", "<answer>turn left, turn left</answer>", LEFT * 2]
)
def test_unusable_responses_take_a_turn_and_do_nothing(scripted, said):
    engine = scripted(lambda request: said)
    (episode,) = played(engine, [1])
    assert len(episode.turns) == 5
    assert episode.error == ""
    for turn in episode.turns:
        assert (turn.parsed, turn.actions, turn.reward, turn.steps, turn.cut) == (None, (), 0, 0, False)
    trajectory = episode.trajectory
    assert (len(trajectory), trajectory.truncated, trajectory.terminated, trajectory.success) == (
        0,
        True,
        False,
        False,
    )
    told = [engine.chat.tokenizer.decode(turn.prompt.ids).count(UNUSABLE) for turn in episode.turns]
    assert told == [0, 1, 2, 3, 4], "the agent is not told"


def test_a_cut_response_is_unusable_and_gets_its_end(scripted):
    engine = scripted(lambda request: LEFT, end=False)
    (episode,) = played(engine, [1])
    end = engine.chat.tokenizer.eos_token_id
    for number, turn in enumerate(episode.turns):
        assert turn.cut
        assert turn.actions == ()
        assert end not in turn.response
        assert turn.prompt.ids.tolist().count(end) == 1 + number, "the system message ends, and each turn before"


def test_episodes_end_at_the_last_turn_or_step(scripted):
    for how in (replace(SETTINGS, max_turns=3), replace(SETTINGS, max_turns=9, max_steps=3)):
        (episode,) = played(scripted(lambda request: LEFT), [1], how=how)
        assert len(episode.turns) == len(episode.trajectory) == 3
        assert episode.trajectory.truncated
        assert not episode.trajectory.terminated


def test_episodes_are_cut_at_whole_turns(scripted):
    """No turn begins that might not fit, and each one that began is whole."""
    (whole,) = played(scripted(lambda request: LEFT), [1])
    for kept in range(1, 5):
        longest = len(whole.turns[kept].prompt.ids) + 40 - 1
        (episode,) = played(scripted(lambda request: LEFT), [1], how=replace(SETTINGS, max_length=longest))
        assert len(episode.turns) == kept
        assert episode.trajectory.truncated
        assert not episode.trajectory.terminated
        for ours, theirs in zip(episode.turns, whole.turns, strict=False):
            assert ours.prompt.ids.tolist() == theirs.prompt.ids.tolist()
            assert ours.response.tolist() == theirs.response.tolist()
    (windowed,) = played(scripted(lambda request: LEFT), [1], how=replace(SETTINGS, context="no_concat"))
    assert len(windowed.turns) == 5


def test_no_room_for_a_single_turn_is_an_error_that_says_so(scripted):
    with pytest.raises(RolloutError, match=rf"{WORLD}, seed 7, turn 0: .* raise max_length to \d+ or more"):
        played(scripted(lambda request: LEFT), [7], how=replace(SETTINGS, max_length=60))


# ------------------------------------------------------------------------------------------------- many at once


def test_finished_episodes_make_room_at_once(scripted):
    """As long as there is a queue, every lane is busy, though episodes are of many lengths."""
    turns = Counter()

    def say(request):
        turns[request.lane] += 1
        return LEFT if turns[request.lane] % (2 + request.lane) else JUNK

    engine = scripted(say, lanes=3)
    how = replace(SETTINGS, max_steps=2, max_turns=4)
    episodes = played(engine, range(20), how=how)
    assert len(episodes) == 20
    assert len({len(episode.turns) for episode in episodes}) > 1
    assert engine.together[:-10] == [3] * (len(engine.together) - 10)
    assert {request.lane for request in engine.seen} == {0, 1, 2}


def test_episodes_come_in_the_order_they_were_asked_for(scripted):
    seeds = [5, 9, 5, 2, 9, 5, 2, 2]
    groups = [10, 20, 10, 30, 20, 10, 31, 30]
    episodes = played(scripted(lambda request: LEFT, lanes=3), seeds, groups)
    assert [episode.trajectory.seed for episode in episodes] == seeds
    assert [episode.group for episode in episodes] == groups
    first = {seed: episodes[seeds.index(seed)].trajectory.snapshots[0] for seed in seeds}
    assert all(episode.trajectory.snapshots[0] == first[episode.trajectory.seed] for episode in episodes)
    assert all(episode.trajectory.behaviour == "small" for episode in episodes)


def test_random_numbers_are_the_episodes_own(scripted):
    """A function of seed and number in the group: not of the lane, the group's name, or other episodes."""

    def numbers(seeds, groups, lanes):
        drawn = {}
        engine = scripted(lambda request: drawn.setdefault(id(request), request.generator.random()) and LEFT, lanes)
        played(engine, seeds, groups, replace(SETTINGS, max_turns=1))
        return sorted(drawn.values())

    alone = [numbers([seed], [0], 1)[0] for seed in (4, 5)]
    assert numbers([4, 5], [7, 8], 2) == sorted(alone)
    pair = numbers([4, 4], [3, 3], 1)
    assert alone[0] in pair
    assert len(set(pair)) == 2


def test_a_group_with_two_seeds_is_refused(scripted):
    with pytest.raises(RolloutError, match="group 0 has the seeds 1 and 2"):
        played(scripted(lambda request: LEFT), [1, 2], [0, 0])


def test_nothing_to_play_is_nothing(scripted):
    assert played(scripted(lambda request: LEFT), []) == []


def test_images_that_do_not_fit_their_places_name_the_episode(scripted, monkeypatch):
    whole = prompts.Conversation.observe

    def short(self, observation):
        prompt, pictures = whole(self, observation)
        return prompt, pictures[:-1]

    monkeypatch.setattr(prompts.Conversation, "observe", short)
    with pytest.raises(RolloutError, match=rf"{WORLD}, seed 7, turn 0: 0 images for 1 places"):
        played(scripted(lambda request: LEFT), [7])


@pytest.mark.parametrize("name", ["window", "max_actions", "max_turns", "max_length"])
def test_settings_that_mean_nothing_are_refused(name):
    with pytest.raises(RolloutError, match=f"{name} must be at least 1"):
        Settings(**{name: 0})


# ------------------------------------------------------------------------------------------------- broken worlds


@pytest.mark.parametrize("error", [RuntimeError("gone"), Broken("gone"), KeyError("gone"), MemoryError("gone")])
def test_a_world_that_fails_in_a_step_fails_alone(scripted, break_world, error):
    """What happened before is kept, and the others, played in the same lanes, do not notice."""
    undisturbed = played(scripted(lambda request: LEFT, lanes=2), range(6))
    third = undisturbed[2].trajectory
    doomed = make(WORLD).key(third.snapshots[0])
    break_world(
        "step", lambda world, action: world.key(s := world.state().snapshot) == doomed and _step(s) == 2, error
    )
    episodes = played(scripted(lambda request: LEFT, lanes=2), range(6))
    assert [bool(episode.error) for episode in episodes] == [number == 2 for number in range(6)]
    failed = episodes[2]
    assert failed.error.startswith(f"step 2, turn left: {type(error).__name__}: ")
    assert "gone" in failed.error
    assert failed.trajectory.snapshots == third.snapshots[:3]
    assert failed.trajectory.actions == third.actions[:2]
    assert [turn.actions for turn in failed.turns] == [(0,), (0,), ()]
    assert not failed.trajectory.success
    for ours, theirs in zip(episodes, undisturbed, strict=True):
        assert ours.error or ours.trajectory == theirs.trajectory


def _step(snapshot) -> int:
    return snapshot["steps"]


def test_a_world_that_cannot_be_reset_fails_alone(scripted, break_world):
    break_world("reset", lambda world, *, seed=None, options=None: seed == 2, Broken("no"))
    episodes = played(scripted(lambda request: LEFT, lanes=1), [1, 2, 3])
    assert [bool(episode.error) for episode in episodes] == [False, True, False]
    assert episodes[1].error.startswith("reset: Broken: no (test_rollouts.py:"), "it does not say where"
    assert episodes[1].turns == ()
    assert episodes[1].trajectory.snapshots == ()
    assert episodes[1].trajectory.seed == 2
    assert len(episodes[2].turns) == 5


def test_a_world_that_cannot_say_what_it_asks_fails_alone(scripted, break_world):
    break_world("mission", lambda world, snapshot: _step(snapshot) == 1, Broken("no"))
    (episode,) = played(scripted(lambda request: LEFT), [1])
    assert episode.error.startswith("step 1: Broken: no (")
    assert len(episode.turns) == 1


@pytest.mark.parametrize(
    "ours",
    ["Episode._keep_frame", "Conversation.observe", "Conversation.respond", "read_turn", "describe_circumstances"],
)
def test_errors_of_this_package_rise(scripted, monkeypatch, ours):
    """Also where a world's answers are dealt with, between one call of it and the next."""

    def broken(*args, **kwargs):
        raise KeyError("ours")

    module = episodes if ours.startswith("Episode") else prompts if ours.startswith("Conv") else rollouts
    owner, _, name = ours.rpartition(".")
    monkeypatch.setattr(getattr(module, owner) if owner else module, name, broken)
    with pytest.raises(KeyError, match="ours"):
        played(scripted(lambda request: LEFT))


def test_a_wrong_action_is_our_error(scripted, monkeypatch):
    """The world refuses what is no action of its own: that is bad input, and no failure of the world."""
    usable = Response("turn left"), (-1,)
    monkeypatch.setattr(rollouts, "read_turn", lambda text, world, settings: usable)
    with pytest.raises(WorldError, match="action -1 is not one of 0 to"):
        played(scripted(lambda request: LEFT))


def test_a_failure_keeps_its_cause(break_world):
    gone = Broken("gone")
    break_world("step", lambda world, action: True, gone)
    with pytest.raises(WorldFailure, match=r"Broken: gone \(test_rollouts.py:\d+\)") as failure:
        list(play(WORLD, RandomAgent(), [1], "train"))
    assert failure.value.__cause__ is gone


def test_bad_input_and_interrupts_are_not_the_worlds_errors(scripted, break_world):
    with pytest.raises(WorldError, match="unknown world"):
        played(scripted(lambda request: LEFT), world="sokoban-6x7")
    with pytest.raises(WorldError, match="too few"):
        played(scripted(lambda request: LEFT), world="minigrid/Empty-5x5-v0")
    break_world("step", lambda world, action: True, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        played(scripted(lambda request: LEFT))


# ------------------------------------------------------------------------------------------------- reading responses


PIECES = [f"<{mark}{name}>" for name in vars(Tags()).values() for mark in ("", "/")]
PIECES += [LEFT, "<think>", "</think>", "turn left", "forward, turn left", "forward", ",", " ", "\n", "<", "\0", "é"]
said_text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=9).map("".join)
by_every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def check_reading(text: str, strategy: str) -> bool:
    """What is accepted is exactly a response with 1 or 2 actions."""
    response, actions = read_turn(text, _WORLD, replace(SETTINGS, strategy=strategy, max_actions=2))
    assert (response is None) == (actions == ())
    if response is None:
        return False
    assert len(actions) in (1, 2)
    names = ", ".join(_WORLD.actions[action] for action in actions)
    assert [part.strip() for part in response.answer.split(",")] == names.split(", ")
    assert "".join(write_response(response, strategy).split()) == "".join(text.split()), "something was overlooked"
    return True


def test_twenty_thousand_responses_are_read_without_an_exception():
    generator, valid = random.Random(0), Counter()
    for number in range(20_000):
        strategy = STRATEGIES[number % 5]
        text = "".join(generator.choices(PIECES, k=generator.randrange(12)))
        wrapped = f"<think>{text}</think><answer>forward</answer>"
        valid[strategy] += check_reading(wrapped if number % 3 else text, strategy)
    assert valid["no_think"]
    assert valid["free_think"]


@by_every_strategy
@given(text=said_text)
def test_any_text_is_read_without_an_exception(strategy, text):
    check_reading(text, strategy)


@pytest.mark.slow
@by_every_strategy
@hypothesis_settings(max_examples=4000, suppress_health_check=list(HealthCheck))
@given(text=said_text)
def test_any_of_twenty_thousand_texts_is_read_without_an_exception(strategy, text):
    check_reading(text, strategy)


_WORLD = make(WORLD)


@given(tokens=st.lists(st.integers(0, 400), min_size=1, max_size=30))
@hypothesis_settings(max_examples=150)
def test_any_tokens_can_be_played(scripted, tokens):
    """Tokens that are no text, or marks of the template, are unusable responses and stay as they are."""
    engine = scripted(lambda request: tokens)
    banned = set(engine.chat.banned)
    tokens = [token for token in tokens if token not in banned | engine.chat.end_tokens] + [
        max(engine.chat.end_tokens)
    ]
    (episode,) = played(engine, [1], how=replace(SETTINGS, max_turns=2, strategy="free_think"))
    assert [turn.response.tolist() for turn in episode.turns] == [tokens, tokens]
    assert episode.error == ""


def test_marks_of_the_template_inside_a_response_are_junk(scripted):
    chat = scripted(lambda request: LEFT).chat
    mark = chat.tokenizer.convert_tokens_to_ids("<|user|>")
    whole = chat.answer_tokens(LEFT).tolist()
    for place in range(len(whole)):
        said = [*whole[:place], mark, *whole[place:]]
        (episode,) = played(scripted(lambda request, said=said: said), [1], how=replace(SETTINGS, max_turns=1))
        assert episode.turns[0].parsed is None, f"a mark at {place} is overlooked"


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_states_are_read_from_responses_as_they_are_written(scripted, representation):
    world = make(WORLD)
    world.reset(seed=1, options={"split": "train"})
    facts = write_facts(world.state().facts, world.schema, representation)
    said = write_response(Response("turn left", observation=facts, reasoning="r"), "grounding")
    how = replace(SETTINGS, strategy="grounding", representation=representation, max_turns=1)
    (episode,) = played(scripted(lambda request: said), [1], how=how)
    assert episode.turns[0].parsed.observation == facts.strip()
    assert episode.turns[0].actions == (0,)


# ------------------------------------------------------------------------------------------------- evaluation


def test_conversing_models_are_evaluated_beside_agents(make_chat):
    player = ConversingModel(CachedEngine(make_chat(), 4), replace(SETTINGS, max_turns=2))
    rows = evaluate([RandomAgent(), player], [WORLD], 6, 1, "test", 4)["rows"]
    assert [(row["agent"], row["n"], row["errors"]) for row in rows] == [("random", 6, 0), ("small", 6, 0)]
    again = evaluate([player], [WORLD], 6, 1, "test", 4)["rows"]
    assert again[0] == rows[1]


def test_errors_of_worlds_are_no_failures_of_the_model(scripted, break_world):
    break_world("reset", lambda world, *, seed=None, options=None: seed is not None and seed % 2, Broken("no"))
    player = ConversingModel(scripted(lambda request: LEFT), SETTINGS)
    (row,) = evaluate([player], [WORLD], 6, 1, "test", 4)["rows"]
    assert (row["n"], row["errors"], row["mean_steps"]) == (3, 3, 4)

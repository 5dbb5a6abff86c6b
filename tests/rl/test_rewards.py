"""World-model rewards: the truth earns all, what needs no looking earns nothing, in every world."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from vagen.rl.rewards import (
    RewardError,
    RewardWeights,
    TurnReward,
    answer_reward,
    check_budget,
    means,
    skill_score,
    template,
    turn_reward,
)
from vagen.rollout.responses import Response
from worlds import Facts, Thing
from worlds.text import write_facts

WEIGHTS = RewardWeights(task=1, format=0.1, state_estimation=0.2, transition=0.3)
on_every_world = pytest.mark.parametrize("id", worlds.registered())


def turns(id: str, count: int, split: str = "test") -> list[tuple]:
    """(before, after, reward) of random steps in episodes of a split."""
    world, rng = worlds.make(id), np.random.default_rng(1)
    found: list[tuple] = []
    for seed in range(10_000):
        world.reset(seed=seed, options={"split": split})
        for _ in range(4):
            before = world.state().snapshot
            _, reward, terminated, *_ = world.step(rng.integers(len(world.actions)))
            found.append((before, world.state().snapshot, reward))
            if len(found) == count:
                return found
            if terminated:
                break
    return found


def earned(id: str, observation, prediction, count: int = 60) -> list[TurnReward]:
    """Rewards of a policy that describes states by two functions of (world, before, after)."""
    world = worlds.make(id)
    rewards = []
    for before, after, paid in turns(id, count):
        said = [write_facts(make(world, before, after), world.schema, "grid") for make in (observation, prediction)]
        response = Response("x", observation=said[0], reasoning="", prediction=said[1])
        rewards.append(turn_reward(world, response, before, after, paid, WEIGHTS, "grid"))
    return rewards


@on_every_world
def test_a_perfect_policy_earns_everything(id):
    rewards = earned(id, lambda w, before, after: w.facts(before), lambda w, before, after: w.facts(after))
    assert means(rewards)["state_estimation"] == pytest.approx(0.2)
    assert means(rewards)["transition"] == pytest.approx(0.3)
    changed = [before != after for before, after in [facts_of(id, turn) for turn in turns(id, 60)]]
    assert [r.transition is not None for r in rewards] == changed, "what changes nothing can earn nothing"


def facts_of(id: str, turn: tuple) -> tuple[Facts, Facts]:
    world = worlds.make(id)
    return world.facts(turn[0]), world.facts(turn[1])


@on_every_world
def test_the_most_frequent_description_earns_next_to_nothing(id):
    world = worlds.make(id)
    seen = Counter(facts_of(id, turn)[0] for turn in turns(id, 400, "train"))
    usual = seen.most_common(1)[0][0]
    rewards = earned(id, lambda *_: usual, lambda *_: usual)
    assert means(rewards)["state_estimation"] < 0.2 * 0.1
    assert means(rewards)["transition"] < 0.3 * 0.1
    assert world.schema.allows(usual)


@on_every_world
def test_repeating_the_present_state_is_no_prediction(id):
    rewards = earned(id, lambda w, before, after: w.facts(before), lambda w, before, after: w.facts(before))
    assert means(rewards)["transition"] == 0
    assert means(rewards)["state_estimation"] == pytest.approx(0.2)


@on_every_world
def test_templates_hold_what_most_states_have(id):
    world = worlds.make(id)
    states = [facts_of(id, turn)[0] for turn in turns(id, 300, "train")]
    for thing in template(id).things:
        assert sum(thing in facts.things for facts in states) > 0.35 * len(states), f"{thing} is rarely there"
    assert not template(id).of_kind("agent"), "the agent is nowhere most of the time"
    assert all(0 <= thing.x < world.schema.width for thing in template(id).things)


THINGS = st.frozensets(st.builds(Thing, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 2)), max_size=6)
FACTS = THINGS.map(Facts)


@given(FACTS, FACTS, FACTS)
def test_skill_scores_count_the_errors_that_are_avoided(said, truth, known):
    score = skill_score(said, truth, known)
    wrong = lambda facts: len(facts.things - truth.things) + len(truth.things - facts.things)  # noqa: E731
    if known == truth:
        assert score is None
        return
    assert 0 <= score <= 1
    assert (score == 1) == (said == truth)
    assert score == pytest.approx(max(0, (wrong(known) - wrong(said)) / wrong(known)))
    assert skill_score(known, truth, known) == 0
    assert skill_score(None, truth, known) == 0


def test_parts_that_are_off_missing_or_unreadable():
    world = worlds.make("sokoban-6x6")
    before, after, paid = next(
        t for t in turns("sokoban-6x6", 60) if facts_of("sokoban-6x6", t)[0] != facts_of("sokoban-6x6", t)[1]
    )

    def reward(response, weights=WEIGHTS):
        return turn_reward(world, response, before, after, paid, weights, "grid")

    assert reward(None) == TurnReward(paid, 0.0, 0.0, 0.0)
    assert reward(Response("x")) == TurnReward(paid, 0.1, 0.0, 0.0)
    assert reward(Response("x", observation="a wall, I think", prediction="")).total == pytest.approx(paid + 0.1)
    assert reward(None, RewardWeights(task=2)) == TurnReward(2 * paid, 0.0, None, None)
    assert reward(Response("x"), RewardWeights(task=2)).total == 2 * paid


def test_descriptions_may_not_pay_more_than_half_of_success():
    check_budget(RewardWeights(1, 0.05, 0.1, 0.1), turns=10, success=10)
    with pytest.raises(
        RewardError, match=r"add up to 2.5 over 10 turns, and success pays 1: keep them below 0.5"
    ) as no:
        check_budget(RewardWeights(1, 0.05, 0.1, 0.1), turns=10, success=1)
    assert "weights less than 0.2 times as large" in str(no.value)
    check_budget(RewardWeights(1, 0.01, 0.02, 0.0199), turns=10, success=1)
    with pytest.raises(RewardError, match=r"keep them below 0\.5"):
        check_budget(RewardWeights(1, 0.25), turns=2, success=1)
    check_budget(RewardWeights(1), turns=10_000, success=1)


def test_means_leave_out_what_nobody_could_earn():
    rewards = [TurnReward(1.0, 0.1, None, 0.0), TurnReward(0.0, 0.0, None, None)]
    assert means(rewards) == {"task": 0.5, "format": 0.05, "transition": 0.0}


@given(st.booleans(), st.booleans(), st.none() | st.floats(0, 1))
def test_answers_are_paid_by_parts(formed, correct, agreement):
    weights = RewardWeights(task=1.0, format=0.25, state_estimation=0.5)
    reward = answer_reward(formed, correct, agreement, weights)
    assert reward.total == pytest.approx(correct + 0.25 * formed + (0.5 * (agreement or 0) if formed else 0))
    assert (reward.state_estimation is None) == (agreement is None)
    assert answer_reward(formed, correct, agreement, RewardWeights(0)).total == 0


@pytest.mark.parametrize("agreement", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(agreement):
    with pytest.raises(RewardError, match="between 0 and 1"):
        answer_reward(True, True, agreement, RewardWeights())

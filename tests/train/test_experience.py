"""Rollouts as numbers: which tokens are trained, and every number against one that was found another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.config import Config, ConfigError, Model, Rl, Rollouts, Tiny
from vagen.policy.actor import PackedActor, outputs
from vagen.policy.chat import Chat, told_apart
from vagen.policy.policy import ClozeFormat, create
from vagen.rl import advantages, losses
from vagen.rl.rewards import RewardError
from vagen.rollout.cached import CachedEngine
from vagen.rollout.rollouts import rollout, settings_of
from vagen.train.experience import (
    Episode,
    Measured,
    aggregation_weights,
    check,
    in_order,
    measured,
    plan,
    reward_weights,
    rewarded,
    targets,
)

WORLD = "frozenlake-4x4"
TINY = {"hidden_size": 32, "layers": 2, "vision_hidden_size": 32, "vision_layers": 1, "image_size": 32}


def make_chat(architecture: str = "idefics3", explain: bool = True) -> Chat:
    model = Model(tiny=Tiny(architecture=architecture, **TINY))  # type: ignore[arg-type]
    return Chat(create(model, ClozeFormat("grid", explain, (WORLD,), ()), seed=3))


def play(chat: Chat, context: str, groups: int = 2, members: int = 2, turns: int = 3) -> list[Episode]:
    settings = Rollouts(worlds=(WORLD,), context=context, strategy="no_think", turns=turns, tokens=5)  # type: ignore[arg-type]
    seeds = [group for group in range(groups) for _ in range(members)]
    weights = reward_weights(Rl(rollouts=settings))
    return [
        Episode(number, one.group, one, rewarded(one, weights, "grid"))
        for number, one in enumerate(rollout(CachedEngine(chat), WORLD, seeds, seeds, settings_of(chat, settings)))
    ]


# --------------------------------------------------------------------------------------------------- what gets a loss


@pytest.mark.parametrize("architecture", ["idefics3", "llava", "qwen2_5_vl", "qwen3_vl"])
def test_loss_is_on_response_tokens_and_ends_of_turns_and_nothing_else(architecture):
    """Seen from the text of the whole conversation: it is cut where turns are marked, and not by the packer."""
    chat = make_chat(architecture)
    [episode] = play(chat, "concat", 1, 1)
    last = episode.rollout.turns[-1]
    whole = [*last.prompt.ids.tolist(), *last.response.tolist()]
    assistant, end = (chat.tokenizer.convert_tokens_to_ids(mark) for mark in ("<|assistant|>", "<end_of_utterance>"))
    written = [place for place, token in enumerate(whole) if token == assistant]
    assert len(written) == 3, "three turns"
    expected = []
    for turn, start in zip(episode.rollout.turns, written, strict=True):
        stop = whole.index(end, start) + 1 if end in whole[start:] else len(whole)
        expected.append(whole[start + 1 : stop - turn.cut * (turn is not last)])
    [micro] = plan(chat, [episode], 8, 4096)
    ids = micro.batch.ids.flatten()[micro.batch.sources]
    lengths = [len(turn) for turn in expected]
    assert [part.tolist() for part in micro.batch.targets.split(lengths)] == expected
    before = [ids.tolist()[sum(lengths[:turn])] for turn in range(3)]
    assert before == [assistant] * 3, "the first token of a response is predicted where the template hands over"
    assert chat.image_token not in micro.batch.targets
    assert micro.batch.samples == 3
    assert len(micro.batch.ids[0]) < len(whole) + 3, "turns of a conversation share what they begin with"


def test_a_turn_that_was_not_cut_is_trained_to_end():
    chat = make_chat()
    [episode] = play(chat, "concat", 1, 1, turns=1)
    turn = episode.rollout.turns[0]
    end = chat.tokenizer.eos_token_id
    ended = replace(turn, response=np.array([*turn.response[:2], end]), log_probs=turn.log_probs[:3], cut=False)
    shown = replace(episode, rollout=replace(episode.rollout, turns=(ended,)))
    assert plan(chat, [shown], 8, 4096)[0].batch.targets.tolist()[-1] == end


@pytest.mark.parametrize("context", ["concat", "no_concat"])
@pytest.mark.parametrize("row_tokens", [1, 4096])
def test_packed_log_probs_are_those_of_one_sequence_per_turn_and_of_the_sampler(context, row_tokens):
    chat = make_chat()
    episodes = play(chat, context)
    actor = PackedActor(chat.policy.model)
    micros = plan(chat, episodes, 3, row_tokens)
    with torch.no_grad():
        said = [outputs(actor(micro.batch)) for micro in micros]
        found = measured(episodes, micros, [torch.stack([s.log_probs, s.values, s.log_probs]).numpy() for s in said])
        for episode, numbers in zip(episodes, found, strict=True):
            alone = []
            for turn in range(len(episode.rollout.turns)):
                own = replace(episode, rollout=replace(episode.rollout, turns=(episode.rollout.turns[turn],)))
                alone.append(outputs(actor(plan(chat, [own], 1, 1)[0].batch)).log_probs)
            np.testing.assert_allclose(numbers.old, torch.cat(alone).numpy(), atol=1e-5)
            np.testing.assert_allclose(numbers.old, numbers.sampled, atol=1e-5, err_msg="trainer and sampler differ")
    rows = sum(len(micro.batch.ids) for micro in micros)
    assert rows == (4 if row_tokens == 1 else 2), "episodes of a group share a row where there is room"


@pytest.mark.parametrize("row_tokens", [1, 4096])
def test_equal_sights_of_a_group_are_computed_once(row_tokens):
    """In a row of their own where rows are short, in the row of their group where it has room."""
    chat = make_chat(explain=False)
    episodes = play(chat, "no_concat", groups=2, members=4)
    batches = [micro.batch for micro in plan(chat, episodes, 3, row_tokens)]
    turns = [(episode.group, turn) for episode in episodes for turn in episode.rollout.turns]
    if row_tokens == 1:
        sights = {(group, told_apart(turn.prompt, turn.pictures).tobytes()) for group, turn in turns}
    else:
        sights = {(group, turn.pictures[0].digest) for group, turn in turns}
    assert len(sights) < len(turns), "these episodes have nothing in common"
    shown = sum(int((batch.ids == chat.image_token).sum()) for batch in batches)
    assert shown == len(sights) * int((turns[0][1].prompt.image_of == 0).sum())
    assert sum(len(batch.ids) for batch in batches) == (len(sights) if row_tokens == 1 else 2)


def test_numbers_come_back_in_the_order_of_the_targets():
    chat = make_chat()
    episodes = play(chat, "no_concat")
    micros = plan(chat, episodes, 1, 4096)
    of_tokens = [micro.batch.targets.numpy().astype(np.float32)[None].repeat(3, 0) for micro in micros]
    numbers = {one.number: one for one in measured(episodes, micros, of_tokens)}
    for episode in episodes:
        expected = np.concatenate([turn.response for turn in episode.rollout.turns])
        np.testing.assert_array_equal(numbers[episode.number].old, expected)
    lengths = {number: one.lengths for number, one in numbers.items()}
    for micro in micros:
        again = in_order({number: one.old for number, one in numbers.items()}, lengths, micro)
        assert again.tolist() == micro.batch.targets.tolist()


# ------------------------------------------------------------------------------------------------------------- targets


@st.composite
def batches(draw) -> list[Measured]:
    """Groups of two or three episodes, of one to three turns of one to four tokens."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    episodes: list[Measured] = []
    for group in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(2, 3))):
            lengths = generator.integers(1, 5, size=generator.integers(1, 4))
            tokens = int(lengths.sum())
            numbers = generator.normal(size=(4, tokens)).astype(np.float32)
            rewards = generator.normal(size=len(lengths)).astype(np.float32)
            cut = bool(generator.integers(2))
            episodes.append(Measured(len(episodes), group, lengths, rewards, cut, *numbers))
    return episodes


def settings(**changes) -> Rl:
    return Rl.model_validate({"rollouts": {"worlds": [WORLD]}, **changes})


def one_chunk(episodes: list[Measured]) -> list[list[int]]:
    return [sorted({episode.group for episode in episodes})]


@given(batches())
def test_grpo_by_hand(episodes):
    found = targets(episodes, settings(), one_chunk(episodes))
    for episode in episodes:
        totals = [one.rewards.astype(np.float64).sum() for one in episodes if one.group == episode.group]
        expected = (episode.rewards.astype(np.float64).sum() - np.mean(totals)) / (np.std(totals, ddof=1) + 1e-6)
        np.testing.assert_allclose(found[episode.number].advantages, expected, rtol=1e-3, atol=1e-4)


@given(batches(), st.sampled_from(["gae", "bi_level_gae", "turn_gae"]))
def test_estimators_with_a_critic_one_episode_at_a_time(episodes, name):
    """Each row alone, without padding; episodes that were cut go on with the value of their last token."""
    rl = settings(advantage={"estimator": name, "gamma": 0.9, "lam": 0.8, "gamma_turn": 0.7, "lam_turn": 0.6})
    found = targets(episodes, rl, one_chunk(episodes))
    for episode in episodes:
        rewards = torch.zeros(1, len(episode.old))
        rewards[0, np.cumsum(episode.lengths) - 1] = torch.from_numpy(episode.rewards)
        ids = torch.from_numpy(np.repeat(np.arange(len(episode.lengths)), episode.lengths))[None]
        values = torch.from_numpy(episode.values)[None]
        bootstrap = values[:, -1] * episode.truncated
        expected = {
            "gae": lambda r, v, i, b: advantages.gae(r, v, i >= 0, 0.9, 0.8, b),
            "bi_level_gae": lambda r, v, i, b: advantages.bi_level_gae(r, v, i, 0.9, 0.8, 0.7, 0.6, b),
            "turn_gae": lambda r, v, i, b: advantages.turn_gae(r, v, i, 0.7, 0.6, b),
        }[name](rewards, values, ids, bootstrap)
        np.testing.assert_allclose(found[episode.number].advantages, expected[0][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[episode.number].returns, expected[1][0], rtol=1e-4, atol=1e-5)


@given(batches())
def test_turns_apart_are_chained_by_their_first_values(episodes):
    rl = settings(
        rollouts={"worlds": [WORLD], "context": "no_concat"},
        advantage={"estimator": "no_concat_gae", "gamma_turn": 0.7, "lam_turn": 0.6},
    )
    found = targets(episodes, rl, one_chunk(episodes))
    for episode in episodes:
        firsts = np.cumsum([0, *episode.lengths[:-1]])
        values = episode.values[firsts].astype(np.float64)
        # the value of the last token stands for where a cut episode would have gone on
        after = float(episode.values[-1]) if episode.truncated else 0.0
        advantage, expected = 0.0, []
        for turn in reversed(range(len(firsts))):
            following = values[turn + 1] if turn + 1 < len(firsts) else after
            delta = float(episode.rewards[turn]) + 0.7 * following - values[turn]
            advantage = delta + 0.7 * 0.6 * advantage
            expected.insert(0, advantage)
        own = found[episode.number]
        np.testing.assert_allclose(own.advantages, np.repeat(expected, episode.lengths), rtol=1e-3, atol=1e-4)
        trained = np.flatnonzero(own.value_weights).tolist()
        assert trained == firsts.tolist(), "the critic is trained where it is read"


@given(batches())
def test_divergence_in_the_reward_is_paid_token_by_token(episodes):
    rl = settings(advantage={"estimator": "gae"}, divergence={"weight": 0.5, "kind": "k1", "where": "reward"})
    found = targets(episodes, rl, one_chunk(episodes))
    for episode in episodes:
        rewards = -0.5 * (episode.old - episode.reference).astype(np.float64)
        rewards[np.cumsum(episode.lengths) - 1] += episode.rewards
        after = episode.values[-1] * episode.truncated
        to_go = np.cumsum(rewards[::-1])[::-1] + after  # gamma and lambda are 1
        np.testing.assert_allclose(found[episode.number].advantages, to_go - episode.values, rtol=1e-3, atol=1e-3)


@given(batches(), st.sampled_from(list(losses.AGGREGATIONS)), st.integers(0, 1000))
def test_weighted_tokens_add_up_to_the_aggregated_loss_of_each_chunk(episodes, how, seed):
    groups = sorted({episode.group for episode in episodes})
    chunks = [groups[:1], groups[1:]] if len(groups) > 1 else [groups]
    found = targets(episodes, settings(policy={"aggregation": how}), chunks)
    generator = np.random.default_rng(seed)
    of_token = {episode.number: generator.normal(size=len(episode.old)) for episode in episodes}
    for chunk in chunks:
        members = [episode for episode in episodes if episode.group in chunk]
        sums = [of_token[one.number].sum() for one in members]
        tokens = [len(one.old) for one in members]
        expected = {
            "token-mean": sum(sums) / sum(tokens),
            "seq-mean-token-mean": np.mean(np.array(sums) / tokens),
            "seq-mean-token-sum": np.mean(sums),
        }[how]
        total = sum(float((found[one.number].weights * of_token[one.number]).sum()) for one in members)
        assert total == pytest.approx(expected, abs=1e-5)


def test_aggregation_weights_are_zero_off_the_mask():
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert aggregation_weights(mask, "token-mean").tolist() == [[0.5, 0, 0.5], [0, 0, 0]]


# -------------------------------------------------------------------------------------------------------------- checks


def test_rewards_for_describing_that_could_outweigh_success_are_refused():
    describing = {"state_estimation": 0.05, "transition": 0.05}
    check(settings(rollouts={"worlds": [WORLD], "turns": 4}, rewards=describing))
    with pytest.raises(RewardError, match=r"add up to 0\.5 over 5 turns"):
        check(settings(rewards=describing))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": {"estimator": "gea"}}, "rl.advantage.estimator='gea' is unknown"),
        ({"filter": {"strategy": "best"}}, "rl.filter.strategy='best' is unknown"),
        ({"advantage": {"estimator": "no_concat_gae"}}, "set rl.rollouts.context=no_concat"),
    ],
)
def test_settings_that_name_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(settings(**changes))


def test_a_configuration_without_worlds_is_refused():
    with pytest.raises(ValueError, match="worlds"):
        Config.model_validate({"rl": {"rollouts": {}}})

"""The loop of reinforcement: what an update is and leaves alone, that it learns, and that it goes on bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.cloze.opposite import opposite
from vagen.cloze.sample import window_at
from vagen.cloze.scoring import score
from vagen.config import Config, ConfigError
from vagen.policy.batches import draw
from vagen.policy.chat import Chat
from vagen.policy.policy import create
from vagen.rl.filters import NothingToLearnError
from vagen.rollout.agents import RandomAgent
from vagen.rollout.episodes import play
from vagen.train import playing
from vagen.train import rl as loop
from vagen.train.answering import opposite_likelihoods
from vagen.train.checkpoints import Best
from vagen.train.engine import Engine
from vagen.train.playing import COLLECTED, Played, Pool, success_metrics
from vagen.train.rl import Learner
from vagen.train.run import cloze_format
from worlds import WorldError
from worlds.frozen_lake import FrozenLake

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow
WRITES = {"warmup": {"steps": 50, "rows": 8, "lr": 2}}  # long enough to write actions
PPO = {
    "rollouts": {"context": "concat", "members": 1, "groups": 8},
    "advantage": {"estimator": "bi_level_gae", "whiten": True},
    "policy": {"epochs": 2, "minibatches": 2},
    "divergence": {"weight": 0.001},
}


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def told(run: Path) -> list[dict]:
    """The metrics without what depends on the clock."""
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records(run)]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def ppo(reinforce) -> Path:
    return reinforce(rl={**PPO, **WRITES}, train={"checkpoint_every": 100})


# --------------------------------------------------------------------------------------------------- what an update is


def test_ratios_of_the_first_update_are_exactly_one(ppo):
    for record in records(ppo)[50:]:
        assert record["ratio/first_gap"] == 0.0, "old log-probabilities are not those of the update's own plan"
        assert 0 < record["gap/sampler_max"] < 1e-5, "sampler and trainer compute different things"
        assert record["epochs"] == 2
        assert record["kl/update"] > 0, "the second update still had the policy of the first"


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_neither_micro_batches_nor_stages_change_what_is_learned(reinforce, zero_stage):
    """Many small micro-batches of one optimizer step against a few large ones, with clozes beside."""
    changes = {**PPO, "warmup": {"steps": 3, "rows": 4, "clozes": 0.5}, "auxiliary": {"weight": 0.5, "rows": 4}}
    few = reinforce(rl=changes, train={"steps": 1, "checkpoint_every": 100})
    many = reinforce(
        rl=changes, train={"steps": 1, "micro_rows": 1, "zero_stage": zero_stage, "checkpoint_every": 100}
    )
    for one, other in zip(told(few), told(many), strict=True):
        for name in ("loss", "grad_norm", "labels", "loss/value", "loss/divergence", "entropy"):
            if name in one:
                assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), f"step {one['step']}: {name}"
    first, second = weights(few, 4), weights(many, 4)
    worst = max(float((first[name] - second[name]).abs().max()) for name in first)
    assert worst < 2e-3, "AdamW's first steps are of the size of the learning rate whatever the gradient is"


def test_a_model_that_computes_at_random_is_found_out(reinforce, monkeypatch):
    """Dropout in the update and not before it: ratios would not be 1, and nobody would notice."""
    update = Engine.update

    def dropping(self, batches, loss):
        return update(self, batches, lambda n, out: loss(n, out + 0.01 * torch.ones_like(out)))

    monkeypatch.setattr(Engine, "update", dropping)
    with pytest.raises(loop.DivergenceError, match="turn dropout off"):
        reinforce()


def test_without_advantages_an_update_changes_nothing(reinforce):
    """No episode earns anything: only what regularizes could move the weights."""
    run = reinforce(optimizer={"weight_decay": 0.0}, train={"steps": 2})
    first, second = weights(run, 1), weights(run, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(record["grad_norm"] == 0 for record in records(run))
    pulled = reinforce(optimizer={"weight_decay": 0.0}, rl={"policy": {"entropy": 0.1}})
    moved = weights(pulled, 2)
    assert any(not torch.equal(first[name], moved[name]) for name in first), "the entropy bonus moves nothing"


def test_only_the_critic_learns_while_it_warms_up(reinforce):
    changes = {
        "advantage": {"estimator": "gae"},
        "critic": {"kind": "model", "warmup": 1},
        "rewards": {"format": 0.1},
        **WRITES,
    }
    run = reinforce(train={"steps": 2, "checkpoint_every": 100}, rl=changes)
    # AdamW goes on with what it remembers of the warm-up, so weights do not tell what the losses were
    first, second = records(run)[50:]
    assert "loss" not in first, "the policy's loss counted in the critic's warm-up"
    assert first["loss/value"] > 0
    assert "loss" in second
    assert not any("critic" in name or "head" in name.split(".") for name in weights(run, 52)), "saved with the policy"


def test_a_critic_on_the_policys_states_leaves_them_alone_while_it_warms_up(reinforce):
    """Or it would change the policy, and nothing would hold that: neither rewards nor the reference."""
    changes = {
        "advantage": {"estimator": "gae"},
        "critic": {"kind": "head", "warmup": 1},
        "auxiliary": {"weight": 0.5, "rows": 2},
        "policy": {"epochs": 2},  # the head begins at 0: from the second update on its gradient reaches the states
        "rewards": {"format": 0.1},
        **WRITES,
    }
    still = {"betas": [0, 0.95], "weight_decay": 0}  # weights without a gradient stay
    run = reinforce(train={"steps": 1, "checkpoint_every": 50}, optimizer=still, rl=changes)
    assert records(run)[50]["loss/value"] > 0
    before, after = weights(run, 50), weights(run, 51)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


# -------------------------------------------------------------------------------------------------------------- clozes


def test_clozes_about_own_episodes_have_exact_labels(reinforce, rl_values, monkeypatch):
    """Every answer is right by the simulator's own scoring, and about a transition that the policy itself made."""
    asked, made = [], []
    about = Pool.about

    def noted(self, episodes, *how):
        group = about(self, episodes, *how)
        made.extend(one.trajectory for one in episodes)
        asked.extend(group.samples if group else ())
        return group

    monkeypatch.setattr(Pool, "about", noted)
    run = reinforce(
        rl={**WRITES, "auxiliary": {"weight": 0.5, "rows": 6, "gate": "sigmoid"}}, train={"checkpoint_every": 100}
    )
    assert len(asked) > 20, "hardly anything was asked"
    seen = {json.dumps(snapshot, sort_keys=True) for episode in made for snapshot in episode.snapshots}
    for sample in asked:
        assert score(sample, sample.answer).correct, f"{sample.name}: a wrong label"
        assert json.dumps(sample.window.snapshots[0], sort_keys=True) in seen, f"{sample.name}: not of this batch"
    assert all(record["labels"] > 0 for record in records(run)[50:])


def test_clozes_ask_about_what_the_policy_was_unsure_of(reinforce, monkeypatch):
    asked = []
    ask = playing.ask

    def noted(trajectory, *how, starts=None):
        group = ask(trajectory, *how, starts=starts)
        if starts is not None and group is not None:
            asked.extend((sample, trajectory, starts) for sample in group.samples)
        return group

    monkeypatch.setattr(playing, "ask", noted)
    auxiliary = {"weight": 0.5, "rows": 6, "unsure": 0.3}
    reinforce(rl={**WRITES, "auxiliary": auxiliary}, train={"checkpoint_every": 100})
    assert len(asked) > 10, "hardly anything was asked"
    for sample, trajectory, starts in asked:
        begins = [trajectory.snapshots[start] for start in starts]
        assert sample.window.snapshots[0] in begins, f"{sample.name}: about another transition"


def test_the_weight_of_clozes_falls_with_success(reinforce, monkeypatch):
    weighed = []
    labelled = Learner._labelled

    def noted(self, batches, weight, *how):
        weighed.append(weight)
        return labelled(self, batches, weight, *how)

    monkeypatch.setattr(Learner, "_labelled", noted)
    settings = {**WRITES, "policy": {"minibatches": 1}, "auxiliary": {"weight": 0.5, "rows": 2, "adaptive": True}}
    run = reinforce(rl=settings, train={"steps": 3, "checkpoint_every": 100})
    won = [record["success"] for record in records(run)[50:]]
    assert any(won), "or nothing is shown"
    assert weighed[-3:] == pytest.approx([0.5 * (1 - share) for share in won])


def test_clozes_themselves_are_rewarded_by_their_score(reinforce):
    changes = {"source": "clozes", "warmup": {"steps": 0, "clozes": 1, "episodes": 30}}
    run = reinforce(
        rl={**changes, "rollouts": {"tokens": 3}, "warmup": {**changes["warmup"], "steps": 80, "responses": 0}},
        clozes={"explain": False, "weights": {"inverse_dynamics": 1.0}},
        train={"steps": 3},
    )
    last = records(run)[-1]
    assert last["reward/task"] == last["success"] > 0
    assert last["rollout/turns"] == 1


def test_forward_and_inverse_models_reward_each_other(reinforce):
    """As in SWIRL: paid by log-probabilities, measured exactly."""
    run = reinforce(
        rl={
            "source": "clozes",
            "rollouts": {"tokens": 60},
            "rewards": {"answers": "reciprocal"},
            "warmup": {"steps": 40, "clozes": 1, "responses": 0, "episodes": 30, "rows": 8},
        },
        clozes={"explain": False, "weights": {"forward_dynamics": 1.0, "o0 s1 -> a0": 1.0}},
        train={"steps": 2},
    )
    first, second = records(run)[40:]
    assert all(one["reward/task"] < 0 <= one["success"] for one in (first, second))
    assert "grad_norm" in first
    assert "grad_norm" in second


def test_an_answer_is_paid_by_what_its_opposite_says(rl_values, tmp_path):
    """Against the model's own forward pass over the opposite cloze; nonsense earns what a blind guess would."""
    config = Config.model_validate(rl_values(tmp_path))
    names = ("forward_dynamics", "inverse_dynamics", "o0 s1 -> a0")
    chat = Chat(create(config.model, cloze_format(config, ["sokoban-5x5"], names), 3))
    [episode] = play("sokoban-5x5", RandomAgent(), [4], "train", 3)
    window = window_at(episode, 0, 1)
    forward, inverse = (build(name, named(name), window, "grid") for name in names[:2])
    answers = [(forward, forward.answer), *((inverse, name) for name in forward.world.actions)]
    *found, again, guess = opposite_likelihoods(chat, [*answers, answers[0], (inverse, "nonsense")])
    assert again == found[0]
    assert guess == -np.log(len(chat.tokenizer))
    alone = []
    for sample, text in answers:
        back = opposite(sample, text)
        assert back is not None
        [[picture]] = draw([back])
        prompt, tokens = chat.prompt(back, [picture]), chat.answer_tokens(back.answer)
        ids = torch.from_numpy(np.concatenate([prompt.ids, tokens]))[None]
        with torch.no_grad():
            logits = chat.policy.model.eval()(input_ids=ids, **chat.image_tensors([picture])).logits[0]
        log_probs = logits[-len(tokens) - 1 : -1].double().log_softmax(-1)
        alone.append(float(log_probs[torch.arange(len(tokens)), torch.from_numpy(tokens)].mean()))
    assert found == pytest.approx(np.maximum(alone, guess), abs=1e-5)
    assert max(alone) > guess > min(alone)


def test_the_order_of_spa_is_one_configuration(reinforce):
    """Random episodes, their responses with the truth written in, clozes, then reinforcement with exact rewards."""
    run = reinforce(
        rl={
            "rollouts": {"strategy": "grounding_worldmodeling", "tokens": 90, "turns": 2, "groups": 2, "members": 2},
            "rewards": {"state_estimation": 0.1, "transition": 0.1},
            "warmup": {"steps": 2, "clozes": 1.0},
            "diagnostics": {"every": 1, "turns": 4},
        }
    )
    assert (run / COLLECTED / "frozenlake-4x4" / "manifest.json").is_file()
    warm, *reinforced = records(run)[1:]
    assert warm["loss"] > 0
    assert all(
        {"mi/mi_sequence", "mi/image", "mi/text", "reward/transition"} <= record.keys() for record in reinforced
    )


# ------------------------------------------------------------------------------------------------------------ learning


def test_reward_rises(reinforce):
    """A policy that sometimes writes a response of the right form learns to write one nearly always."""
    run = reinforce(
        rl={
            "rollouts": {"groups": 8, "members": 8, "turns": 2},
            "rewards": {"format": 0.24},
            "filter": {"strategy": "none", "outcome_gate": False},
            "warmup": {"steps": 48, "rows": 8, "episodes": 60},
        },
        train={"steps": 25, "checkpoint_every": 1000},
    )
    formed = [record["rollout/formed"] for record in records(run)[48:]]
    assert np.mean(formed[:3]) < 0.75, "there was little left to learn"
    assert np.mean(formed[-3:]) > np.mean(formed[:3]) + 0.2, f"the share of good responses: {formed}"


# ------------------------------------------------------------------------------------------------ when things go wrong


def test_a_batch_that_is_not_finite_is_skipped_and_named(reinforce, monkeypatch, capfd):
    """The second step's probabilities are no numbers: nothing is learned from it, and the third goes on."""
    calls, honest = [], Engine.outputs

    def broken(self, batch, **how):
        calls.append(1)
        out = honest(self, batch, **how)
        return out * float("nan") if len(calls) == 2 else out

    monkeypatch.setattr(Engine, "outputs", broken)
    run = reinforce(rl={"rollouts": {"groups": 2, "members": 4}, "policy": {"entropy": 0.1}}, train={"steps": 3})
    steps = records(run)
    assert [record["skipped"] for record in steps] == [0, 1, 0]
    first, second = weights(run, 2), weights(run, 3)
    assert any(not torch.equal(first[name], second[name]) for name in first), "training did not go on"
    said = "skipped: step 1: probabilities or values before the update of the batch of groups 0 (frozenlake-4x4), 1"
    assert said in "".join(capfd.readouterr())


LEARNS = {"rollouts": {"groups": 2, "members": 4}, "policy": {"entropy": 0.1}}  # whatever is earned


def test_one_update_needs_nothing_measured_before_it(reinforce, monkeypatch):
    """Its own probabilities are those that a pass before it measures: the same weights to the last bit."""
    measured = reinforce(rl=LEARNS, train={"steps": 3})
    monkeypatch.setattr(Engine, "outputs", None)
    own = reinforce(rl={**LEARNS, "policy": {"entropy": 0.1, "old": "own"}}, train={"steps": 3})
    first, second = weights(measured, 3), weights(own, 3)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for one, other in zip(told(measured), told(own), strict=True):
        assert one.pop("ratio/first_gap") == 0.0
        assert one == other
        assert other["gap/sampler_max"] > 0


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [
        (0, "fp32"),
        (3, "fp32"),
        *(pytest.param(stage, "fp32", marks=slow) for stage in (1, 2)),
        *(pytest.param(stage, "bf16", marks=slow) for stage in range(4)),
    ],
)
def test_a_gradient_that_is_not_finite_changes_no_weight(reinforce, monkeypatch, capfd, zero_stage, precision):
    """The second of four updates: it is skipped and named, and what follows is learned, whatever ZeRO's stage."""
    update, calls = Engine.update, []

    def broken(self, batches, loss):
        calls.append(1)
        bad = float("nan") if len(calls) == 2 else 1.0
        return update(self, batches, lambda n, out: loss(n, out) * bad)

    monkeypatch.setattr(Engine, "update", broken)
    train = {"steps": 4, "zero_stage": zero_stage, "precision": precision, "keep_checkpoints": 9}
    run = reinforce(rl=LEARNS, train=train, optimizer={"lr": 1e-2})
    one, two, three = (weights(run, step) for step in (1, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one), "a step of no numbers was taken"
    assert any(not torch.equal(two[name], three[name]) for name in two), "training did not go on"
    assert all(bool(tensor.isfinite().all()) for tensor in weights(run, 4).values())
    steps = records(run)
    assert [record["skipped"] for record in steps] == [0, 1, 0, 0]
    assert all(record["grad_norm"] > 0 for record in steps if "grad_norm" in record)
    assert "skipped: step 1: a gradient of the batch of groups 0 (frozenlake-4x4), 1" in "".join(capfd.readouterr())


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_gradients_that_are_never_finite_end_the_training(reinforce, monkeypatch, zero_stage):
    update = Engine.update
    monkeypatch.setattr(Engine, "update", lambda s, b, loss: update(s, b, lambda n, out: loss(n, out) * float("nan")))
    with pytest.raises(loop.DivergenceError, match=r"step 2: a gradient of the batch of groups 0 .* is not finite"):
        reinforce(train={"steps": 4, "zero_stage": zero_stage})


def test_episodes_that_a_world_breaks_off_are_neither_failures_nor_lessons(reinforce, monkeypatch, capfd):
    """Every second episode, by luck of its seed, and in validation too: success is of the others."""
    whole = FrozenLake.reset

    def broken(self, *, seed=None, options=None):
        if seed is not None and seed % 2:
            raise RuntimeError("gone")
        return whole(self, seed=seed, options=options)

    monkeypatch.setattr(FrozenLake, "reset", broken)
    counted = []
    monkeypatch.setattr(
        loop, "success_metrics", lambda w, counts: counted.append(counts) or success_metrics(w, counts)
    )
    run = reinforce(rl={"evaluation": {"every": 1, "episodes": 7}}, train={"steps": 1})
    [record] = records(run)
    assert record["rollout/errors"] == 8
    assert record["rollout/turns"] > 0
    assert counted[-1][0][1] in (3, 4), "broken episodes count as failures"
    said = "".join(capfd.readouterr())
    assert (
        "step 0: 8 of 16 episodes were broken off by errors of their worlds, the first of world frozenlake-4x4" in said
    )
    assert "RuntimeError: gone (test_rl.py:" in said


def test_a_world_that_breaks_off_every_episode_ends_the_training(reinforce, monkeypatch):
    def broken(self, snapshot):
        raise RuntimeError("gone")

    monkeypatch.setattr(FrozenLake, "mission", broken)
    with pytest.raises(WorldError, match=r"step 0: every episode was broken off .* step 0: RuntimeError: gone"):
        reinforce()


def test_a_training_whose_groups_are_all_equal_ends_with_advice(reinforce):
    with pytest.raises(ConfigError, match="no group of rollouts was worth an update for 5 steps in a row"):
        reinforce(rl={"filter": {"strategy": "dapo"}}, train={"steps": 9, "checkpoint_every": 100})
    assert issubclass(NothingToLearnError, RuntimeError)


def test_training_ends_early_where_success_does_not_rise(reinforce):
    run = reinforce(
        rl={"evaluation": {"every": 1, "episodes": 4, "patience": 3}}, train={"steps": 20, "checkpoint_every": 100}
    )
    assert records(run)[-1]["step"] == 4, "the first counts as a rise, and three more did not"
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert Best(best["step"], best["metric"], best["value"]) == Best(1, "eval/success", 0.0)


def test_groups_that_differ_in_form_alone_are_phantoms(rl_values, tmp_path):
    config = Config.model_validate(rl_values(tmp_path, rl={"filter": {"strategy": "dapo"}}))
    assert config.rl is not None

    def played(number: int, outcome: float, form: float) -> Played:
        parts = {"task": outcome, "format": form, "state_estimation": 0.0, "transition": 0.0}
        total = outcome + form
        return Played(number, number // 2, "w", False, total, outcome, parts, (1,), 1, 0, 1, False, "")

    episodes = [played(0, 1, 0), played(1, 0, 0), played(2, 0, 0.1), played(3, 0, 0), played(4, 1, 0), played(5, 1, 0)]
    kept, values = loop.choose_groups(episodes, config.rl)
    assert kept == [0]
    assert values["groups/phantom"] == pytest.approx(1 / 3)
    assert values["groups/equal"] == pytest.approx(2 / 3)


def test_groups_can_be_scored_by_outcomes_alone(rl_values, tmp_path):
    """One whose outcomes hardly differ and whose forms do, and one the other way round."""
    filtered = {"strategy": "top_k", "value": 0.5}
    parts = {"task": 0.0, "format": 0.0, "state_estimation": 0.0, "transition": 0.0}
    episodes = [
        Played(number, number // 2, "w", False, outcome + form, outcome, parts, (1,), 1, 0, 1, False, "")
        for number, (outcome, form) in enumerate([(0, 0), (0.01, -1), (0, 0), (0.5, 0)])
    ]
    for rewards, kept in (("total", [0]), ("outcome", [1])):
        values = rl_values(tmp_path, rl={"filter": {**filtered, "rewards": rewards}})
        config = Config.model_validate(values)
        assert config.rl is not None
        assert loop.choose_groups(episodes, config.rl)[0] == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl": {"source": "clozes", "rewards": {"format": 10}}}, "keep them below 0.5"),
        ({"rl": {"rewards": {"format": 0.5}}}, "keep them below 0.5"),
        ({"model": {"tiny": {"image_size": 48}}}, "draws 32x32 pixels"),
        ({"model": {"lora": {"rank": 2, "dropout": 0.1}}}, "set it to 0"),
        ({"rl": {"policy": {"old": "own", "minibatches": 2}}}, "set rl.policy.epochs and minibatches to 1"),
        ({"rl": {"policy": {"old": "own"}, "divergence": {"weight": 0.1}}}, "set rl.policy.old=measured"),
        ({"rl": {"policy": {"old": "own"}, "advantage": {"estimator": "gae"}}}, "set rl.policy.old=measured"),
        ({"rl": {"auxiliary": {"weight": 1}}, "clozes": {"weights": {"o0 o1 -> a0?5": 1}}}, "fewer than the options"),
        ({"rl": {"rewards": {"answers": "reciprocal"}}}, "set source=clozes"),
        (
            {
                "rl": {"source": "clozes", "rewards": {"answers": "reciprocal"}},
                "clozes": {"weights": {"state_estimation": 1}},
            },
            "has no opposite",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(reinforce, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        reinforce(output=tmp_path / "out", **changes)
    assert not (tmp_path / "out" / "run.json").exists()


# ------------------------------------------------------------------------------------------------------------ going on


RESUMED = {
    **PPO,
    "warmup": {"steps": 2, "rows": 4, "clozes": 0.5},
    "auxiliary": {"weight": [[0, 1], [1, 0.1]], "rows": 4},
    "evaluation": {"every": 2, "episodes": 4},
}


@pytest.mark.parametrize("zero_stage", [0, pytest.param(2, marks=slow), pytest.param(3, marks=slow)])
def test_a_resumed_run_is_the_one_that_was_never_stopped(reinforce, tmp_path, zero_stage):
    train = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 9, "zero_stage": zero_stage}
    whole = reinforce(rl=RESUMED, train=train)
    output = Path(shutil.copytree(whole, tmp_path / "stopped"))
    for step in (4, 5, 6):
        shutil.rmtree(output / "checkpoints" / f"step-{step:06d}")
    reinforce("resume", output, rl=RESUMED, train=train)
    assert told(output) == told(whole), "not bit for bit"
    first, second = weights(output, 6), weights(whole, 6)
    assert all(torch.equal(first[name], second[name]) for name in first)


def command(values: dict, folder: Path, *words: str) -> list[str]:
    path = folder / "rl.yaml"
    path.write_text(yaml.safe_dump(values))
    return [sys.executable, "-m", "vagen.cli", "train", "--config", str(path), *words]


def environment() -> dict[str, str]:
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@slow
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(reinforce, rl_values, tmp_path):
    changes = {"rl": RESUMED, "train": {"steps": 8, "checkpoint_every": 1}}
    whole = reinforce(**changes)
    output = tmp_path / "killed"
    values = rl_values(output, **changes)
    process = subprocess.Popen(command(values, tmp_path), env=environment(), cwd=tmp_path)
    deadline = time.monotonic() + 900
    while not (output / "checkpoints" / "step-000005").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command(values, tmp_path, "--resume"), env=environment(), cwd=tmp_path, check=True)
    assert told(output) == told(whole)


#: Longer episodes in one group than in another, with thoughts of several lengths, in one growing conversation.
UNEQUAL = {
    "rollouts": {"context": "concat", "turns": 5, "tokens": 12, "groups": 3, "members": 2, "strategy": "no_think"}
}
ROUNDED = {"gap/sampler", "gap/sampler_max", "gap/sampler_kl"}  # of the size of rounding


def assert_same(alone: Path, together: Path) -> None:
    for one, two in zip(told(alone), told(together), strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - ROUNDED:
            if name.startswith(("mi/", "state/")):
                continue  # measured on the episodes of the first process, which are others
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=2e-4), f"step {one['step']}: {name}"
        assert two.get("ratio/first_gap", 0.0) == 0.0


@slow
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_processes_learn_what_one_learns(reinforce, rl_values, tmp_path, zero_stage):
    """Groups, clozes and chunks of an update do not depend on who plays them; episodes are of unequal lengths."""
    changes = {"rl": RESUMED, "train": {"steps": 3, "zero_stage": zero_stage}}
    alone = reinforce(**{**changes, "train": {"steps": 3}})
    values = rl_values(tmp_path / "two", **changes)
    subprocess.run(command(values, tmp_path, "--processes", "2"), env=environment(), cwd=tmp_path, check=True)
    assert_same(alone, tmp_path / "two")


@slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_processes_with_the_model_in_parts_and_one_more_group_on_one(reinforce, rl_values, tmp_path, zero_stage):
    """Three groups on two processes, whose episodes are of unequal lengths: neither waits for ever for the other.

    Under ZeRO 3 every tensor is in parts but while it is used, and the whole model is there for rollouts. A model of
    its own for the critic, a reference, an evaluation and clozes beside go along.
    """
    rl = {
        **{key: value for key, value in RESUMED.items() if key != "rollouts"},
        **UNEQUAL,
        "critic": {"kind": "model"},
        "diagnostics": {"every": 2, "turns": 4},
    }
    train = {"steps": 3, "checkpoint_every": 100, "micro_rows": 1}
    alone = reinforce(rl=rl, train=train)
    values = rl_values(tmp_path / "two", rl=rl, train={**train, "zero_stage": zero_stage})
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(values))
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("spread.py") if zero_stage == 3 else ROOT / "scripts" / "train.py"
    words = [*program, str(script), "--config", str(tmp_path / "rl.yaml")]
    subprocess.run(words, env=environment(), cwd=tmp_path, check=True, timeout=1800)
    assert_same(alone, tmp_path / "two")

"""Optimizers, learning rates and ZeRO stages in one process: all lead to the numbers of formulas written out here."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText

from vagen.config import Config, ConfigError, Optimizer, Tiny
from vagen.policy import tiny
from vagen.policy.parts import part_of
from vagen.train.optimizer import parameter_groups
from vagen.train.run import latest_model, prepare
from vagen.train.schedule import rate_factor

slow = pytest.mark.slow


def saved_weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(latest_model(folder)).state_dict()


def check_weights(folder, reference) -> None:
    """The saved model is the one that plain torch ends with: nothing is lost when it is put together again."""
    actual, expected = saved_weights(folder), reference.policy.model.state_dict()
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=3e-3, msg=f"{name} is not what was trained")


@pytest.mark.parametrize(
    ("stage", "offload"),
    [(1, {}), (2, {}), (3, {}), (2, {"optimizer": True}), (3, {"optimizer": True, "parameters": True})],
)
def test_zero_stages_and_offload_change_nothing(run, reference, read_metrics, assert_same_losses, stage, offload):
    output = run(train={"zero_stage": stage, "offload": offload})
    records = read_metrics(output)
    assert_same_losses(records, reference, 2e-5, f"ZeRO {stage}, offload {offload}")
    np.testing.assert_allclose([r["grad_norm"] for r in records], reference.norms, rtol=1e-3)
    check_weights(output, reference)


@pytest.mark.parametrize("stage", [pytest.param(1, marks=slow), pytest.param(2, marks=slow), 3])
def test_half_precision_trains_alike_in_every_stage(run, reference, read_metrics, stage):
    output = run(train={"precision": "bf16", "zero_stage": stage, "steps": 3})
    losses = [record["loss"] for record in read_metrics(output)]
    np.testing.assert_allclose(losses, reference.losses[:3], rtol=0.02)
    assert {tensor.dtype for tensor in saved_weights(output).values()} == {torch.bfloat16}


# ---------------------------------------------------------------------------------------------------------------- Muon

MUON = {"name": "muon", "lr": 2e-3, "muon_lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """Five iterations X <- aX + b(XX')X + c(XX')^2 X (Jordan et al. 2024), in double precision."""
    X = matrix.double() / (matrix.double().norm() + 1e-7)
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X - 4.7750 * A @ X + 2.0315 * A @ A @ X
    return X


class MuonByHand(torch.optim.Optimizer):
    """Muon with Nesterov momentum for hidden matrices; AdamW in double precision for the rest."""

    def __init__(self, model: torch.nn.Module, config: Config):
        optimizer = config.optimizer
        named = [(name, parameter) for name, parameter in model.named_parameters()]
        hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        ids = {id(parameter) for parameter in hidden}
        assert len(hidden) >= 10
        others = [p for _, p in named if id(p) not in ids]
        self.betas, self.momentum, self.count = optimizer.betas, optimizer.momentum, 0
        decays = [optimizer.weight_decay, optimizer.weight_decay, 0.0]
        groups = [hidden, [p for p in others if p.ndim >= 2], [p for p in others if p.ndim < 2]]
        rates = [optimizer.muon_lr, optimizer.lr, optimizer.lr]
        super().__init__(
            [{"params": g, "lr": r, "decay": d} for g, r, d in zip(groups, rates, decays, strict=True)], {}
        )

    @torch.no_grad()
    def step(self):
        self.count += 1
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad.double()
                parameter.mul_(1 - group["lr"] * group["decay"])
                update = self.muon(state, gradient) if number == 0 else self.adam(state, gradient)
                parameter.add_((-group["lr"] * update).to(parameter.dtype))

    def muon(self, state, gradient):
        mean = state["m"] = self.momentum * state.get("m", 0.0) + (1 - self.momentum) * gradient
        rows, columns = gradient.shape
        return newton_schulz((1 - self.momentum) * gradient + self.momentum * mean) * math.sqrt(max(1, rows / columns))

    def adam(self, state, gradient):
        (first, second), t = self.betas, self.count
        mean = state["m"] = first * state.get("m", 0.0) + (1 - first) * gradient
        square = state["v"] = second * state.get("v", 0.0) + (1 - second) * gradient**2
        return mean / (1 - first**t) / ((square / (1 - second**t)).sqrt() + 1e-8)


@pytest.fixture(scope="module")
def muon_reference(by_hand, values, tmp_path_factory):
    return by_hand(Config.model_validate(values(tmp_path_factory.mktemp("none"), optimizer=MUON)), MuonByHand, False)


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=slow), pytest.param(2, marks=slow), 3])
def test_muon_is_the_formula_in_every_stage(run, reference, muon_reference, read_metrics, assert_same_losses, stage):
    assert abs(muon_reference.losses[-1] - reference.losses[-1]) > 0.02, "the test cannot tell Muon from AdamW"
    records = read_metrics(run(optimizer=MUON, train={"zero_stage": stage}))
    assert_same_losses(records, muon_reference, 5e-4, f"Muon, ZeRO {stage}")


@pytest.mark.parametrize("architecture", ["idefics3", "qwen3_vl"])
def test_muon_gets_hidden_matrices_only(architecture):
    model, _ = tiny.build(Tiny(architecture=architecture), ("sokoban-6x6",), 0)
    groups = parameter_groups(model, Optimizer(name="muon"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon = {names[id(p)] for group in groups if group.muon for p in group.parameters}
    assert sum(len(group.parameters) for group in groups) == len(names), "a parameter is lost or trained twice"
    for name, parameter in model.named_parameters():
        table = any(word in name for word in ("embed_tokens", "embedding", "pos_embed", "lm_head"))
        assert (name in by_muon) == (parameter.ndim == 2 and not table), f"{name} {tuple(parameter.shape)}"
    assert any("q_proj" in name for name in by_muon)


# --------------------------------------------------------------------------------------------------------------- rates


def test_parts_learn_at_their_own_rates(run, by_hand, values, tmp_path, read_metrics, assert_same_losses):
    changes = {"optimizer": {"rates": {"vision": 0.1, "projector": 3.0}}, "train": {"steps": 10}}

    def make(model, config):
        groups = []
        for name, parameter in model.named_parameters():
            rate = 0.1 if ".vision_model." in name else 3.0 if ".connector." in name else 1.0
            decay = config.optimizer.weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": config.optimizer.lr * rate, "weight_decay": decay})
        assert len({group["lr"] for group in groups}) == 3
        return torch.optim.AdamW(groups, betas=config.optimizer.betas)

    expected = by_hand(Config.model_validate(values(tmp_path, **changes)), make)
    records = read_metrics(run(**changes))
    assert_same_losses(records, expected, 2e-5, "rates of their own")
    assert max(record["lr"] for record in records) == pytest.approx(2e-3), "the rate that is logged is not AdamW's"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.blocks.0.attn.qkv.weight", "vision"),
        ("model.visual.merger.mlp.0.weight", "projector"),
        ("model.visual.deepstack_merger_list.0.norm.weight", "projector"),
        ("model.vision_model.encoder.layers.0.mlp.fc1.weight", "vision"),
        ("model.connector.modality_projection.proj.weight", "projector"),
        ("model.vision_tower.vision_model.embeddings.patch_embedding.weight", "vision"),
        ("model.multi_modal_projector.linear_1.weight", "projector"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "language"),
        ("model.text_model.embed_tokens.weight", "language"),
        ("lm_head.weight", "language"),
        ("base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default.weight", "vision"),
    ],
)
def test_parts_of_the_families(name, part):
    assert part_of(name) == part


# ----------------------------------------------------------------------------------------------------------- schedules


def factors(steps=20, **settings) -> list[float]:
    optimizer = Optimizer(**{"warmup_steps": 4, "final_lr": 0.1, "decay": 0.25, **settings})
    return [rate_factor(optimizer, steps, step) for step in range(steps + 1)]


def test_schedules_by_hand():
    """20 steps; 4 up from a tenth; cosine and linear down over the 16 that are left, wsd over the last 5."""
    up = [0.1, 0.325, 0.55, 0.775]
    assert factors(schedule="constant") == pytest.approx([*up, *[1.0] * 17])
    assert factors(schedule="linear") == pytest.approx([*up, *[1 - 0.9 * k / 16 for k in range(17)]])
    half = [(1 + math.cos(math.pi * k / 16)) / 2 for k in range(17)]
    assert factors(schedule="cosine") == pytest.approx([*up, *[0.1 + 0.9 * h for h in half]])
    late = [(1 + math.cos(math.pi * k / 5)) / 2 for k in range(6)]
    assert factors(schedule="wsd") == pytest.approx([*up, *[1.0] * 11, *[0.1 + 0.9 * h for h in late]])


@given(
    st.sampled_from(["wsd", "cosine", "linear", "constant"]),
    st.integers(1, 60),
    st.integers(0, 80),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_rates_stay_within_their_bounds_and_end_where_they_should(schedule, steps, warmup, decay, final):
    found = factors(steps, schedule=schedule, warmup_steps=warmup, decay=decay, final_lr=final)
    assert all(final - 1e-9 <= factor <= 1 + 1e-9 for factor in found)
    top = found.index(max(found))
    assert all(a <= b + 1e-9 for a, b in pairwise(found[: top + 1])), "falls while warming up"
    assert all(a >= b - 1e-9 for a, b in pairwise(found[top:])), "rises again"
    if schedule in ("cosine", "linear"):
        assert found[-1] == pytest.approx(final)


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ({"offload": {"optimizer": True}}, "zero_stage 1, 2 or 3"),
        ({"offload": {"parameters": True}, "zero_stage": 2}, "zero_stage 3"),
        ({"offload": {"cpu_adam": True}, "zero_stage": 2}, "offload.optimizer"),
    ],
)
def test_offload_that_does_not_fit_is_refused(values, tmp_path, train, complaint):
    with pytest.raises(ValueError, match=complaint):
        Config.model_validate(values(tmp_path, train=train))


CPU_ADAM = {"zero_stage": 2, "offload": {"optimizer": True, "cpu_adam": True}}


def test_cpu_adam_without_a_compiler_is_refused(values, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"cpu_adam is compiled on first use, and a C\+\+ compiler 'g\+\+' is not"):
        prepare(Config.model_validate(values(tmp_path / "out", train=CPU_ADAM)), 1, "new")
    assert not (tmp_path / "out").exists()


def test_cpu_adam_does_not_go_with_muon(values, tmp_path):
    config = Config.model_validate(values(tmp_path / "out", train=CPU_ADAM, optimizer=MUON))
    with pytest.raises(ConfigError, match=r"cpu_adam updates by AdamW"):
        prepare(config, 1, "new")


@slow
def test_cpu_adam_updates_as_torch_does(run, reference, read_metrics, assert_same_losses):
    """Compiles it, once per machine."""
    assert_same_losses(read_metrics(run(train=CPU_ADAM)), reference, 5e-5, "CPUAdam")

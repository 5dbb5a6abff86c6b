"""Inputs that are unusual but right: in half precision, not contiguous, empty; and names as others call them."""

import inspect

import pytest
import torch

from vagen.rl import advantages, diagnostics, filters, losses

IDS = torch.tensor([[0, 0, -1, 3, 3], [-1, 2, 2, 2, -1], [5, -1, 6, -1, 7]])
MASK = IDS >= 0
GENERATOR = torch.Generator().manual_seed(3)
X, Y, Z = (torch.randn(3, 3, 5, generator=GENERATOR)).bfloat16().double()  # numbers that bfloat16 has exactly
A, B = X[:, 1].clone(), Y[:, 2].clone()
ROWS = torch.tensor([0, 1, 1])

#: Functions of the three (3, 5) tensors, the two (3,) ones, the (3, 5) turn ids and mask, and the (3,) row ids.
CALLS = {
    "gae": lambda x, y, z, a, b, ids, mask, rows: advantages.gae(x, y, mask, 0.9, 0.8, a),
    "bi_level_gae": lambda x, y, z, a, b, ids, mask, rows: advantages.bi_level_gae(x, y, ids, 0.9, 0.8, 0.7, 0.6, a),
    "turn_gae": lambda x, y, z, a, b, ids, mask, rows: advantages.turn_gae(x, y, ids, 0.9, 0.8, a),
    "no_concat_gae": lambda x, y, z, a, b, ids, mask, rows: advantages.no_concat_gae(a, b, rows, rows, 0.9, 0.8),
    "grpo": lambda x, y, z, a, b, ids, mask, rows: advantages.grpo(a, rows),
    "batch_baseline": lambda x, y, z, a, b, ids, mask, rows: advantages.batch_baseline(a, rows),
    "reinforce_plus_plus": lambda x, y, z, a, b, ids, mask, rows: advantages.reinforce_plus_plus(x, mask, 0.9, a),
    "whiten": lambda x, y, z, a, b, ids, mask, rows: advantages.whiten(x, mask),
    "at_turn_ends": lambda x, y, z, a, b, ids, mask, rows: advantages.at_turn_ends(x, ids),
    "bootstrap_values": lambda x, y, z, a, b, ids, mask, rows: advantages.bootstrap_values(x, mask, rows, a),
    "ppo_clip": lambda x, y, z, a, b, ids, mask, rows: losses.ppo_clip(x, y, z, 0.2, 0.28, 3.0),
    "sampler_weights": lambda x, y, z, a, b, ids, mask, rows: losses.sampler_weights(x, y),
    "value_loss": lambda x, y, z, a, b, ids, mask, rows: losses.value_loss(x, y, z, 0.2),
    **{
        how: lambda x, y, z, a, b, ids, mask, rows, how=how: losses.aggregate(x, mask, how)
        for how in losses.AGGREGATIONS
    },
    **{kind: lambda x, y, z, a, b, ids, mask, rows, kind=kind: losses.kl(x, y, kind) for kind in losses.KL},
    "penalize": lambda x, y, z, a, b, ids, mask, rows: losses.penalize(x, y, mask, 0.1),
    "group_scores": lambda x, y, z, a, b, ids, mask, rows: filters.group_scores(a, rows),
    "outcome_gate": lambda x, y, z, a, b, ids, mask, rows: filters.outcome_gate(a, b, rows).scores,
    "log_prob_gap": lambda x, y, z, a, b, ids, mask, rows: torch.tensor(diagnostics.log_prob_gap(x, y, mask).kl),
    "state_perplexity": lambda x, y, z, a, b, ids, mask, rows: torch.tensor(diagnostics.state_perplexity(x, mask)),
}
EXACT = (X, Y, Z, A, B, IDS, MASK, ROWS)
by_every_function = pytest.mark.parametrize("name", CALLS)


def parts(found) -> list[torch.Tensor]:
    return list(found) if isinstance(found, tuple) else [found]


@by_every_function
def test_half_precision_is_computed_in_single(name):
    """What bfloat16 holds exactly gives what float64 gives, to the last digits of float32 and not of bfloat16."""
    half = tuple(t.bfloat16() if t.is_floating_point() else t for t in EXACT)
    for narrow, wide in zip(parts(CALLS[name](*half)), parts(CALLS[name](*EXACT)), strict=True):
        torch.testing.assert_close(narrow.double(), wide.double(), rtol=1e-4, atol=1e-5)


def scattered(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, each next to one that must not be read."""
    spread = torch.full((*tensor.shape, 2), 77, dtype=tensor.dtype)
    spread[..., 0] = tensor
    found = spread[..., 0]
    assert not found.is_contiguous()
    return found


@by_every_function
def test_tensors_need_not_be_contiguous(name):
    together = CALLS[name](*(scattered(tensor) for tensor in EXACT))
    turned = CALLS[name](*(t.t().contiguous().t() if t.ndim == 2 else t for t in EXACT))
    for views in (together, turned):
        for found, expected in zip(parts(views), parts(CALLS[name](*EXACT)), strict=True):
            torch.testing.assert_close(found, expected)


@by_every_function
def test_inputs_are_left_as_they_are(name):
    before = [tensor.clone() for tensor in EXACT]
    CALLS[name](*EXACT)
    assert all(torch.equal(one, other) for one, other in zip(before, EXACT, strict=True))


@pytest.mark.parametrize("kind", losses.KL)
def test_losses_of_nothing_are_nothing(kind):
    nothing = torch.zeros(0, 4)
    assert losses.kl(nothing, nothing, kind).shape == (0, 4)
    assert losses.ppo_clip(nothing, nothing, nothing, 0.2, 0.28, 3.0).shape == (0, 4)
    assert losses.value_loss(nothing, nothing, nothing, 0.2).shape == (0, 4)


def test_half_precision_trains():
    """A gradient comes back in the type of what it belongs to."""
    log_probs = X.bfloat16().requires_grad_()
    losses.aggregate(losses.ppo_clip(log_probs, Y.bfloat16(), Z, 0.2, 0.28), MASK, "token-mean").backward()
    assert log_probs.grad is not None
    assert log_probs.grad.dtype == torch.bfloat16
    assert log_probs.grad.isfinite().all()


@pytest.mark.parametrize(
    ("function", "names", "defaults"),
    [
        (advantages.gae, "rewards values mask gamma lam", {}),
        (advantages.bi_level_gae, "rewards values turn_ids gamma lam gamma_turn lam_turn", {}),
        (advantages.turn_gae, "rewards values turn_ids gamma lam", {}),
        (advantages.no_concat_gae, "rewards values episode_ids turn_index gamma lam", {}),
        (advantages.grpo, "scores groups episodes normalize_std", {"episodes": None, "normalize_std": True}),
        (advantages.whiten, "x mask", {}),
        (losses.ppo_clip, "log_probs old_log_probs advantages clip_low clip_high dual_clip", {"dual_clip": None}),
        (losses.aggregate, "loss mask how", {}),
        (losses.kl, "log_probs ref_log_probs kind", {}),
        (
            filters.select_groups,
            "scores strategy value mode largest include_zero eps",
            {"mode": "ragen_code", "largest": True, "include_zero": True, "eps": None},
        ),
        (filters.group_scores, "rewards groups kind ddof", {"kind": "std", "ddof": 1}),
        (filters.loss_scale, "kept_ratio how", {}),
        (diagnostics.mutual_information, "log_probs lengths own_column duplicate_of", {"duplicate_of": None}),
        (diagnostics.state_perplexity, "token_log_probs", {}),
    ],
)
def test_others_call_these_by_position_and_by_name(function, names, defaults):
    """What is published does not change; what comes after it has a default."""
    parameters = list(inspect.signature(function).parameters.values())
    own = names.split()
    assert [parameter.name for parameter in parameters[: len(own)]] == own
    for parameter in parameters[: len(own)]:
        if parameter.name in defaults:
            assert parameter.default == defaults[parameter.name]
    assert all(parameter.default is not parameter.empty for parameter in parameters[len(own) :])

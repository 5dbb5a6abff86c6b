"""Everything stays on the device of its inputs: on any other, each call would move data or fail.

No second device is at hand on a CPU, so the default device is made one that computes nothing ("meta"): a tensor that
is made anywhere but beside the inputs would land there, and could not be combined with them.
"""

import pytest
import torch

from vagen.rl import advantages, diagnostics, filters, losses
from vagen.rl.advantages import ESTIMATORS, Discounts, Rollouts, estimate

IDS = torch.tensor([[0, 0, -1, 3], [-1, -1, -1, -1]])
MASK = IDS >= 0
X, Y = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(0))
A, B = X[:, 0], Y[:, 0]
ROWS = torch.tensor([0, 1])
ROLLOUTS = Rollouts(X, IDS, groups=torch.zeros(2).long(), episodes=ROWS, turn_index=ROWS, values=Y, bootstrap=A)

CALLS = {
    **{name: lambda name=name: estimate(name, ROLLOUTS, Discounts()).advantages for name in ESTIMATORS},
    "whiten": lambda: advantages.whiten(X, MASK),
    "at_turn_ends": lambda: advantages.at_turn_ends(X, IDS),
    "bootstrap_values": lambda: advantages.bootstrap_values(Y, MASK, ROWS, A),
    "no_concat_gae of lists": lambda: advantages.no_concat_gae(A, B, [0, 0], [1, 0], 1, 1)[0],
    "grpo of lists": lambda: advantages.grpo(A, [0, 0], [0, 1]),
    "batch_baseline of lists": lambda: advantages.batch_baseline(A, [0, 1]),
    "ppo_clip": lambda: losses.ppo_clip(X, Y, Y, 0.2, 0.28, 3.0),
    "value_loss": lambda: losses.value_loss(X, Y, Y, 0.2),
    **{how: lambda how=how: losses.aggregate(X, MASK, how, count=3) for how in losses.AGGREGATIONS},
    **{kind: lambda kind=kind: losses.kl(X, Y, kind) for kind in losses.KL},
    "sampler_weights": lambda: losses.sampler_weights(X, Y),
    "penalize": lambda: losses.penalize(X, Y, MASK, 0.1),
    "entropy": lambda: losses.entropy(X),
    "entropy_loss": lambda: losses.entropy_loss(X, Y, 0.1, 0.2),
    "sigmoid_gate": lambda: losses.sigmoid_gate(X),
    "group_scores of lists": lambda: filters.group_scores(A, [0, 0], episodes=[0, 1]),
    "outcome_gate": lambda: filters.outcome_gate(A, B, ROWS).phantom,
    "rows_of lists": lambda: filters.rows_of(ROWS[:1], [5, 6]),
    **{s: lambda s=s: filters.select_groups(A, s, 0.5, include_zero=False) for s in filters.STRATEGIES},
    "variance_buckets": lambda: diagnostics.variance_buckets(A),
    "pass_at_k": lambda: diagnostics.pass_at_k(ROWS + 2, ROWS, 1),
}
NUMBERS = {
    "mutual_information": lambda: diagnostics.mutual_information(X, ROWS, ROWS, torch.arange(4, device="cpu"))["h_z"],
    "bootstrap_interval": lambda: diagnostics.bootstrap_interval(A, ROWS, seed=0, resamples=9).low,
    "permutation_null": lambda: diagnostics.permutation_null(X, ROWS, ROWS, seed=0, permutations=9).mean,
    "state_perplexity": lambda: diagnostics.state_perplexity(-X, MASK),
    "random_guess_perplexity": lambda: diagnostics.random_guess_perplexity([2, 3]),
    "log_prob_gap": lambda: diagnostics.log_prob_gap(X, Y, MASK).kl,
    "clip_shares": lambda: diagnostics.clip_shares(X, Y, Y, MASK, 0.2, 0.2).high,
    "fraction": lambda: diagnostics.fraction(MASK),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_where_the_inputs_are(name):
    with torch.device("meta"):
        found = CALLS[name]()
    torch.testing.assert_close(found, CALLS[name]())


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_need_no_default_device(name):
    with torch.device("meta"):
        found = NUMBERS[name]()
    assert found == NUMBERS[name]()

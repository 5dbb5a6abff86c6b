"""What a policy is to lower in reinforcement: the loss of the task, and what keeps it varied and near a reference.

Pure functions of outputs and numbers, of any part of an update.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from vagen.config import Rl
from vagen.policy.actor import Outputs
from vagen.rl import losses
from vagen.train.watching import Tokens


class Terms(NamedTuple):
    """What a part adds to the loss, each with its weight in it; ``None`` where the configuration has none.

    Attributes:
        task: the clipped surrogate.
        entropy: the bonus for it, as a loss.
        divergence: from the reference, where it is in the loss.
    """

    task: torch.Tensor
    entropy: torch.Tensor | None
    divergence: torch.Tensor | None

    def sum(self) -> torch.Tensor:
        return torch.stack([term for term in self if term is not None]).sum()


def policy_terms(said: Outputs, own: Tokens, rl: Rl) -> Terms:
    """The terms of the policy's loss on the N tokens of a part.

    Args:
        said: of the policy as it is now.
        own: the numbers of the same tokens.
    """
    settings, away = rl.policy, rl.divergence
    per_token = losses.ppo_clip(said.log_probs, own.old, own.advantages, *settings.bounds)
    per_token = per_token * losses.sign_weights(own.advantages, settings.positive, settings.negative)
    if settings.sampler_cap is not None:
        per_token = per_token * losses.sampler_weights(own.old, own.sampled, settings.sampler_cap)
    entropy = divergence = None
    if settings.entropy:
        bonus = losses.entropy_loss(said.entropies, own.advantages, settings.positive, settings.negative)
        entropy = settings.entropy * (own.weights * bonus).sum()
    if away.weight and away.where == "loss":
        divergence = away.weight * (own.weights * losses.kl(said.log_probs, own.reference, away.kind)).sum()
    return Terms((own.weights * per_token).sum(), entropy, divergence)

"""A policy on packed rows with what reinforcement learning adds to it: a critic, and a reference to stay near to.

Knows nothing about rewards, advantages or losses.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vagen.policy.adapters import has_adapters
from vagen.policy.attention import check_packable
from vagen.policy.loss import cross_entropy, losses_and_entropies
from vagen.policy.packing import Batch, hidden_states

CriticKind = Literal["none", "head", "model"]


@dataclass(frozen=True)
class Outputs:
    """What a policy says about each of the N targets of a batch.

    Attributes:
        log_probs: (N,) of the target, in nats.
        entropies: (N,) of what could have been said there, in nats.
        values: (N,) the critic's value before the target is written; 0 without a critic.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor


class PackedActor(torch.nn.Module):
    """A policy, its critic and its reference, as one module.

    Args:
        model: the policy.
        critic: ``head``: a linear layer on the policy's hidden states; ``model``: the same on a copy of the model.
        reference: keep a policy to be asked with ``reference=True``: the model without its adapters if it has any,
            else a copy, which stays as it is unless :meth:`twins` are made equal.
        isolated: keep the critic's gradient from the policy's hidden states.

    Attributes:
        isolated: as given; may be changed between forward passes.

    Raises:
        ModelError: the model would compute something else in a packed row than in one sequence per sample.
    """

    model: Any  # a PreTrainedModel

    def __init__(self, model: Any, critic: CriticKind = "none", reference: bool = False, isolated: bool = False):
        super().__init__()
        check_packable(model)
        self.model = model
        self.isolated = isolated
        self.reference = copy.deepcopy(model).requires_grad_(False) if reference and not has_adapters(model) else None
        self.critic = copy.deepcopy(model) if critic == "model" else None
        if self.critic is not None:
            self.critic.get_output_embeddings().requires_grad_(False)  # it says nothing
        self.head = None
        if critic != "none":
            size = model.get_output_embeddings().in_features
            self.head = torch.nn.Linear(size, 1, dtype=model.dtype)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters that are not the policy's."""
        parts = [part for part in (self.head, self.critic) if part is not None]
        return [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]

    def twins(self) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """Each parameter of the policy with that of the copy that is its reference."""
        return (
            []
            if self.reference is None
            else list(zip(self.model.parameters(), self.reference.parameters(), strict=True))
        )

    def forward(self, batch: Batch, reference: bool = False) -> torch.Tensor:
        """(3, N) log-probabilities, entropies and values, see :func:`outputs`; of the reference, (1, N)."""
        if reference:
            return self._of_reference(batch)[None]
        hidden = hidden_states(self.model, batch)
        losses, entropies = losses_and_entropies(hidden, self.model.get_output_embeddings(), batch.targets)
        return torch.stack([-losses, entropies, self._values(hidden, batch).to(losses.dtype)])

    def _values(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        if self.head is None:
            return hidden.new_zeros(len(hidden))
        if self.critic is not None:
            hidden = hidden_states(self.critic, batch)
        return self.head(hidden.detach() if self.isolated and self.critic is None else hidden)[:, 0]

    def _of_reference(self, batch: Batch) -> torch.Tensor:
        with _without_adapters(self.model):
            model = self.model if self.reference is None else self.reference
            return -cross_entropy(hidden_states(model, batch), model.get_output_embeddings(), batch.targets)


def outputs(stacked: torch.Tensor) -> Outputs:
    """What :class:`PackedActor` gives, by name."""
    return Outputs(*stacked)


@contextmanager
def _without_adapters(model: Any) -> Iterator[None]:
    """The model that its adapters were put into."""
    adapted = [m for m in model.modules() if isinstance(getattr(m, "disable_adapters", None), bool)]  # peft's layers
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)

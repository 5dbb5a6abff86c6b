"""Which parameters are updated how: groups by part of the model, by weight decay, and by kind of optimizer.

Knows nothing about how a group is updated or where its states are kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from vagen.config import Optimizer
from vagen.policy.parts import Part, part_of


@dataclass(frozen=True)
class Kind:
    """What the parameters of one group have in common.

    Attributes:
        part: of the model.
        muon: whether they are hidden matrices to be updated by Muon.
        decay: whether they decay: matrices do, norms and biases have nothing to shrink.
    """

    part: Part
    muon: bool
    decay: bool


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are updated alike.

    Attributes:
        parameters: in the order of the model.
        muon: by Muon rather than AdamW.
        lr: at the peak of the schedule.
        weight_decay: per step, times the learning rate.
    """

    parameters: list[torch.nn.Parameter]
    muon: bool
    lr: float
    weight_decay: float


def parameter_groups(model: torch.nn.Module, optimizer: Optimizer) -> list[ParameterGroup]:
    """The trainable parameters of a model in as few groups as the configuration allows."""
    embedded = _embeddings(model)
    found: defaultdict[Kind, list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim == 2 and id(parameter) not in embedded
            kind = Kind(part_of(name), optimizer.name == "muon" and matrix, parameter.ndim >= 2)
            found[kind].append(parameter)
    merged: dict[tuple[bool, float, float], list[torch.nn.Parameter]] = {}
    for kind, parameters in found.items():
        lr = getattr(optimizer.rates, kind.part) * (optimizer.muon_lr if kind.muon else optimizer.lr)
        merged.setdefault((kind.muon, lr, optimizer.weight_decay if kind.decay else 0.0), []).extend(parameters)
    return [ParameterGroup(parameters, *settings) for settings, parameters in merged.items()]


def _embeddings(model: torch.nn.Module) -> set[int]:
    """Identities of the weights that are looked up by row, and of the head: no matrices in Muon's sense."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return tables if head is None else tables | {id(head.weight)}

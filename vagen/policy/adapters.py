"""What of a model is trained: low-rank adapters, frozen parts, and less memory by computing activations twice.

Low-rank adaptation (LoRA, Hu et al. 2022, eq. 3) trains ``W + alpha / rank * B A`` for chosen weights W, of which only
the narrow A and B change. The adapters live inside the model, whose own parameter names stay those of the base model
once they are merged: a saved policy is a plain model, with its adapters beside it.

Needs ``peft`` (the extra ``lora``) where adapters are asked for, and only there.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vagen.config import Lora, Model
from vagen.policy.errors import ModelError
from vagen.policy.parts import PARTS, part_of

ADAPTER = "adapter"  # the folder of a policy's adapters, beside its merged weights
ADAPTER_CONFIG = "adapter_config.json"

_NAME = "default"  # what peft calls the adapters


def prepare_training(model: Any, config: Model) -> None:
    """Put adapters into a model, freeze what is not to be trained, and turn on gradient checkpointing, as configured.

    Raises:
        ModelError: a name in the configuration matches nothing in the model, or nothing is left to train.
    """
    if config.lora.rank:
        _add_adapters(model, config.lora, config.path)
    freeze(model, config.freeze)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"nothing is left to train: model.freeze is {', '.join(config.freeze)}")
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def freeze(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Stop the training of parts of a model.

    Args:
        names: ``vision`` (the tower without what follows it), ``projector``, ``language`` (with the head), or regular
            expressions for whole parameter names.

    Raises:
        ModelError: a name matches nothing.
    """
    parameters = dict(model.named_parameters())
    for name in names:
        if name in PARTS:
            chosen = [parameter for parameter in parameters if part_of(parameter) == name]
        else:
            chosen = _matching(name, parameters, "model.freeze")
        if not chosen:
            raise ModelError(f"model.freeze: {name!r} names no parameter; {_near(name, [*PARTS, *parameters])}")
        for parameter in chosen:
            parameters[parameter].requires_grad_(False)


def has_adapters(model: Any) -> bool:
    return _NAME in getattr(model, "peft_config", {})


def merged_state(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the base model with adapters worked into them, by the base model's own names.

    Args:
        model: a model with adapters.
        state: all its weights, gathered if they are spread over processes.
    """
    config = model.peft_config[_NAME]
    scale = config.lora_alpha / config.r
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{_NAME}.", ".")
        module = name.removesuffix(".base_layer.weight")
        if module != name:
            down, up = (state[f"{module}.lora_{half}.{_NAME}.weight"].float() for half in "AB")  # (r, D), (K, r)
            tensor = (tensor.float() + scale * (up @ down)).to(tensor.dtype)
        merged[plain] = tensor
    return merged


def save_adapters(model: Any, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a model's adapters as a folder that ``peft`` loads on top of the base model."""
    tensors = {}
    for name, tensor in state.items():
        if f".modules_to_save.{_NAME}." in name:
            name = name.replace(f".modules_to_save.{_NAME}.", ".")
        elif ".lora_" in name:
            name = name.replace(f".{_NAME}.", ".")
        else:
            continue
        tensors[f"base_model.model.{name}"] = tensor.contiguous().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config[_NAME].save_pretrained(str(folder))


def merge_adapters(model: Any, folder: Path) -> Any:
    """A base model with the adapters of a folder worked into its weights."""
    peft = _peft()
    return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


def _add_adapters(model: Any, config: Lora, base: str | None) -> None:
    peft = _peft()
    modules = dict(model.named_modules())
    targets = _matching(config.targets, modules, "model.lora.targets")
    if not targets:
        raise ModelError(f"model.lora.targets: {config.targets!r} matches no module; {_near(config.targets, modules)}")
    for name in targets:
        if not isinstance(modules[name], torch.nn.Linear):
            kind = type(modules[name]).__name__
            raise ModelError(f"model.lora.targets: {name!r} is a {kind}; adapters go into linear layers only")
    for name in config.train_fully:
        found = [module for module in modules if module == name or module.endswith(f".{name}")]
        if not found:
            raise ModelError(f"model.lora.train_fully: {name!r} is no module; {_near(name, modules)}")
        tied = model.config.tie_word_embeddings and {model.get_input_embeddings(), model.get_output_embeddings()}
        if tied and any(modules[module] in tied for module in found):
            raise ModelError(f"model.lora.train_fully: {name!r} shares its weights; this model ties word embeddings")
    options = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        modules_to_save=list(config.train_fully) or None,
        base_model_name_or_path=base,
    )
    peft.inject_adapter_in_model(options, model, _NAME)


def _peft() -> Any:
    if importlib.util.find_spec("peft") is None:
        raise ModelError("adapters need peft, which is not installed: pip install 'vagen-cloze[lora]'")
    return importlib.import_module("peft")


def _matching(pattern: str, names: Iterable[str], key: str) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ModelError(f"{key}: {pattern!r} is no regular expression: {error}") from None
    return [name for name in names if compiled.fullmatch(name)]


def _near(name: str, names: Iterable[str]) -> str:
    """A hint at what may have been meant: whole names, or their last words."""
    known = list(names)
    last = re.split(r"[^A-Za-z0-9_]+", name.rstrip(".*+?$)"))[-1] or name
    by_word = {known_name.rpartition(".")[2]: known_name for known_name in known if known_name}
    near = get_close_matches(name, known, n=2, cutoff=0.6)
    near += [by_word[word] for word in get_close_matches(last, list(by_word), n=2, cutoff=0.5)]
    some = list(dict.fromkeys(near)) or [n for n in known if n][-2:]
    return f"names near it: {', '.join(map(repr, some))}"

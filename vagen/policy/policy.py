"""A policy: a vision-language model, its processor, and how it is spoken to."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vagen.config import Model
from vagen.files import write_json
from vagen.policy import tiny
from vagen.policy.processors import ImageOnlyQwen3VLProcessor
from worlds.text import Representation

FORMAT_FILE = "cloze_format.json"


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it and the remedy."""


@dataclass(frozen=True)
class ClozeFormat:
    """How clozes were written when the model was trained, kept beside its weights so that evaluation asks alike.

    Attributes:
        representation: how states are written.
        explain: whether a system message gives the world's rules and the notation.
        worlds: what it was trained on.
        clozes: what it was trained with.
    """

    representation: Representation = "natural"
    explain: bool = True
    worlds: tuple[str, ...] = ()
    clozes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """A loaded model with everything needed to talk to it."""

    name: str
    model: Any  # a PreTrainedModel that generates; its own type hints do not say what its parts are
    processor: Any  # a ProcessorMixin with a tokenizer and an image_processor
    format: ClozeFormat

    @property
    def device(self) -> torch.device:
        return self.model.device

    def save(self, folder: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write a plain Hugging Face folder (safetensors, processor, generation config) and the cloze format."""
        self.model.save_pretrained(folder, state_dict=state_dict)
        self.processor.save_pretrained(folder)
        write_json(folder / FORMAT_FILE, asdict(self.format))


def create(config: Model, form: ClozeFormat, seed: int, dtype: torch.dtype = torch.float32) -> Policy:
    """The policy a configuration asks for: loaded from a path, else the tiny default for ``form.worlds``.

    Raises:
        ModelError: the model cannot be loaded.
    """
    if config.path is not None:
        return load(config.path, dtype, config.attention, config.trust_remote_code, form)
    model, processor = tiny.build(config.tiny, form.worlds, seed)
    model.set_attn_implementation(config.attention)
    return Policy(f"tiny-{config.tiny.architecture}", model.to(dtype), processor, form)


def best_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(
    path: str,
    dtype: torch.dtype | Literal["auto"] = "auto",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    form: ClozeFormat | None = None,
) -> Policy:
    """Load any image-text-to-text model from a folder or the Hub, on the CPU; weights only as safetensors.

    Args:
        dtype: floating point type of the weights; ``auto`` keeps that of the files.
        form: how to ask; read from the folder where it is not given, else the default.

    Raises:
        ModelError: there is no such model, or it is not one that reads images and writes text.
    """
    folder = Path(path)
    if path.startswith((".", "/", "~", "outputs/")) or folder.exists():
        _check_folder(folder)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
        processor = _load_processor(path, model, trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot load model {path!r}: {reason.strip()}") from None
    processor.tokenizer.padding_side = "left"
    return Policy(folder.name or path, model, processor, form or _read_format(folder))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}: give a folder with config.json, or a model id of the Hub")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no model folder: it has no config.json; `vagen export` makes one from a run")


def _load_processor(path: str, model: Any, trust_remote_code: bool) -> Any:
    """The model's processor; where torchvision is missing, Qwen's without its video half."""
    if model.config.model_type == "qwen3_vl" and not _has_torchvision():
        return ImageOnlyQwen3VLProcessor.from_pretrained(path)
    return AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)


def _has_torchvision() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def _read_format(folder: Path) -> ClozeFormat:
    path = folder / FORMAT_FILE
    if not path.is_file():
        return ClozeFormat()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return ClozeFormat(value["representation"], value["explain"], tuple(value["worlds"]), tuple(value["clozes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it to use the defaults"
        ) from None

"""A policy: a vision-language model, its processor, and how it is spoken to."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of whatever client it uses
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from vagen.config import Model
from vagen.files import atomic_folder, write_json
from vagen.policy import tiny
from vagen.policy.adapters import (
    ADAPTER,
    ADAPTER_CONFIG,
    has_adapters,
    merge_adapters,
    merged_state,
    prepare_training,
    save_adapters,
)
from vagen.policy.attention import choose_attention, set_attention
from vagen.policy.errors import ModelError as ModelError
from vagen.policy.processors import IMAGE_ONLY
from vagen.policy.towers import batch_tower
from worlds.text import Representation

FORMAT_FILE = "cloze_format.json"
HUB_SECONDS = 10.0  # how long the Hub may take to say whether it has a model


@dataclass(frozen=True)
class ClozeFormat:
    """How clozes were written when the model was trained, kept beside its weights so that evaluation asks alike.

    Attributes:
        representation: how states are written.
        explain: whether a system message gives the world's rules and the notation.
        worlds: what it was trained on.
        clozes: what it was trained with.
        history: how many images of its trajectory came before a cloze's own, at most.
    """

    representation: Representation = "natural"
    explain: bool = True
    worlds: tuple[str, ...] = ()
    clozes: tuple[str, ...] = ()
    history: NonNegativeInt = 0


_FORMAT = TypeAdapter(ClozeFormat)


@dataclass(frozen=True)
class Policy:
    """A loaded model with everything needed to talk to it."""

    name: str
    model: Any  # a PreTrainedModel that generates; its own type hints do not say what its parts are
    processor: Any  # a ProcessorMixin with a tokenizer and an image_processor
    format: ClozeFormat
    digest: str | None = None  # of the weights in the folder it was loaded from

    @property
    def device(self) -> torch.device:
        return self.model.device

    def save(self, folder: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write a plain Hugging Face folder (safetensors, processor, generation config) and the cloze format.

        Adapters are merged into the weights, and kept in a folder of their own beside them.

        Args:
            state_dict: the weights by the model's parameter names, where the model itself holds only part of them.
        """
        with atomic_folder(folder, "config.json") as temporary:
            if has_adapters(self.model):
                state = self.model.state_dict() if state_dict is None else state_dict
                save_adapters(self.model, state, temporary / ADAPTER)
                state_dict = merged_state(self.model, state)
            self.model.save_pretrained(temporary, state_dict=state_dict)
            self.processor.save_pretrained(temporary)
            write_json(temporary / FORMAT_FILE, asdict(self.format))


def create(
    config: Model, form: ClozeFormat, seed: int, dtype: torch.dtype = torch.float32, words: Sequence[str] = ()
) -> Policy:
    """The policy a configuration asks for, ready to train on packed rows.

    Loaded from a path, else the tiny default for ``form.worlds``; with adapters and frozen parts as configured. Made
    on the CPU.

    Args:
        words: what a tiny model's tokenizer is to know beside the words of its worlds.

    Raises:
        ModelError: the model cannot be loaded, or not trained as configured.
    """
    if config.path is not None:
        policy = load(config.path, dtype, "sdpa", config.trust_remote_code, form)
        adjust_images(policy.processor, config.images)
    else:
        model, processor = tiny.build(config.tiny, form.worlds, seed, words)
        policy = Policy(f"tiny-{config.tiny.architecture}", model.to(dtype), processor, form)
    set_attention(policy.model, choose_attention(config.attention, best_device(), policy.model, packed=True))
    batch_tower(policy.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # adapters begin at random
        prepare_training(policy.model, config)
    return policy


def adjust_images(processor: Any, settings: Mapping[str, Any]) -> None:
    """Change settings of a processor's image half, such as the sizes that images are brought to.

    Raises:
        ModelError: it has no setting of a name, or cannot take its value.
    """
    if not settings:
        return
    images = processor.image_processor
    known = images.to_dict()
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise ModelError(f"model.images: {type(images).__name__} has no setting {name!r}; {hint}")
    try:
        processor.image_processor = type(images).from_dict({**known, **settings})
    except (TypeError, ValueError) as error:
        raise ModelError(f"model.images: {type(images).__name__} does not take {dict(settings)} ({error})") from None


def weights_digest(folder: Path) -> str | None:
    """A digest of a model folder's weights, by which a report card knows its model; ``None`` where there are none."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if files else None


def best_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(
    path: str,
    dtype: torch.dtype | Literal["auto"] = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    form: ClozeFormat | None = None,
) -> Policy:
    """Load any image-text-to-text model from a folder or the Hub, on the CPU; weights only as safetensors.

    A folder with adapters only is loaded as its base model with the adapters merged into it.

    Args:
        dtype: floating point type of the weights; ``auto`` keeps that of the files.
        attention: for generation on the best device there is; see :func:`vagen.policy.attention.choose_attention`.
        form: how to ask; read from the folder where it is not given, else the default.

    Raises:
        ModelError: there is no such model, or it is not one that reads images and writes text.
    """
    check_path(path)
    folder = Path(path)
    adapters = (folder / ADAPTER_CONFIG).is_file()
    base = _base_of(folder) if adapters else path
    if not Path(base).exists():
        _ask_hub(base)
    try:
        model, loading = AutoModelForImageTextToText.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            base,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
        if adapters:
            model = merge_adapters(model, folder)
        set_attention(model, choose_attention(attention, best_device(), model, packed=False))
        batch_tower(model)
        processor = _load_processor(path if _has_processor(folder) else base, model, trust_remote_code)
    except ModelError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot load model {path!r}: {reason.strip()}") from None
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(f"cannot load model {path!r}: its files lack {len(missing)} weights, such as {missing[0]}")
    processor.tokenizer.padding_side = "left"
    return Policy(folder.name or path, model, processor, form or read_format(folder), weights_digest(folder))


def check_path(path: str) -> None:
    """Refuse a path that is meant as a folder and holds no model; ids of the Hub pass.

    Raises:
        ModelError: says what is missing.
    """
    folder = Path(path)
    if not folder.exists() and _can_be_id(path):
        return
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}: give a folder with config.json, or a model id of the Hub")
    if not ((folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()):
        raise ModelError(f"{folder} is no model folder: it has no config.json; `vagen export` makes one from a run")


def _can_be_id(path: str) -> bool:
    """Whether the Hub can have a model of this name: NAME or OWNER/NAME."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return not path.startswith("outputs/")  # where runs lie


def _ask_hub(id: str) -> None:
    """Ask the Hub once whether it has a model that is not in its cache: loading would try for a minute.

    Raises:
        ModelError: it has none, or cannot be asked.
    """
    if isinstance(try_to_load_from_cache(id, "config.json"), str):
        return
    try:
        HfApi().model_info(id, timeout=HUB_SECONDS)
    except RepositoryNotFoundError:
        raise ModelError(f"no folder {id!r} here, and no model of this id on the Hub that you may see") from None
    except HfHubHTTPError:
        return  # it says no to this question; loading may do, or says why not
    except (HTTPError, ConnectionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"no folder {id!r} here, and the Hub cannot be asked for a model of this id: {reason}"
        ) from None


def _load_processor(path: str, model: Any, trust_remote_code: bool) -> Any:
    """The model's processor; where torchvision is missing, Qwen's without its video half."""
    if model.config.model_type in IMAGE_ONLY and not _has_torchvision():
        return IMAGE_ONLY[model.config.model_type].from_pretrained(path)
    return AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)


def _base_of(folder: Path) -> str:
    """The model that a folder's adapters are for."""
    try:
        base = json.loads((folder / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise ModelError(f"{folder / ADAPTER_CONFIG} is damaged: it is no JSON object") from None
    if not isinstance(base, str):
        raise ModelError(f"{folder / ADAPTER_CONFIG} does not name its base model: fill in base_model_name_or_path")
    check_path(base)
    return base


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))


def _has_torchvision() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def read_format(folder: Path) -> ClozeFormat:
    """How a model folder wants to be asked; the default where it does not say.

    Raises:
        ModelError: what it says cannot be read.
    """
    path = folder / FORMAT_FILE
    if not path.is_file():
        return ClozeFormat()
    try:
        return _FORMAT.validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise ModelError(f"{path} is damaged ({where}: {problem['msg']}); delete it to use the defaults") from None

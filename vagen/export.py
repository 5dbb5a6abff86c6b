"""Export: a plain Hugging Face folder that stock ``transformers`` loads, with a model card that reads well."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from pprint import pformat
from tempfile import TemporaryDirectory

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from PIL import Image
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

import vagen
from vagen.cloze.grammar import ClozeError, named
from vagen.evaluate.worldmodel import draw_samples
from vagen.files import atomic_folder, check_folder, write_text_atomically
from vagen.policy.adapters import ADAPTER, ADAPTER_CONFIG
from vagen.policy.chat import conversation
from vagen.policy.policy import ClozeFormat, ModelError, load, read_format, weights_digest
from vagen.train.run import latest_model
from worlds import WorldError, is_available

CARD = "report_card.json"


def export(
    source: Path, output: Path, card: Path | None = None, adapter_only: bool = False, overwrite: bool = False
) -> Path:
    """Write a model as a folder for ``from_pretrained`` and the Hub.

    Args:
        source: a run (its newest checkpoint is taken), a model folder, or one with adapters, which are merged into
            the weights of their base model.
        output: the folder to make.
        card: a world-model report card to put into the model card. Where none is given, that of the export that is
            replaced is kept if it is of these weights, and dropped with a word on standard error if not.
        adapter_only: write the adapters alone, for ``peft`` to put on top of their base model; without a model card.
        overwrite: replace a model in ``output``, whole.

    Raises:
        ModelError: there is no model in ``source``, its weights are damaged, the card is of another model, or it has
            no adapters to export alone.
        OutputError: the output cannot be written to, or is taken.
    """
    check_folder(output, ADAPTER_CONFIG if adapter_only else "config.json", overwrite)
    if (source / ADAPTER_CONFIG).is_file() and not adapter_only:
        with TemporaryDirectory(dir=output.parent if output.parent.is_dir() else None) as merged:
            load(str(source)).save(Path(merged) / "model")
            return export(Path(merged) / "model", output, card, overwrite=overwrite)
    model = source if _is_model(source) else latest_model(source)
    if adapter_only:
        return _export_adapters(model, output, overwrite)
    _check_weights(model)
    card = card or (_earlier_card(output, model) if overwrite else None)
    report = None if card is None else _read_card(card)
    if report is not None and report.weights not in (None, weights_digest(model)):
        raise ModelError(f"report card {card} is of other weights than {model}; evaluate this model first")
    with atomic_folder(output, "config.json", overwrite) as temporary:
        shutil.copytree(model, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ADAPTER))
        if card is not None:
            shutil.copyfile(card, temporary / CARD)
        example = _draw_example(read_format(temporary), temporary)
        write_text_atomically(temporary / "README.md", model_card(temporary, output.name, report, example))
    return output


def _earlier_card(output: Path, model: Path) -> Path | None:
    """The report card of an earlier export to the same place, if it is of the same weights."""
    card = output / CARD
    if not card.is_file():
        return None
    try:
        if _read_card(card).weights == weights_digest(model):
            return card
        reason = "it is of other weights"
    except ModelError as error:
        reason = str(error)
    print(f"vagen: {card} of an earlier export is dropped: {reason}; give a card with --card", file=sys.stderr)
    return None


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()


def _export_adapters(model: Path, output: Path, overwrite: bool) -> Path:
    """Copy the adapters of a model folder, or a folder of adapters."""
    adapters = model if (model / ADAPTER_CONFIG).is_file() else model / ADAPTER
    if not (adapters / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{model} has no adapters: it was trained with model.lora.rank=0; export it whole")
    if json.loads((adapters / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path") is None:
        raise ModelError(f"the base model of {adapters} was made for its run and is kept nowhere; export it whole")
    _check_weights(adapters)
    with atomic_folder(output, ADAPTER_CONFIG, overwrite) as temporary:
        shutil.copytree(adapters, temporary, dirs_exist_ok=True)
    return output


@dataclass(frozen=True)
class Example:
    """A question that a model card asks the model.

    Attributes:
        messages: the conversation, as Python.
        images: files beside the card that it shows, in order.
        world, cloze, answer: what is asked about, and a right answer; empty where no world of the model is known here.
    """

    messages: str
    images: list[str]
    world: str = ""
    cloze: str = ""
    answer: str = ""


def _draw_example(form: ClozeFormat, folder: Path) -> Example:
    """A question as the model was trained to answer it, its images written to the folder.

    Of the first cloze and world that can be asked; else a free question about an image of the reader's.
    """
    for world, cloze in product(filter(is_available, form.worlds), form.clozes):
        try:
            (sample,) = draw_samples(world, cloze, named(cloze), 1, 0, "test", form.representation)
        except (ClozeError, WorldError):
            continue
        images = [f"example-{number}.png" for number in range(len(sample.images))]
        for file, frame in zip(images, sample.world.render_states(sample.images) if images else (), strict=True):
            Image.fromarray(frame).save(folder / file)
        messages = pformat(conversation(sample, form.explain), width=110, sort_dicts=False)
        return Example(messages, images, world, cloze, sample.answer)
    content = [{"type": "image"}, {"type": "text", "text": "What is in this image?"}]
    return Example(repr([{"role": "user", "content": content}]), ["image.png"])


def model_card(folder: Path, name: str, report: _Card | None, example: Example) -> str:
    """The text of the model card, with the report card as the Hub's evaluation metadata."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    form = read_format(folder)
    rows = report.rows if report else []
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["world-model", "vision-language-agent", "vagen"],
        model_name=name,
        eval_results=[_eval_result(row, report.split) for row in rows] if report else None,
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vagen", "templates"), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.get_template("model_card.md.jinja").render(
        metadata=data.to_yaml(),
        name=name,
        architecture=config["architectures"][0],
        parameters=_parameters(folder),
        form=form,
        clozes={cloze: _pattern(cloze) for cloze in form.clozes},
        example=example,
        rows=rows,
        report=report,
        version=vagen.__version__,
    )


def _pattern(cloze: str) -> str:
    """The pattern of a cloze; its name where nobody here knows it."""
    try:
        return str(named(cloze))
    except ClozeError:
        return cloze


class _Calibration(BaseModel):
    ece: float


class _Row(BaseModel):
    """What a model card shows of a report card's row."""

    world: str
    cloze: str
    pattern: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    floors: dict[str, float | None]
    field_f1: dict[str, float] = {}
    calibration: _Calibration | None = None


class _Card(BaseModel):
    rows: list[_Row]
    split: str
    weights: str | None = None


def _read_card(path: Path) -> _Card:
    try:
        return _Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read report card {path}: {error.strerror}") from None
    except ValidationError:
        raise ModelError(f"{path} is no report card; `vagen eval worldmodel` makes one") from None


def _check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are missing, damaged, or not safetensors."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no *.safetensors; weights in other formats are not loaded")
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                weights.keys()
        except SafetensorError as error:
            raise ModelError(f"weights {file} are damaged: {error}") from None


def _parameters(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - a safetensors file is no mapping
                size = 1
                for dimension in weights.get_slice(key).get_shape():
                    size *= dimension
                total += size
    return total


def _eval_result(row: _Row, split: str) -> EvalResult:
    return EvalResult(
        task_type="image-text-to-text",
        task_name=f"{row.cloze} ({row.pattern})",
        dataset_type=row.world,
        dataset_name=f"{row.world} / {row.cloze}",
        dataset_config=row.cloze,  # the Hub merges results of one data set and configuration
        dataset_split=split,
        metric_type="accuracy",
        metric_name="exact match",
        metric_value=round(row.accuracy, 4),
    )

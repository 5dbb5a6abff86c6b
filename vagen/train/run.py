"""A run's folder and inputs: what can be known about a run without an engine."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from vagen.cloze.sample import simulator
from vagen.config import Config, ConfigError, Section, Train, load, save
from vagen.data.examples import read_image
from vagen.data.questions import QuestionStream, TrainingStream
from vagen.data.stream import ClozeStream
from vagen.files import ensure_folder, write_json
from vagen.policy.policy import ClozeFormat, ModelError, check_path
from vagen.train.environment import available_cores
from vagen.train.reporters import check_installed

Start = Literal["new", "resume", "overwrite"]
CHECKPOINTS = "checkpoints"
MODEL = "model"  # the Hugging Face folder inside a checkpoint
MANIFEST = "manifest.json"  # in a checkpoint: what it consists of; written last
RUN, CONFIG, LOCK = "run.json", "config.yaml", ".lock"
MOST_WORKERS = 4
SHARED_SECONDS = 60.0  # how long another node's file may take to appear

# Keys, and sections, that may change when a run goes on. What is not among them decides the losses (train.steps does
# through the schedule) or the format of checkpoints.
MAY_CHANGE = (
    "output",
    "collect",
    "evaluate",
    "train.micro_rows",
    "train.row_tokens",
    "train.workers",
    "train.prefetch",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.validation",
    "train.report_to",
    "train.project",
    "rl.evaluation",
    "rl.diagnostics",
    "rl.guard",
)


def prepare(config: Config, ranks: int, start: Start) -> TrainingStream:
    """Check everything that can be wrong with a run's inputs before anything starts; returns its data.

    Args:
        start: what to do about an earlier run in the same output.

    Raises:
        ConfigError, DataError, ClozeError, ModelError, OutputError: what is wrong, where, and how to mend it.
    """
    stream = open_stream(config)
    micro_batches(config.train, ranks)
    prepare_output(config, start, stream.digests)
    return stream


def prepare_output(config: Config, start: Start, data: Mapping[str, str]) -> None:
    """Check what a run needs besides its data, and make its folder.

    Args:
        data: digests of what it trains on, to compare with those of the run it goes on with.

    Raises:
        ConfigError, OutputError: as :func:`prepare`.
    """
    check_installed(config.train.report_to)
    if config.train.offload.cpu_adam:
        _check_cpu_adam(config)
    output = Path(config.output)
    if start == "new" and ((output / RUN).exists() or (output / CHECKPOINTS).exists()):
        raise ConfigError(f"{output} already holds a run: add --resume or --overwrite, or choose another output")
    if start == "resume":
        known_id(output)
        _check_unchanged(config, output / CONFIG)
        _check_same_data(data, output)
    ensure_folder(output)


def open_stream(config: Config) -> TrainingStream:
    """The data of a run, checked against its model."""
    length = config.train.steps * config.train.rows
    clozes = questions = None
    if config.questions.files:
        questions = QuestionStream(config.questions, config.seed)
    if config.shards or questions is None:
        clozes = ClozeStream(config.shards, config.clozes, config.seed, config.mixture, length, config.data)
    elif config.train.validation.every:
        raise ConfigError("train.validation asks clozes, and there are no shards: set train.validation.every=0")
    stream = TrainingStream(clozes, questions, config.questions.weight, length)
    if config.model.path is not None:
        check_path(config.model.path)
    else:
        check_sizes(stream.worlds, config.model.tiny.image_size, questions)
    return stream


def micro_batches(train: Train, ranks: int) -> int:
    """Forward passes per process and step; 1 where ``train.row_tokens`` makes each step plan its own.

    Raises:
        ConfigError: rows do not divide evenly.
    """
    if train.row_tokens:
        return 1
    if train.rows % (ranks * train.micro_rows):
        raise ConfigError(
            f"train.rows={train.rows} is not a multiple of {ranks} processes times train.micro_rows={train.micro_rows}"
        )
    return train.rows // (ranks * train.micro_rows)


def loading_processes(train: Train, local_ranks: int) -> int:
    """Data loading processes of each training process: one core of this machine trains, what is left loads."""
    if train.workers is not None:
        return train.workers
    return min(MOST_WORKERS, max(0, available_cores() // local_ranks - 1))


def _check_cpu_adam(config: Config) -> None:
    """Refuse what cannot be built, before the build is tried."""
    if config.optimizer.name != "adamw":
        raise ConfigError("train.offload.cpu_adam updates by AdamW: leave it out, or set optimizer.name=adamw")
    for tool, what in (("g++", "a C++ compiler"), ("ninja", "the build tool")):
        if shutil.which(tool) is None:
            raise ConfigError(
                f"train.offload.cpu_adam is compiled on first use, and {what} {tool!r} is not on the PATH: install "
                "it, or leave cpu_adam out (torch's AdamW then updates on the CPU, more slowly)"
            )


def check_sizes(worlds: Iterable[str], size: int, questions: QuestionStream | None = None) -> None:
    """Refuse frames and images that the tiny model's processor would have to resize."""
    shapes = {f"world {world!r} draws": simulator(world).observation_space.shape or (0, 0, 0) for world in worlds}
    if questions is not None:
        file = questions.first_image()
        shapes[f"image {file} has"] = read_image(file).shape
    for what, shape in shapes.items():
        height, width = shape[:2]
        if {height, width} != {size}:
            raise ModelError(
                f"{what} {width}x{height} pixels and the tiny model sees {size}x{size}: set --model.tiny.image_size, "
                "and train images of one size together"
            )


def cloze_format(config: Config, worlds: Iterable[str], names: Iterable[str]) -> ClozeFormat:
    """How a run writes its clozes, those with these names."""
    clozes = config.clozes
    return ClozeFormat(clozes.representation, clozes.explain, tuple(worlds), tuple(names), clozes.history)


# ----------------------------------------------------------------------------------------------- the folder of a run


class _Identity(BaseModel):
    """``run.json``: by its id a checkpoint knows the run it belongs to.

    ``data`` has what the run began with: the digest of every folder of shards and file of questions, by its address.
    """

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    data: dict[str, str]


def begin(config: Config, data: Mapping[str, str]) -> None:
    """Turn the output into the folder of a new run: whatever an earlier one left is removed.

    Args:
        data: digests of what it trains on; see :attr:`vagen.data.questions.TrainingStream.digests`.
    """
    output = Path(config.output)
    (output / RUN).unlink(missing_ok=True)  # first: a folder is a run while it has this, and the rest with it
    for folder in (CHECKPOINTS, "tensorboard", "collected"):
        shutil.rmtree(output / folder, ignore_errors=True)
    for file in ("metrics.jsonl", "environment.json"):
        (output / file).unlink(missing_ok=True)
    save(config, output / CONFIG)
    write_json(output / RUN, {"id": uuid.uuid4().hex, "data": dict(data)})


def known_id(run: Path) -> str:
    """The id of a run.

    Raises:
        ConfigError: the folder holds no run, or a damaged one.
    """
    return _identity(run).id


def _identity(run: Path) -> _Identity:
    try:
        return _Identity.model_validate_json((run / RUN).read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{run} has no checkpoint to go on from, and no {RUN}: start a run there without --resume"
        ) from None
    except (OSError, ValidationError):
        raise ConfigError(f"{run / RUN} cannot be read: restore it, or start anew with --overwrite") from None


def await_id(run: Path) -> str:
    """The id that another process, maybe on another node, has just written.

    Raises:
        ConfigError: it does not appear.
    """
    deadline = time.monotonic() + SHARED_SECONDS
    while not (run / RUN).exists():
        if time.monotonic() > deadline:
            raise ConfigError(f"{run} is not on a file system that all nodes share: choose an output that is")
        time.sleep(0.2)
    return known_id(run)


def number_of(id: str) -> int:
    """A number, below 2^48, by which processes can tell whether they mean the same run."""
    return int(id[:12], 16)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder while this one writes to it.

    Raises:
        ConfigError: another one does.
    """
    with (run / LOCK).open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(f"another training is writing to {run}: wait for it, or choose another output") from None
        yield


def latest_model(run: Path) -> Path:
    """The Hugging Face folder of a run's newest checkpoint.

    Raises:
        ModelError: the run has none.
    """
    found = models_of(run)
    if not found:
        raise ModelError(f"{run} has no checkpoint: give a run of `vagen train`, or a model folder with config.json")
    return found[max(found)]


def models_of(run: Path) -> dict[int, Path]:
    """The Hugging Face folders of a run's checkpoints by step, in their order."""
    found = (path.parent for path in (run / CHECKPOINTS).glob(f"step-*/{MODEL}/config.json"))
    return dict(sorted((step_of(model.parent), model) for model in found))


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was taken after, by its name; -1 for a folder of another kind."""
    number = checkpoint.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


# ------------------------------------------------------------------------------------------------- going on with a run


def changed_keys(before: Config, after: Config) -> list[str]:
    """The keys that differ and must not when a run goes on, in order."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [key for key in differing if not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)]


def _check_unchanged(config: Config, path: Path) -> None:
    before = load(path)
    if keys := changed_keys(before, config):
        old, new = dict(_leaves(before)), dict(_leaves(config))
        texts = ((key, json.dumps(old.get(key)), json.dumps(new.get(key))) for key in keys)
        changes = ", ".join(f"{key} ({there} there, {now} now)" for key, there, now in texts)
        raise ConfigError(
            f"--resume goes on with the configuration of {path}, and these keys differ: {changes}; "
            "give them the same values, or start another run"
        )


def _check_same_data(now: Mapping[str, str], run: Path) -> None:
    before = _identity(run).data
    if before != now:
        changed = [address for address in {**before, **now} if before.get(address) != now.get(address)]
        raise ConfigError(
            f"--resume goes on with the data that {run} began with, and these have changed since: "
            f"{', '.join(changed)}; bring them back, or start another run"
        )


def _leaves(section: Section) -> Iterator[tuple[str, Any]]:
    """Every dotted key with its value."""
    stack = list(section.model_dump(mode="json").items())
    while stack:
        key, value = stack.pop(0)
        if isinstance(value, dict) and value:
            stack = [(f"{key}.{name}", inner) for name, inner in value.items()] + stack
        else:
            yield key, value

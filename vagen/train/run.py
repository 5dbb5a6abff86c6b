"""A run's folder and inputs: what can be known about a run without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vagen.cloze.sample import simulator
from vagen.config import Config, ConfigError, Train
from vagen.data.stream import ClozeStream
from vagen.files import ensure_folder
from vagen.policy.policy import ClozeFormat, ModelError, check_path

Start = Literal["new", "resume", "overwrite"]
CHECKPOINTS = "checkpoints"
MODEL = "model"  # the Hugging Face folder inside a checkpoint


def prepare(config: Config, ranks: int, start: Start) -> ClozeStream:
    """Check everything that can be wrong with a run's inputs before anything starts; returns its data.

    Args:
        start: what to do about an earlier run in the same output.

    Raises:
        ConfigError, DataError, ClozeError, ModelError, OutputError: what is wrong, where, and how to mend it.
    """
    stream = open_stream(config)
    micro_batches(config.train, ranks)
    output = Path(config.output)
    if start == "new" and (output / CHECKPOINTS).exists():
        raise ConfigError(f"{output} already holds a run: add --resume or --overwrite, or choose another output")
    if start == "resume":
        latest_model(output)
    ensure_folder(output)
    return stream


def open_stream(config: Config) -> ClozeStream:
    """The data of a run, checked against its model."""
    length = config.train.steps * config.train.rows
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture, length, config.data)
    if config.model.path is not None:
        check_path(config.model.path)
    else:
        for world in stream.worlds:
            _check_size(world, config.model.tiny.image_size)
    return stream


def micro_batches(train: Train, ranks: int) -> int:
    """Forward passes per process and step.

    Raises:
        ConfigError: rows do not divide evenly.
    """
    if train.rows % (ranks * train.micro_rows):
        raise ConfigError(
            f"train.rows={train.rows} is not a multiple of {ranks} processes times train.micro_rows={train.micro_rows}"
        )
    return train.rows // (ranks * train.micro_rows)


def _check_size(world: str, size: int) -> None:
    """Refuse a world whose frames the tiny model's processor would have to resize."""
    height, width, _ = simulator(world).observation_space.shape or (0, 0, 0)
    if {height, width} != {size}:
        raise ModelError(
            f"world {world!r} draws {width}x{height} pixels and the tiny model sees {size}x{size}: set "
            f"--model.tiny.image_size, and train worlds of one size together"
        )


def cloze_format(config: Config, stream: ClozeStream) -> ClozeFormat:
    """How a run writes its clozes."""
    clozes = config.clozes
    return ClozeFormat(clozes.representation, clozes.explain, stream.worlds, tuple(clozes.weights))


def latest_model(run: Path) -> Path:
    """The Hugging Face folder of a run's newest checkpoint.

    Raises:
        ModelError: the run has none.
    """
    found = sorted((run / CHECKPOINTS).glob(f"step-*/{MODEL}/config.json"))
    if not found:
        raise ModelError(f"{run} has no checkpoint: give a run of `vagen train`, or a model folder with config.json")
    return found[-1].parent

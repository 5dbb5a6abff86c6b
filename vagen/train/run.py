"""A run's folder and inputs: what can be known about a run without an engine."""

from __future__ import annotations

from pathlib import Path

from vagen.config import Config
from vagen.data.stream import ClozeStream
from vagen.policy.policy import ClozeFormat, ModelError

CHECKPOINTS = "checkpoints"
MODEL = "model"  # the Hugging Face folder inside a checkpoint


def open_stream(config: Config) -> ClozeStream:
    """The data of a run; everything that can be wrong with it is found here, before anything starts."""
    return ClozeStream(config.shards, config.clozes, config.seed)


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

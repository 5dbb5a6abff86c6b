"""Places that metrics go to beside the run's own file: TensorBoard, and wandb or trackio where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard.writer import SummaryWriter

from vagen.config import Config, ConfigError

EXTRAS = ("wandb", "trackio")  # reporters that are modules of the same name, installed on request


class Reporter(Protocol):
    """Something that shows numbers over steps."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Show the values of a step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class TensorBoard:
    """Event files in the run's folder.

    Args:
        step: the run goes on from here: what an earlier start wrote about later steps is dropped.
    """

    def __init__(self, run: Path, step: int):
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """A run at wandb or trackio, whose modules offer the same three functions; ``id`` keeps all starts together."""

    def __init__(self, module: Any, settings: Mapping[str, Any]):
        self._module = module
        module.init(**settings)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


def check_installed(names: Sequence[str]) -> None:
    """Refuse reporters whose packages are missing.

    Raises:
        ConfigError: names the first and how to install it.
    """
    for name in names:
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.report_to names {name}, which is not installed: pip install 'vagen-cloze[{name}]'"
            )


def start_reporters(config: Config, id: str, step: int) -> list[Reporter]:
    """Those that ``train.report_to`` names, for a run that begins or goes on at ``step``."""
    run = Path(config.output)
    shared = {"project": config.train.project, "config": config.model_dump(mode="json"), "resume": "allow"}
    settings: dict[str, dict[str, Any]] = {
        "wandb": {**shared, "id": id, "name": run.resolve().name, "dir": str(run)},
        "trackio": {**shared, "name": f"{run.resolve().name}-{id[:8]}"},  # which knows its runs by their name
    }
    return [
        TensorBoard(run, step) if name == "tensorboard" else Tracker(importlib.import_module(name), settings[name])
        for name in dict.fromkeys(config.train.report_to)
    ]

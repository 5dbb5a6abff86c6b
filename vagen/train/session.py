"""How every training begins, whatever it learns from: one run in a folder, known to all its processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from vagen.config import Config, ConfigError, save
from vagen.train.checkpoints import Checkpoints
from vagen.train.engine import barrier, largest
from vagen.train.run import CONFIG, Start, await_id, begin, held, number_of


def open_run(
    stack: ExitStack, config: Config, start: Start, data: Mapping[str, str], rank: int, ranks: int
) -> tuple[str, Checkpoints]:
    """Enter the folder of a run whose inputs have been checked; all processes call this.

    Args:
        stack: holds the folder until it is closed.
        data: digests of what the run trains on; see :func:`vagen.train.run.begin`.

    Returns:
        The run's id, and its checkpoints.

    Raises:
        ConfigError: the folder is not one that all nodes share, or another training writes to it.
    """
    barrier()  # nobody writes before everybody has looked
    output = Path(config.output)
    if rank == 0:
        stack.enter_context(held(output))
        if start == "resume":
            save(config, output / CONFIG)
        else:
            begin(config, data)
    barrier()
    id = await_id(output)
    if largest(number_of(id)) != number_of(id):
        raise ConfigError(f"{output} is not on a file system that all nodes share: choose an output that is")
    checkpoints = Checkpoints(output, id, rank, ranks)
    if rank == 0:
        checkpoints.clean()
    return id, checkpoints

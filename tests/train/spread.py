"""What ``vagen train`` runs, but that ZeRO 3 takes small tensors apart too, which it would rather keep whole.

In models of the size of these tests that is all of them. A program of its own, since a launcher starts it.
"""

from __future__ import annotations

import sys
from typing import Any

from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

from vagen import cli
from vagen.train import engine

plain, step, update = engine._deepspeed_config, engine.Engine.step, engine.Engine.update


def spread(*arguments: Any) -> dict[str, Any]:
    """DeepSpeed's configuration, with no tensor so small that it stays whole."""
    config = plain(*arguments)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def check(self: engine.Engine) -> None:
    assert all(p.ds_status == ZeroParamStatus.NOT_AVAILABLE for p in self._engine.parameters()), "still whole"


def checked_step(self: engine.Engine, *arguments: Any) -> engine.StepResult:
    result = step(self, *arguments)
    check(self)
    return result


def checked_update(self: engine.Engine, *arguments: Any) -> float:
    norm = update(self, *arguments)
    check(self)
    return norm


if __name__ == "__main__":
    engine._deepspeed_config = spread
    engine.Engine.step, engine.Engine.update = checked_step, checked_update
    sys.exit(cli.main(["train", *sys.argv[1:]]))

"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES: tuple[str, ...] = ("data", "forward", "backward", "optimizer", "communication")


class Stopwatch:
    """Seconds spent in each phase of a step by this process.

    ``communication`` is waiting for the other processes where the loop itself exchanges numbers with them, uneven work
    included; the exchange of gradients and weights is part of the phase that causes it.

    Args:
        settle: waits until the device has done what it was told, without which the time of work on a GPU would be
            found in a later phase.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None):
        self._settle = settle
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's time as ``name``."""
        began = time.perf_counter()
        yield
        self._settle()
        self.seconds[name] += time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken

"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES: tuple[str, ...] = ("data", "vision", "language", "backward", "optimizer", "communication")


class Stopwatch:
    """Seconds spent in each phase of a step by this process.

    ``vision`` and ``language`` are the forward pass: the tower with the projector, and everything else.
    ``communication`` is waiting for the other processes where the loop itself exchanges numbers with them, uneven work
    included; the exchange of gradients and weights is part of the phase that causes it.

    Args:
        settle: waits until the device has done what it was told, without which the time of work on a GPU would be
            found in a later phase.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None):
        self._settle = settle
        self._running: list[str] = []  # phases that have begun, the innermost last
        self._since = 0.0  # when the innermost began, or went on
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's time as ``name``, but for that of phases within it."""
        self._turn()
        self._running.append(name)
        yield
        self._settle()
        self._turn()
        self._running.pop()

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _turn(self) -> None:
        """Give the time until now to the innermost phase."""
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

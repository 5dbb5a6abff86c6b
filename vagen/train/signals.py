"""Being asked to stop: SIGTERM and SIGINT become a wish that the loop looks at between steps."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While this context is open the first SIGTERM or SIGINT is remembered; a second SIGINT interrupts at once.

    Args:
        announce: whether this process says on standard error what will happen.
    """

    def __init__(self, announce: bool):
        self._announce = announce
        self._before: dict[signal.Signals, object] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._announce:
            print(f"vagen: {self.received.name}: saving a checkpoint after this step", file=sys.stderr, flush=True)


def ignore_stopping(_: int = 0) -> None:
    """For data loading processes: they end with the process they work for, however the signal reached them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

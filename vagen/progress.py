"""How far long work has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_PER_LINE = 15.0


class Progress:
    """Counts up to ``total``; on standard error, which keeps standard output for results.

    Args:
        total: how many units the work has.
        name: what is being done.
        unit: what is counted.
        start: units done before.
        shown: off for processes that are not to report.
    """

    def __init__(self, total: int, name: str, unit: str, start: int = 0, shown: bool = True):
        self.total, self.name, self.unit = total, name, unit
        self._done, self._shown = start, shown
        self._began = self._last_line = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(initial=start, total=total, desc=name, unit=f" {unit}") if terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int = 1, note: str = "") -> None:
        """``done`` more units are finished; ``note`` is shown beside the count."""
        self._done += done
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done)
        elif self._shown and time.monotonic() - self._last_line > SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._began
            print(
                f"{self.name}: {self._done}/{self.total} {self.unit} after {elapsed:.0f} s  {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


def tracked(items: Iterable[T], total: int, name: str, unit: str) -> Iterator[T]:
    """The items, counted as they are taken."""
    with Progress(total, name, unit) as progress:
        for item in items:
            yield item
            progress.update()

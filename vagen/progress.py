"""How far long work has come: a bar on a terminal; elsewhere plain lines, the last of them when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
FIRST_LINE, SECONDS_PER_LINE = 2.0, 15.0  # the first comes soon, and each waits twice as long as the one before


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
        self._done, self._note = start, ""
        self._began = self._last_line = time.monotonic()
        self._wait = FIRST_LINE
        terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(initial=start, total=total, desc=name, unit=f" {unit}") if terminal else None
        self._lines = shown and not terminal

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._lines and error is None:
            self._print()

    def update(self, done: int = 1, note: str = "") -> None:
        """``done`` more units are finished; ``note`` is shown beside the count."""
        self._done += done
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done)
        elif self._lines and self._done < self.total and time.monotonic() - self._last_line > self._wait:
            self._wait = min(2 * self._wait, SECONDS_PER_LINE)
            self._print()

    def _print(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._began
        line = f"{self.name}: {self._done}/{self.total} {self.unit} after {elapsed:.0f} s  {self._note}"
        print(line.rstrip(), file=sys.stderr, flush=True)


def tracked(items: Iterable[T], total: int, name: str, unit: str) -> Iterator[T]:
    """The items, counted as they are taken."""
    with Progress(total, name, unit) as progress:
        for item in items:
            yield item
            progress.update()

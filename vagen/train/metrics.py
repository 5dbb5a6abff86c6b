"""Where training says how it goes: JSONL, other reporters, a progress bar or plain lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from vagen.files import write_text_atomically
from vagen.progress import Progress
from vagen.train.reporters import Reporter


class Metrics:
    """Writes metrics of a run.

    Args:
        output: the run's folder; ``metrics.jsonl`` gets one object per report.
        start: step the run starts at.
        total: step the run ends at.
        reporters: which get them too, and are closed at the end.
    """

    def __init__(self, output: Path, start: int, total: int, reporters: Sequence[Reporter]):
        path = output / "metrics.jsonl"
        _keep_until(path, start)
        self._file = path.open("a", encoding="utf-8")
        self._reporters = reporters
        self._progress = Progress(total, "train", "steps", start)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        for reporter in self._reporters:
            reporter.close()
        self._file.close()

    def advance(self, loss: float | None) -> None:
        """One step is done; without a loss where there was nothing to learn from."""
        self._progress.update(note="loss –" if loss is None else f"loss {loss:.4f}")

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for reporter in self._reporters:
            reporter.report(step, values)


def _keep_until(path: Path, step: int) -> None:
    """Drop reports after ``step``: a run resumed there makes them again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() and step else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_text_atomically(path, "".join(kept))

"""Where training says how it goes: JSONL, TensorBoard, a progress bar or plain lines."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard.writer import SummaryWriter

from vagen.progress import Progress


class Metrics:
    """Writes metrics of a run; on processes that are not to report, does nothing.

    Args:
        output: the run's folder; ``metrics.jsonl`` gets one object per report.
        start: step the run starts at.
        total: step the run ends at.
        active: whether this process reports.
    """

    def __init__(self, output: Path, start: int, total: int, active: bool):
        self._active = active
        if not active:
            return
        self._file = (output / "metrics.jsonl").open("a" if start else "w", encoding="utf-8")
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=start)
        self._progress = Progress(total, "train", "steps", start)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._progress.__exit__(kind, error, trace)
            self._board.close()
            self._file.close()

    def advance(self, loss: float) -> None:
        """One step is done."""
        if self._active:
            self._progress.update(note=f"loss {loss:.4f}")

    def report(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of a step."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

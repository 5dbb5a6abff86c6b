"""Where training says how it goes: JSONL, TensorBoard, a progress bar or plain lines."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard.writer import SummaryWriter

from vagen.files import write_text_atomically
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
        path = output / "metrics.jsonl"
        _keep_until(path, start)
        self._file = path.open("a", encoding="utf-8")
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


def _keep_until(path: Path, step: int) -> None:
    """Drop reports after ``step``: a run resumed there makes them again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() and step else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_text_atomically(path, "".join(kept))

"""Where training says how it goes: JSONL, TensorBoard, a progress bar or plain lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm


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
        self._total = total
        self._bar = tqdm(initial=start, total=total, desc="train", disable=not sys.stderr.isatty())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._bar.close()
            self._board.close()
            self._file.close()

    def advance(self) -> None:
        """One step is done."""
        if self._active:
            self._bar.update()

    def report(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of a step."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        brief = f"loss {values['loss']:.4f}  clozes/s {values['clozes_per_second']:.0f}"
        if sys.stderr.isatty():
            self._bar.set_postfix_str(brief)
        else:
            print(f"train: step {step}/{self._total}  {brief}", file=sys.stderr, flush=True)

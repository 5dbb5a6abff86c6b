"""Ways of doing the same in processes of their own, which wait while the others are measured.

So each has an environment of its own, and its memory can be told from that of the others. The processes speak JSON, a
line at a time: :class:`Serving` is their side, :class:`Worker` that of the benchmark.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = ROOT / "build" / "peers" / "bin" / "python"


class Serving:
    """The side of a process that is measured; what it prints elsewhere goes to standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # libraries print; standard output is for answers

    def ready(self, **about: Any) -> None:
        """Say that everything is set up, with whatever the benchmark is to know."""
        self._say(about)

    def asked(self) -> bool:
        """Wait for the next turn; false when there is none."""
        return bool(sys.stdin.readline())

    def done(self, units: int) -> None:
        """Say how much was done in this turn."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._say({"units": units, "peak": peak})

    def serve(self, work: Callable[[], int], **about: Any) -> None:
        """Do the work once to warm up, and then whenever it is asked for."""
        work()
        self.ready(**about)
        while self.asked():
            self.done(work())

    def _say(self, message: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()


class Worker:
    """A process that does a unit of work whenever it is called.

    Attributes:
        about: what it said when it was ready.
        peak: bytes of memory it held at most, as far as is known.
    """

    def __init__(self, python: Path | str, script: str, arguments: Sequence[str], cores: int):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [str(python), str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._name = f"{script} {' '.join(arguments)}"
        self.about = self._answer()
        self.peak = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def __call__(self) -> int:
        """Have a unit of work done; says how much that was."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.peak = answer["peak"]
        return answer["units"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name} ended with exit code {self._process.wait()}; what it said is above")
        return json.loads(line)


def peers_python() -> Path:
    """The interpreter of the peers' environment.

    Raises:
        SystemExit: it is not there.
    """
    if not PEERS.is_file():
        print(f"no {PEERS.relative_to(ROOT)}: make it with `bash scripts/bench/peers.sh`", file=sys.stderr)
        raise SystemExit(2)
    return PEERS

"""Starting the training loop in several processes on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from vagen.config import environment


def launched() -> bool:
    """Whether a launcher (deepspeed, torchrun, SLURM through either) started this process."""
    return "RANK" in os.environ


def run_processes(processes: int, arguments: Sequence[str]) -> int:
    """Run ``vagen train ARGUMENTS`` in ``processes`` processes and return the exit code.

    On CPU every process gets its share of the cores: threads that wait for another process only get in its way.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        *("-m", "vagen.cli", "train", *arguments),
    ]
    return subprocess.run(command, env=environment({"OMP_NUM_THREADS": threads}), check=False).returncode

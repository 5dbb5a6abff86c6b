"""Starting the training loop in several processes on one machine, and watching over them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from vagen.config import environment
from vagen.train.ranks import free_port, slurm_ranks
from vagen.train.signals import STOPPING

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for the others, once one process has failed: they may say more, or wait for it for ever
STOPPED = {128 + number for number in STOPPING}  # exit codes of processes that were asked to stop, and did


def launched() -> bool:
    """Whether a launcher (this one, deepspeed, torchrun, or SLURM) started this process as one of several."""
    return "RANK" in os.environ or bool(slurm_ranks(os.environ))


def run_processes(processes: int, arguments: Sequence[str]) -> int:
    """Run ``vagen train ARGUMENTS`` in ``processes`` processes of this machine and return the exit code.

    SIGTERM and SIGINT are handed on. When one process fails the others are ended. On CPU every process gets its share
    of the cores: threads that wait for another process only get in its way.
    """
    shared = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    children: list[subprocess.Popen[bytes]] = []
    with _handed_on(children):
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "vagen.cli", "train", *arguments],
                    env=environment(shared | ranks),
                    start_new_session=True,  # a terminal's Ctrl-C reaches them once, through here
                )
            )
        return _supervise(children)


@contextmanager
def _handed_on(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Hand the signals that ask to stop on to the children."""

    def hand_on(number: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _supervise(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; returns the first exit code that is not 0. A signal's number n counts as 128 + n."""
    failed, deadline = 0, float("inf")
    while any(child.poll() is None for child in children):
        codes = [child.returncode for child in children if child.returncode]
        if codes and not failed:
            failed = codes[0]
            deadline = time.monotonic() + GRACE_SECONDS if failed not in STOPPED else float("inf")
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(POLL_SECONDS)
    failed = failed or next((child.returncode for child in children if child.returncode), 0)
    return 128 - failed if failed < 0 else failed

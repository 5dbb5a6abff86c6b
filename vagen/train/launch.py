"""Starting the training loop in several processes: on this machine, or as a step of SLURM."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from vagen.config import ConfigError, environment
from vagen.train.signals import STOPPING

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for the others, once one process has failed: they may say more, or wait for it for ever
STOPPED = {128 + number for number in STOPPING}  # exit codes of processes that were asked to stop, and did


def launched() -> bool:
    """Whether a launcher (this one, deepspeed, torchrun, or SLURM) started this process as one of several."""
    return "RANK" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ


def slurm_ranks(variables: Mapping[str, str]) -> dict[str, str]:
    """What torch wants to know of a process that ``srun`` started, from what SLURM says; empty for other processes.

    The first node of the step becomes the meeting point, unless ``MASTER_ADDR`` names another.

    Raises:
        ConfigError: the list of nodes cannot be read.
    """
    if "RANK" in variables or "SLURM_STEP_NUM_TASKS" not in variables:
        return {}
    tasks = re.match(r"\d+", variables.get("SLURM_STEP_TASKS_PER_NODE", ""))
    job = int(variables.get("SLURM_JOB_ID", "0")) * 31 + int(variables.get("SLURM_STEP_ID", "0"))
    ranks = {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": variables["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": variables["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks[0] if tasks else variables["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": _first_node(variables.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": str(20000 + job % 10000),
    }
    return {name: variables.get(name, value) if name.startswith("MASTER") else value for name, value in ranks.items()}


def _first_node(nodes: str) -> str:
    """The first name of a list such as ``gpu[003-005,9],cpu1``."""
    match = re.match(r"([^\[\],]+)(?:\[(\d+)[^\]]*\])?([^\[\],]*)", nodes)
    if not match:
        raise ConfigError(f"SLURM's list of nodes {nodes!r} cannot be read: set MASTER_ADDR to the first node")
    return "".join(part or "" for part in match.groups())


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


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

"""The place of a process among others: what torch reads from the environment, where no launcher has put it there."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from vagen.config import ConfigError


def slurm_ranks(variables: Mapping[str, str]) -> dict[str, str]:
    """What torch wants to know of a process that ``srun`` started, from what SLURM says; empty for other processes.

    The first node of the step becomes the meeting point, unless ``MASTER_ADDR`` names another.

    Raises:
        ConfigError: the list of nodes cannot be read.
    """
    if "RANK" in variables or int(variables.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
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


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""What a run was made with: the state of the code, package versions, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

import vagen
from vagen.files import write_json

FILE = "environment.json"
PACKAGES = ("torch", "transformers", "deepspeed", "peft", "tokenizers", "numpy", "webdataset", "gymnasium", "minigrid")


@dataclass(frozen=True)
class Checkout:
    """The git state of the code that ran.

    Attributes:
        commit: checked out.
        dirty: whether tracked files differ from it.
        diff: SHA-256 of their difference from it; None where there is none.
    """

    commit: str
    dirty: bool
    diff: str | None


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        step: it went on from; 0 for the beginning.
        processes: taking part.
        git: state of the checkout the code lies in; None for an installed package.
        versions: of packages by name, this one and Python included.
        system: operating system.
        cpu: model name of the processor.
        cores: this process may use.
        memory_bytes: of the machine.
        gpus: names of the GPUs this process sees.
    """

    step: int
    processes: int
    git: Checkout | None
    versions: dict[str, str]
    system: str
    cpu: str
    cores: int
    memory_bytes: int
    gpus: list[str]


_STARTS = TypeAdapter(list[Start])


def record(run: Path, step: int, processes: int) -> None:
    """Add this start to the run's ``environment.json``, which lists them in order."""
    start = Start(
        step=step,
        processes=processes,
        git=checkout(Path(vagen.__file__).parent),
        versions={"python": platform.python_version(), "vagen": vagen.__version__, **_versions()},
        system=platform.platform(),
        cpu=_cpu_name(),
        cores=available_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=[torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    )
    write_json(run / FILE, [asdict(each) for each in (*_earlier(run / FILE), start)])


def available_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def checkout(package: Path) -> Checkout | None:
    """The state of the git repository that tracks a package; None if none does (or git is not there to ask)."""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit, diff = _git(package, "rev-parse", "HEAD"), _git(package, "diff", "HEAD", "--", ":/")
    if commit is None or diff is None:
        return None
    return Checkout(commit.decode().strip(), bool(diff), hashlib.sha256(diff).hexdigest() if diff else None)


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints; None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _earlier(path: Path) -> list[Start]:
    """Starts listed before; a damaged list is begun anew, for nothing depends on it."""
    try:
        return _STARTS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return []

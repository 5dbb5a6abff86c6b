"""Timing ways of doing the same in turn, and the JSON line that benchmarks print.

Nothing here asserts how long anything takes: machines differ, so what counts is the ratio of two ways on the same one,
measured side by side several times.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROUNDS = 5  # of every way, by turns


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units of work per second; ``work`` does some and says how much."""
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        done += work()
    return done / spent


def rates(
    works: Mapping[str, Callable[[], int]], rounds: int = ROUNDS, seconds: float = 1.0, warm: bool = True
) -> dict[str, list[float]]:
    """Units per second of each way, once per round, the ways by turns.

    Args:
        seconds: how long each is repeated in a round; 0 does it once.
        warm: do each once before the first round, so that caches are filled and imports done.
    """
    for work in works.values() if warm else ():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            found[name].append(rate(work, seconds) if seconds else work() / (time.perf_counter() - began))
    return found


def comparison(
    what: str,
    peer: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    packages: Sequence[str],
    bound: float | None = None,
    versions: Mapping[str, str] | None = None,
    target: float | None = None,
    share: float | None = None,
) -> dict:
    """What a JSON line says: medians of both, and the median ratio of what was measured in one round, with its spread.

    Args:
        ours, theirs: units per second by round.
        packages: whose versions matter.
        bound: the largest ratio there can be, of which the share reached is given; ``None`` where none is known.
        versions: of packages in the peer's own environment.
        target: the ratio that is to be reached at least; ``None`` where none is aimed at.
        share: likewise, of the bound.
    """
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    ratio = statistics.median(ratios)
    return {
        "what": what,
        "peer": peer,
        "ours": _short(statistics.median(ours)),
        "theirs": _short(statistics.median(theirs)),
        "ratio": _short(ratio),
        "ratio_spread": [_short(ratios[0]), _short(ratios[-1])],
        "target": target,
        "bound": None if bound is None else _short(ratio / bound),
        "target_share": share,
        "machine": machine(),
        "versions": {
            "python": sys.version.split()[0],
            **{package: version(package) for package in packages},
            **(versions or {}),
        },
    }


def compare(
    what: str,
    peer: str,
    ours: Callable[[], int],
    theirs: Callable[[], int],
    packages: Sequence[str],
    rounds: int = ROUNDS,
    seconds: float = 1.0,
) -> str:
    """One JSON line about two ways of doing the same."""
    found = rates({"ours": ours, "theirs": theirs}, rounds, seconds)
    return json.dumps(comparison(what, peer, found["ours"], found["theirs"], packages))


def machine() -> str:
    """The processor, how many cores there are, and on how many this process may compute."""
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else cores
    used = int(os.environ.get("OMP_NUM_THREADS") or allowed)
    return f"{_processor()}, {cores} cores, {'all' if used == cores else used} used"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else f"{platform.machine()}, {platform.system()}"


def _short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")

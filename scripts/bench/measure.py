"""Timing two ways of doing the same in turn, and the JSON line that benchmarks print."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units of work per second; ``work`` does some and says how much."""
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        done += work()
    return done / spent


def compare(
    what: str,
    peer: str,
    ours: Callable[[], int],
    theirs: Callable[[], int],
    packages: Sequence[str],
    rounds: int = 5,
    seconds: float = 1.0,
) -> str:
    """One JSON line: median units per second of both, measured in turn, and the ratio with its least and largest."""
    for work in (ours, theirs):  # caches are filled, imports done
        work()
    pairs = [(rate(ours, seconds), rate(theirs, seconds)) for _ in range(rounds)]
    ratios = sorted(mine / other for mine, other in pairs)
    line = {
        "what": what,
        "peer": peer,
        "ours": round(statistics.median(mine for mine, _ in pairs)),
        "theirs": round(statistics.median(other for _, other in pairs)),
        "ratio": round(statistics.median(ratios), 1),
        "ratio_spread": [round(ratios[0], 1), round(ratios[-1], 1)],
        "machine": f"{platform.machine()}, {platform.system()}, one core",
        "versions": {
            "python": sys.version.split()[0],
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }
    return json.dumps(line)

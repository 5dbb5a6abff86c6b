"""Memory that a training step gives back is there for the next one."""

import os
import platform
import subprocess
import sys

import pytest

#: Allocates and frees what a step might, and counts the pages that the system had to provide from the second on.
STEPS = """
import resource
import numpy as np
from vagen.train.allocation import keep_freed_memory

print(keep_freed_memory())

def step():
    for _ in range(2):
        blocks = [np.ones(size, np.uint8) for size in (8_000_000, 3_000_000, 20_000_000)]
        del blocks

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def steps(**more: str) -> tuple[str, int]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=plain | more, capture_output=True, text=True, check=True, timeout=120
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such setting")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    kept, faults = steps()
    other, many = steps(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert (kept, other) == ("True", "False")
    assert faults * 10 < many, f"{faults} pages were asked for again, of {many} where nothing is kept"

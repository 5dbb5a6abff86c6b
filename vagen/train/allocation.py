"""What becomes of memory that training gives back between steps."""

from __future__ import annotations

import ctypes
import os
import platform

# Names of malloc.h, with how many bytes they are set to.
_TRIM_THRESHOLD, _KEPT = -1, 2**31 - 1  # free at the end of the heap, before it goes back to the system
_MMAP_THRESHOLD, _MAPPED = -3, 2**25  # blocks from here on are mapped by themselves; glibc takes no more


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the next step asks for as much: fresh pages are zeroed by the system.

    Returns:
        Whether it does: other libraries than glibc have no such setting, and one made by ``MALLOC_…`` is left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT)) and bool(mallopt(_MMAP_THRESHOLD, _MAPPED))

"""Memory as the system gives it: what is freed is kept, and how much there is.

For tensors of some megabytes that come and go many times a second: by default glibc gives their memory back to the
system, and a new tensor then costs a page fault for each 4 KB.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

__all__ = ["MALLOC", "available_memory", "keep_freed_memory"]

MALLOC = {"TRIM_THRESHOLD": 1 << 36, "MMAP_THRESHOLD": 32 << 20, "TOP_PAD": 64 << 20}
"""glibc's options, in bytes; 32 MB is the greatest that it takes for the second."""
_NUMBERS = {"TRIM_THRESHOLD": -1, "TOP_PAD": -2, "MMAP_THRESHOLD": -3, "MMAP_MAX": -4}
_INT_MAX = (1 << 31) - 1


def keep_freed_memory(of_any_size: bool = False) -> None:
    """Has this process keep what is freed for what is allocated next; where the C library is another, nothing.

    Args:
        of_any_size: Also blocks above 32 MB, as the gradients of a vocabulary's matrices are in training.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in {**MALLOC, **({"MMAP_MAX": 0} if of_any_size else {})}.items():
            mallopt(_NUMBERS[name], min(value, _INT_MAX))


def available_memory() -> int | None:
    """Returns the bytes that can still be allocated; None if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)

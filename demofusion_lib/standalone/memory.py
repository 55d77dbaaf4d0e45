"""How freed memory is kept on a CPU."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, up to 2 GiB, for the next block of that size. False where there is no glibc.

    It gives every block above 32 MiB back to the system at once, and a VAE that decodes 512 px frees dozens: half of its
    time went into fetching the same pages again.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(MMAP_MAX, 0) == 1 == mallopt(TRIM_THRESHOLD, 2**31 - 1)

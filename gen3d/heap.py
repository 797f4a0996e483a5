"""Memory that tensors leave behind, kept for the next ones.

The C library of Linux asks the system for every large block and gives it back when it is freed; the system
clears each page anew. Where tensors of some megabytes come and go at every step of a sampler, a fifth of the
time is spent on that (`benchmarks/heap.json`).
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of `mallopt` (malloc.h): bytes free at the top above which they go back, and the number of
blocks that may be mapped on their own."""
LARGEST = 2**31 - 1
"""That it takes: two gigabytes may stay at the top."""


def keep_freed() -> bool:
    """Use freed memory again in this process; whether the C library can be told so."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # Not glibc.
        return False
    return bool(mallopt(TRIM_THRESHOLD, LARGEST) and mallopt(MMAP_MAX, 0))

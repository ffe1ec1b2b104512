"""The C allocator's freed memory, handed back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def release_freed_memory() -> None:
    """Let the system have the pages that nobody uses; does nothing where the C library can't.

    glibc keeps what is freed, in holes that the next step's activations don't quite fit: resident
    memory grows to about twice what is in use, and Ray's memory monitor counts resident memory.
    """
    _trim()(0)


@cache
def _trim() -> Callable[[int], int]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return lambda _: 0

"""The C allocator's freed memory, handed back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def release_freed_memory() -> None:
    """Let the system have the pages that nobody uses; does nothing where the C library can't.

    glibc keeps what is freed, in holes that the next step's activations don't quite fit: resident
    memory grows to about twice what is in use, and Ray's memory monitor counts resident memory.
    """
    with suppress(AttributeError, OSError, TypeError):  # musl, macOS, Windows
        ctypes.CDLL(None).malloc_trim(0)

"""Ctrl-C, or the stop of a job: a run ends by it, also where a library has swallowed it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt while the block runs, and `check` raises it again.

    Python drops an exception that is raised in a destructor or a callback, and some code written in
    C clears whatever it meets; a signal that comes then would be lost, and Ray kills a job that
    doesn't stop. Elsewhere than in a main thread that minds SIGINT, nothing is changed.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _asked.clear()


def check() -> None:
    """Where a run's way goes on after an interruption, it ends.

    Raises:
        KeyboardInterrupt: in the main thread, if there has been a SIGINT in the block.
    """
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt

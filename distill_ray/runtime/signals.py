"""Ctrl-C, or the stop of a job: a run ends by it, whatever it is in the middle of."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_S = 0.1
"""For a destructor to end, before the signal that it swallowed is sent again."""

_asked, _held = threading.Event(), threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt while the block runs, and none is lost.

    Python drops an exception that is raised in a destructor ("Exception ignored in"): then the
    signal is sent again. Code written in C may clear one without a word: then `check` raises it.
    Elsewhere than in a main thread that minds SIGINT, nothing is changed.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    tell = sys.unraisablehook
    signal.signal(signal.SIGINT, _ask)
    sys.unraisablehook = lambda dropped: _dropped(dropped, tell)
    try:
        yield
    finally:
        sys.unraisablehook = tell
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _asked.clear()


@contextmanager
def held() -> Iterator[None]:
    """For what mustn't be left half done: SIGINT is raised behind the block, a second one in it."""
    _held.set()
    try:
        yield
    finally:
        _held.clear()
    check()


def check() -> None:
    """Where a run goes on after an interruption, it ends.

    Raises:
        KeyboardInterrupt: in the main thread, if there has been a SIGINT in the block.
    """
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _ask(number: int, frame: FrameType | None) -> None:
    first = not _asked.is_set()
    _asked.set()
    if not (first and _held.is_set()):
        raise KeyboardInterrupt


def _dropped(dropped: Any, tell: Any) -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        tell(dropped)
    elif threading.current_thread() is threading.main_thread():
        again = threading.Timer(AGAIN_S, _send)
        again.daemon = True
        again.start()


def _send() -> None:
    """To the main thread, so that it wakes whatever it waits in."""
    if _asked.is_set():
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

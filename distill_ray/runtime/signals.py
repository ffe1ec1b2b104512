"""Ctrl-C and the stop of a job: either ends a run, whatever it is doing."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_S = 0.1
"""Time for a destructor to end, before the signal that it swallowed is sent again."""

_interrupted, _deferred, _active = threading.Event(), threading.Event(), threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt while the block runs, and none is lost.

    Python drops an exception that is raised in a destructor ("Exception ignored in"): then the
    signal is sent again. C code may silently clear one: then `raise_if_interrupted` raises it.
    The block changes nothing outside the main thread, or where the process ignores SIGINT.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    previous_hook = sys.unraisablehook
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = lambda dropped: _resend_dropped(dropped, previous_hook)
    _active.set()
    try:
        yield
    finally:
        _active.clear()
        sys.unraisablehook = previous_hook
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _interrupted.clear()


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Defer a first SIGINT to the end of the block; a second one interrupts the block."""
    _deferred.set()
    try:
        yield
    finally:
        _deferred.clear()
    raise_if_interrupted()


def raise_if_interrupted() -> None:
    """End a run that goes on although a SIGINT came.

    Raises:
        KeyboardInterrupt: in the main thread, after a SIGINT in an `interruptible` block.
    """
    if _interrupted.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def interrupt_main_thread() -> None:
    """Do as Ctrl-C does if the main thread is in an `interruptible` block."""
    if _active.is_set():
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    is_first = not _interrupted.is_set()
    _interrupted.set()
    if not (is_first and _deferred.is_set()):
        raise KeyboardInterrupt


def _resend_dropped(dropped: Any, previous_hook: Any) -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        previous_hook(dropped)
    elif threading.current_thread() is threading.main_thread():
        timer = threading.Timer(AGAIN_S, _send_sigint)
        timer.daemon = True
        timer.start()


def _send_sigint() -> None:
    """Signal the main thread, which wakes it from whatever it waits for."""
    if _interrupted.is_set():
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

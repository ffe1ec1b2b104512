"""This machine's folder of what can be made again: copies of remote files, converted models."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """`DISTILL_RAY_CACHE`, or a folder in the home; made if it isn't there."""
    base = os.environ.get("DISTILL_RAY_CACHE") or Path.home() / ".cache" / "distill_ray"
    folder = Path(base)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached_folder(name: str, fill: Callable[[Path], None]) -> Path:
    """The cache's folder of this name: there whole or not at all, for any number of processes.

    Args:
        name: what identifies the content.
        fill: called with an empty folder when the cache hasn't got it yet.
    """
    target = cache_folder() / name
    if target.exists():
        return target
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix="part-"))
    try:
        fill(part)
        part.rename(target)
    except OSError:
        if not target.exists():  # Else another process was faster; its folder is as good.
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target

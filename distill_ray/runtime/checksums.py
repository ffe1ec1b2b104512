"""Check files against the SHA-256 digests that were taken when they were written.

A machine reads a file for its digest when it first opens the file. It records the result with the
file's size and time, and reads the file again only after it changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from distill_ray.config.cache import cache_folder
from distill_ray.config.checksums import mismatch
from distill_ray.config.errors import InputError, Problem

DAMAGED = "corrupt artifact:"
MISMATCH = "checksum mismatch."
REBUILD = "Delete {folder} and rerun to rebuild it."


class DamagedError(InputError):
    """A file is corrupt. A retry changes nothing, so it is no model's failure."""

    @classmethod
    def of(cls, place: str, what: str, folder: str) -> DamagedError:
        """The error about a file.

        Args:
            place: the file.
            what: what is wrong with the file.
            folder: the folder to delete.
        """
        problem = Problem(place, what, REBUILD.format(folder=folder))
        return cls(DAMAGED, [problem])


def damage(folder: Path, digests: Mapping[str, str]) -> str | None:
    """The first file that is missing or corrupt; None when all files match.

    Args:
        folder: an absolute path.
        digests: path below it → SHA-256.
    """
    known, checked = _checked_states(folder), {}
    for name, digest in sorted(digests.items()):
        file = folder / name
        state = [*_state(file), digest] if file.is_file() else []
        if (not state or known.get(name) != state) and mismatch(file, digest):
            return name
        checked[name] = state
    if any(known.get(name) != state for name, state in checked.items()):
        _record_states(folder, {**known, **checked})
    return None


def remember(folder: Path, digests: Mapping[str, str]) -> None:
    """Record digests that were just taken of the files."""
    states = {name: [*_state(folder / name), digest] for name, digest in digests.items()}
    _record_states(folder, states)


def _state(file: Path) -> Iterator[int]:
    stat = file.stat()
    yield from (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _record_file(folder: Path) -> Path:
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return cache_folder() / "checked" / f"{name}.json"


def _checked_states(folder: Path) -> dict[str, list[object]]:
    try:
        return dict(json.loads(_record_file(folder).read_text()))
    except (OSError, ValueError):
        return {}  # No record, or an unreadable one: files are read.


def _record_states(folder: Path, states: Mapping[str, list[object]]) -> None:
    record = _record_file(folder)
    try:
        record.parent.mkdir(exist_ok=True)
        handle, part = tempfile.mkstemp(dir=record.parent)
        with os.fdopen(handle, "w") as stream:
            json.dump(states, stream)
        Path(part).replace(record)
    except OSError:
        return  # A full cache costs time, not the run.

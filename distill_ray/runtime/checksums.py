"""Files against the digests that were taken when they were written.

A file is read for its digest the first time that a machine opens it; what was found is remembered
with the file's size and time, so that it is read again only after it changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from distill_ray.config.cache import cache_folder
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.fingerprint import file_sha256

DAMAGED = "an artifact is damaged:"
REMOVE = "Remove {folder}; the same command makes it again."


class DamagedError(InputError):
    """A file isn't what was written. Trying again changes nothing, so no model is to blame."""

    @classmethod
    def of(cls, place: str, what: str, folder: str) -> DamagedError:
        """The error about a file.

        Args:
            place: the file.
            what: what is wrong with it.
            folder: what to remove.
        """
        problem = Problem(place, what, REMOVE.format(folder=folder))
        return cls(DAMAGED, [problem])


def damage(folder: Path, digests: Mapping[str, str]) -> str | None:
    """The first file that isn't there or isn't what it was; None when all are.

    Args:
        folder: an absolute one.
        digests: path below it → SHA-256.
    """
    known, found = _remembered(folder), {}
    for name, digest in sorted(digests.items()):
        file = folder / name
        if not file.is_file():
            return name
        state = [*_state(file), digest]
        if known.get(name) != state and file_sha256(file) != digest:
            return name
        found[name] = state
    if any(known.get(name) != state for name, state in found.items()):
        _remember(folder, {**known, **found})
    return None


def remember(folder: Path, digests: Mapping[str, str]) -> None:
    """These digests have just been taken of the files as they are."""
    states = {name: [*_state(folder / name), digest] for name, digest in digests.items()}
    _remember(folder, states)


def _state(file: Path) -> Iterator[int]:
    stat = file.stat()
    yield from (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _note(folder: Path) -> Path:
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return cache_folder() / "checked" / f"{name}.json"


def _remembered(folder: Path) -> dict[str, list[object]]:
    try:
        return dict(json.loads(_note(folder).read_text()))
    except (OSError, ValueError):
        return {}  # Never seen, or a note of no use: files are read.


def _remember(folder: Path, states: Mapping[str, list[object]]) -> None:
    note = _note(folder)
    try:
        note.parent.mkdir(exist_ok=True)
        handle, part = tempfile.mkstemp(dir=note.parent)
        with os.fdopen(handle, "w") as stream:
            json.dump(states, stream)
        Path(part).replace(note)
    except OSError:
        return  # A cache without room costs time, not the run.

"""Identity by content: equal fingerprints mean equal work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill_ray.config.checksums import file_sha256


@dataclass(frozen=True)
class NotInFingerprint:
    """`Annotated[..., NotInFingerprint(why)]`: the field isn't in its section's fingerprint."""

    why: str


HOW_COMPUTED = "how it is computed, not what comes out"
WHERE_IT_RUNS = "where it runs, not what comes out"


@dataclass(frozen=True)
class OnlyWithTeacher:
    """`Annotated[..., OnlyWithTeacher()]`: without a teacher, nothing comes of the field."""


@dataclass(frozen=True)
class NotInStudy:
    """`Annotated[..., NotInStudy(why)]`: the field isn't in the identity of a study's trials."""

    why: str


@dataclass(frozen=True)
class NotInArm:
    """`Annotated[..., NotInArm(why)]`: it isn't in the identity of a schedule study's arms."""

    why: str


LENGTH = 12
"""Hex digits kept in folder names: 48 bits, ample for the artifacts of one run."""


def canonical(value: Any) -> str:
    """JSON with sorted keys; models are dumped by value."""

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else str(item)

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)


def identity(
    section: BaseModel, *, has_teacher: bool = True, whole_sections: bool = False
) -> dict[str, Any]:
    """A section as it enters a fingerprint: without the fields that say they don't.

    Args:
        section: a section, with all sections in it.
        has_teacher: whether fields marked `OnlyWithTeacher` count.
        whole_sections: whether the sections in it enter with all their fields.
    """
    also: tuple[type, ...] = () if has_teacher else (OnlyWithTeacher,)
    return identity_without(section, NotInFingerprint, *also, whole_sections=whole_sections)


def identity_without(
    section: BaseModel, *excluded: type, whole_sections: bool = False
) -> dict[str, Any]:
    """Dump a section, and the sections in it, without the fields that carry one of these marks."""
    dumped = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if any(isinstance(mark, excluded) for mark in field.metadata):
            del dumped[name]
        elif whole_sections:
            continue
        elif isinstance(value, BaseModel):
            dumped[name] = identity_without(value, *excluded)
        elif isinstance(value, tuple):
            dumped[name] = [
                identity_without(item, *excluded) if isinstance(item, BaseModel) else plain
                for item, plain in zip(value, dumped[name])
            ]
    return dumped


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON, shortened for use in paths."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:LENGTH]


SAMPLED_FROM = 1 << 28
"""Files from 256 MiB on are identified by their size and by samples of their bytes."""


def path_identity(path: Path) -> Any:
    """What identifies a local file or folder: the digest of each file's bytes."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(path).as_posix(): _identity(p) for p in files}
    return _identity(path) if path.exists() else None


def _identity(path: Path) -> str:
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int) -> str:
    """The digest of a file in this state; many artifacts ask for the same files."""
    if size < SAMPLED_FROM:
        return file_sha256(path)
    # Reading tens of gigabytes of weights at every start would take minutes: 64 blocks of 1 MiB,
    # the first and the last among them, tell any two checkpoints of a training apart.
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for i in range(64):
            stream.seek(i * (size - (1 << 20)) // 63)
            digest.update(stream.read(1 << 20))
    return digest.hexdigest()

"""Identity by content: equal fingerprints mean equal work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

LENGTH = 12
"""Hex digits kept in folder names: 48 bits, ample for the artifacts of one run."""


def canonical(value: Any) -> str:
    """JSON with sorted keys; models are dumped by value."""

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else str(item)

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON, shortened for use in paths."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:LENGTH]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def path_identity(path: Path) -> Any:
    """What identifies a local file or folder: the digest of each file's bytes."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(path).as_posix(): file_sha256(p) for p in files}
    return file_sha256(path) if path.exists() else None

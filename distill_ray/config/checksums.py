"""SHA-256 of files, streams and JSON: the one scheme of artifacts, checkpoints and storage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 22
"""A file is read in blocks of this size."""


def bytes_sha256(data: bytes) -> str:
    """SHA-256 of bytes in memory, as hex digits."""
    return hashlib.sha256(data).hexdigest()


def json_sha256(value: object) -> str:
    """SHA-256 of plain values, written as JSON with sorted keys."""
    return bytes_sha256(json.dumps(value, sort_keys=True).encode())


def stream_sha256(stream: BinaryIO) -> str:
    """SHA-256 of what is left to read in a binary stream."""
    digest = hashlib.sha256()
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return stream_sha256(stream)


def mismatch(file: Path, sha256: str, size_bytes: int | None = None) -> str | None:
    """Compare a file with the checksum that was taken when it was written.

    Args:
        file: where it should be.
        sha256: of its bytes.
        size_bytes: its length, if known: a truncated file is then detected without reading it.

    Returns:
        `is missing` or `isn't what was saved`; None for an intact file.
    """
    if not file.is_file():
        return "is missing"
    if size_bytes is not None and file.stat().st_size != size_bytes:
        return "isn't what was saved"
    return None if file_sha256(file) == sha256 else "isn't what was saved"

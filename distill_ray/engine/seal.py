"""Whether a checkpoint's files are those that were written: each rank seals its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SEAL = "seal-{rank}.json"


class TornError(Exception):
    """A checkpoint lacks something that its seals name, or has something else in its place."""


def seal(folder: Path, rank: int) -> None:
    """Write down the size and SHA-256 of each file in a rank's own folder; after all others."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): [path.stat().st_size, sha256(path)] for path in files}
    (folder / SEAL.format(rank=rank)).write_text(json.dumps(found))


def verify(folder: Path, world: int) -> None:
    """Compare a checkpoint with its seals.

    Args:
        folder: of all ranks that have written it.
        world: their number.

    Raises:
        TornError: a file or a seal is missing, cut off or changed; it says which.
    """
    for rank in range(world):
        name = SEAL.format(rank=rank)
        for path, (size, digest) in _sealed(folder / name).items():
            file = folder / path
            if not file.is_file():
                raise TornError(f"{path} is missing")
            if file.stat().st_size != size:
                raise TornError(f"{path} has {file.stat().st_size} bytes of {size}")
            if sha256(file) != digest:
                raise TornError(f"{path} has changed since it was written")


def _sealed(file: Path) -> dict[str, tuple[int, str]]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        return {path: (int(size), str(digest)) for path, (size, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise TornError(f"{file.name} is missing or cut off") from None


def sha256(file: Path) -> str:
    """Digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()

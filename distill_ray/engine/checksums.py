"""Checkpoints with digests: one that is torn, or of which a bit has flipped, is never loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from distill_ray.config.fingerprint import file_sha256

SEAL = "seal-{part}.json"


class UnsoundError(ValueError):
    """A checkpoint isn't what was saved."""


def seal(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Take the digests of all files of a folder; call it when they are written.

    Args:
        folder: one rank's part of a checkpoint; the parts merge in storage.
        part: which one, from 0.
        parts: how many make a checkpoint.
    """
    files = {name: _digest(folder / name) for name in _files(folder)}
    body = {"part": part, "parts": parts, "files": files}
    text = json.dumps({"digest": _of(body), **body}, indent=1)
    (folder / SEAL.format(part=part)).write_text(text)


def verify(folder: Path) -> None:
    """Refuse a checkpoint that isn't whole.

    Args:
        folder: with the parts of all ranks.

    Raises:
        UnsoundError: a part is missing, or a file isn't what it was; names the first one.
    """
    first = _read(folder, min(_parts(folder), default=0))
    for part in range(first["parts"]):
        body = first if part == first["part"] else _read(folder, part)
        if body["parts"] != first["parts"]:
            raise UnsoundError(f"{folder}: parts of two checkpoints")
        for name, (size, digest) in body["files"].items():
            file = folder / name
            if not file.is_file():
                raise UnsoundError(f"{file} is missing")
            # A file that was cut off is told without reading it.
            if file.stat().st_size != size or file_sha256(file) != digest:
                raise UnsoundError(f"{file} isn't what was saved")


def _read(folder: Path, part: int) -> dict[str, Any]:
    file = folder / SEAL.format(part=part)
    try:
        content = json.loads(file.read_text())
        body = {key: content[key] for key in ("part", "parts", "files")}
        sound = content["digest"] == _of(body) and body["part"] == part
    except FileNotFoundError:
        raise UnsoundError(f"{file} is missing: the checkpoint was cut off") from None
    except (OSError, ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise UnsoundError(f"{file} isn't what was saved")
    return body


def _parts(folder: Path) -> list[int]:
    names = [file.stem.partition("-")[2] for file in folder.glob(SEAL.format(part="*"))]
    return [int(name) for name in names if name.isdigit()]


def _files(folder: Path) -> list[str]:
    seals = {SEAL.format(part=part) for part in _parts(folder)}
    names = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name not in seals)


def _digest(file: Path) -> list[object]:
    return [file.stat().st_size, file_sha256(file)]


def _of(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

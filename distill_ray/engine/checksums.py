"""Checkpoints with checksums: a truncated one, or one with a flipped bit, is never loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill_ray.config.checksums import file_sha256, json_sha256, mismatch

SEAL = "seal-{part}.json"


class UnsoundError(ValueError):
    """A checkpoint isn't what was saved."""


def seal(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Write the checksums of a folder's files beside them; call it when the files are complete.

    Args:
        folder: one rank's part of a checkpoint; the parts merge in storage.
        part: which one, from 0.
        parts: how many parts make a checkpoint.
    """
    seals = {SEAL.format(part=number) for number in _sealed_parts(folder)}
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    files = {
        name: [(folder / name).stat().st_size, file_sha256(folder / name)]
        for name in names
        if name not in seals
    }
    body = {"part": part, "parts": parts, "files": files}
    text = json.dumps({"digest": json_sha256(body), **body}, indent=1)
    (folder / SEAL.format(part=part)).write_text(text)


def verify(folder: Path) -> None:
    """Refuse a checkpoint that isn't whole.

    Args:
        folder: with the parts of all ranks.

    Raises:
        UnsoundError: a part is missing, or a file changed; names the first one.
    """
    first = _read_seal(folder, min(_sealed_parts(folder), default=0))
    for part in range(first["parts"]):
        body = first if part == first["part"] else _read_seal(folder, part)
        if body["parts"] != first["parts"]:
            raise UnsoundError(f"{folder}: parts of two checkpoints")
        for name, (size, digest) in body["files"].items():
            if problem := mismatch(folder / name, digest, size):
                raise UnsoundError(f"{folder / name} {problem}")


def _read_seal(folder: Path, part: int) -> dict[str, Any]:
    file = folder / SEAL.format(part=part)
    try:
        content = json.loads(file.read_text())
        body = {key: content[key] for key in ("part", "parts", "files")}
        sound = content["digest"] == json_sha256(body) and body["part"] == part
    except FileNotFoundError:
        raise UnsoundError(f"{file} is missing: the checkpoint was cut off") from None
    except (OSError, ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise UnsoundError(f"{file} isn't what was saved")
    return body


def _sealed_parts(folder: Path) -> list[int]:
    names = [file.stem.partition("-")[2] for file in folder.glob(SEAL.format(part="*"))]
    return [int(name) for name in names if name.isdigit()]

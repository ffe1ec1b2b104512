"""Checks of an untrusted model folder: its JSON files, weight headers and links.

Nothing here runs code or unpickles. Safetensors: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from distill_ray.config.errors import Problem

LARGEST_JSON = 1 << 28
"""Most bytes of a JSON file; tokenizers of large vocabularies have some ten million."""
LARGEST_HEADER = 100_000_000
"""Most bytes of a header, as in the safetensors library."""
DESCRIPTIONS = ("config.json", "tokenizer.json")
INDEX = "*.safetensors.index.json"
FIX = "Get the model again, or give a folder that you trust."


def folder_problems(folder: Path, where: str) -> list[Problem]:
    """Find what makes a folder unsafe to open: links and names that lead out of it, or garbage.

    Weights that are cut off are left to the audit, which goes on without the model.
    """
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not _stays_inside(file, folder):
            what = f"{file} is a link to {file.resolve()}, out of the model's folder."
            return [Problem(where, what, FIX)]
    reasons = []
    descriptions = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
    for file in (*descriptions, *sorted(folder.glob(INDEX))):
        try:
            content = read_json(file)
        except (OSError, ValueError) as error:
            reasons.append(f"{file} can't be read ({error})")
            continue
        # An index may name files of its own folder only.
        names = content.get("weight_map", {}) if file.name not in DESCRIPTIONS else {}
        if not isinstance(names, dict):
            reasons.append(f"{file} has no map of weights")
            continue
        for name in sorted({str(name) for name in names.values()}):
            if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
                reasons.append(f"{file} names {name!r}, which isn't a file of the model's folder")
                break
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors_of(file)
        except (OSError, ValueError) as error:
            reasons.append(str(error))
    return [Problem(where, f"{reason}.", FIX) for reason in reasons[:3]]


def _stays_inside(link: Path, folder: Path) -> bool:
    """Whether a link leads into its folder, or into the hub cache that the folder is part of."""
    target, root = link.resolve(), folder.resolve()
    snapshot = root.parent.name == "snapshots"
    return target.is_relative_to(root) or (
        snapshot and target.is_relative_to(root.parent.parent / "blobs")
    )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: the file can't be read.
        ValueError: it holds no JSON object, or one that is too large or nested too deep.
    """
    if file.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{file.name} is larger than {LARGEST_JSON >> 20} MiB")
    return _object(file.read_bytes(), file.name)


def tensors_of(file: Path) -> dict[str, list[int]]:
    """Read the shapes of a safetensors file's tensors from its header: u64 length, then JSON.

    Raises:
        ValueError: the header is garbage.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        begin = stream.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else size
        if length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{file} is damaged: its header doesn't fit")
        try:
            header = _object(stream.read(length), "its header")
            shapes = {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
            if not all(type(n) is int and n >= 0 for shape in shapes.values() for n in shape):
                raise ValueError("a shape isn't one")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file} is damaged ({error})") from None
    return shapes


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object")
    return value

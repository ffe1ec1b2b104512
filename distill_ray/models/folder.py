"""Checks of an untrusted model folder: its JSON files, weight headers and links.

Nothing here runs code or unpickles. Safetensors: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_ray.config.errors import Problem

LARGEST_JSON = 1 << 28
"""Bytes; tokenizers of large vocabularies have some ten million."""
LARGEST_HEADER = 100_000_000
"""Bytes, as the safetensors library has it."""
DESCRIPTIONS = ("config.json", "tokenizer.json")
INDEX = "*.safetensors.index.json"


def folder_problems(folder: Path, where: str) -> list[Problem]:
    """What makes a folder unfit to be opened: files that lie elsewhere, or that are garbage.

    Weights that are cut off are left to the audit, which goes on without the model.
    """
    return [Problem(where, f"{what}.", FIX) for what in _unfit(folder)][:3]


FIX = "Get the model again, or give a folder that you trust."


def _unfit(folder: Path) -> Iterator[str]:
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not _stays(file, folder):
            yield f"{file} is a link to {file.resolve()}, out of the model's folder"
            return
    described = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
    for file in (*described, *sorted(folder.glob(INDEX))):
        try:
            content = read_json(file)
        except (OSError, ValueError) as error:
            yield f"{file} can't be read ({error})"
            continue
        yield from _outside(file, content)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors_of(file)
        except (OSError, ValueError) as error:
            yield str(error)


def _stays(link: Path, folder: Path) -> bool:
    """Within the folder, or within the cache of the Hugging Face hub that it is a snapshot of."""
    target, root = link.resolve(), folder.resolve()
    snapshot = root.parent.name == "snapshots"
    return target.is_relative_to(root) or (
        snapshot and target.is_relative_to(root.parent.parent / "blobs")
    )


def _outside(file: Path, content: Any) -> Iterator[str]:
    """An index may name files of its own folder alone."""
    names = content.get("weight_map", {}) if file.name not in DESCRIPTIONS else {}
    if not isinstance(names, dict):
        yield f"{file} has no map of weights"
        return
    for name in sorted({str(name) for name in names.values()}):
        if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            yield f"{file} names {name!r}, which isn't a file of the model's folder"
            return


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        OSError: it can't be read.
        ValueError: it is none, or too large, or nested too deep.
    """
    if file.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{file.name} is larger than {LARGEST_JSON >> 20} MiB")
    return _object(file.read_bytes(), file.name)


def tensors_of(file: Path) -> dict[str, list[int]]:
    """Tensor → shape of a safetensors file, from its header: u64 length, then JSON.

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

"""How far what a disturbed run made is from what the undisturbed one made. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_ray.bench.chaos.config import NAME

MEANT = {"distill": "checkpoints/", "probe": "outcome.json"}
"""Stage → beginning of the names of the files that are its result."""
TIMES = ("_s", "seconds")
"""Ends of the keys of figures that no two runs share."""


def differences(stage: str, expected_folder: Path, actual_folder: Path) -> dict[str, float]:
    """Of each file of a stage's results, below one undisturbed and one disturbed storage.

    Returns:
        Path → 0 for equal bytes (or equal figures, times apart), else the largest difference of
        two weights as a share of the tensor's largest, infinity where files aren't of one kind.
    """
    result = {}
    for place in sorted((expected_folder / NAME / stage).glob("*/manifest.json")):
        own = actual_folder / place.relative_to(expected_folder)
        expected_files = json.loads(place.read_text())["files"]
        actual_files = json.loads(own.read_text())["files"] if own.is_file() else {}
        for name, digest in expected_files.items():
            if name.startswith(MEANT[stage]):
                same = actual_files.get(name) == digest
                apart = 0.0 if same else _apart(place.parent / name, own.parent / name)
                result[f"{place.parent.name}/{name}"] = apart
    return result


def _apart(expected_file: Path, actual_file: Path) -> float:
    if not actual_file.is_file():
        return math.inf
    if expected_file.suffix == ".safetensors":
        return _weights_apart(expected_file, actual_file)
    if expected_file.suffix == ".json":
        same = timeless(json.loads(expected_file.read_text())) == timeless(
            json.loads(actual_file.read_text())
        )
        return 0.0 if same else math.inf
    return math.inf


def _weights_apart(expected_file: Path, actual_file: Path) -> float:
    """max |a - b| / max |a| over all tensors."""
    import numpy as np
    from safetensors.numpy import load_file

    expected, weights = load_file(expected_file), load_file(actual_file)
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in weights.items()}:
        return math.inf
    return max(
        float(np.abs(weights[name] - tensor).max() / np.abs(tensor).max())
        for name, tensor in expected.items()
    )


def timeless(value: Any) -> Any:
    """Plain data without what tells how long something took."""
    if isinstance(value, dict):
        return dict(_timeless_items(value))
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def _timeless_items(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if not key.endswith(TIMES):
            yield key, timeless(inner)

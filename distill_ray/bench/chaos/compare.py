"""How far the results of a disturbed run are from the undisturbed run's. Imports no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from distill_ray.bench.chaos.config import NAME

RESULT_FILES = {"distill": "checkpoints/", "probe": "outcome.json"}
"""Stage → prefix of the names of the files that are its result."""
TIME_SUFFIXES = ("_s", "seconds")
"""Suffixes of the keys of durations, which no two runs share."""


def differences(stage: str, expected_folder: Path, actual_folder: Path) -> dict[str, float]:
    """Compare each file of a stage's results in an undisturbed and a disturbed storage.

    Returns:
        File → 0 for equal digests, else its `file_difference`.
    """
    by_file = {}
    for expected_manifest in sorted((expected_folder / NAME / stage).glob("*/manifest.json")):
        actual_manifest = actual_folder / expected_manifest.relative_to(expected_folder)
        expected, actual = expected_manifest.parent, actual_manifest.parent
        expected_files = json.loads(expected_manifest.read_text())["files"]
        has_manifest = actual_manifest.is_file()
        actual_files = json.loads(actual_manifest.read_text())["files"] if has_manifest else {}
        for name, digest in expected_files.items():
            if name.startswith(RESULT_FILES[stage]):
                same = actual_files.get(name) == digest
                difference = 0.0 if same else file_difference(expected / name, actual / name)
                by_file[f"{expected.name}/{name}"] = difference
    return by_file


def file_difference(expected_file: Path, actual_file: Path) -> float:
    """How far two files differ.

    Returns:
        Of weights, max |a - b| / max |a| over all tensors. Of JSON, 0 where all but durations is
        equal. Otherwise infinity.
    """
    if not actual_file.is_file():
        return math.inf
    if expected_file.suffix == ".json":
        expected_data, actual_data = (
            timeless(json.loads(file.read_text())) for file in (expected_file, actual_file)
        )
        return 0.0 if expected_data == actual_data else math.inf
    if expected_file.suffix != ".safetensors":
        return math.inf

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
    """Plain data without its durations."""
    if isinstance(value, dict):
        return {k: timeless(inner) for k, inner in value.items() if not k.endswith(TIME_SUFFIXES)}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value

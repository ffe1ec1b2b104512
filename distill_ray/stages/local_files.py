"""What a process reads, brought to its machine. Knows no Ray."""

from __future__ import annotations

import json
from dataclasses import replace

from distill_ray.models.ref import ModelRef
from distill_ray.runtime.storage import Storage

CURVE = "curve.json"
"""A finished training's account of itself."""
SWITCHES = "switches.json"
"""Beside it, for one that had a teacher: every switch and assessment, with its reason."""
BEST = "best"
"""Instead of a checkpoint's number: the one with the least validation loss."""


def local_ref(ref: ModelRef) -> ModelRef:
    """A ref whose files are on this machine; artifacts' URIs are fetched."""
    location = _fetched(ref.location) if ref.kind == "path" else ref.location
    adapter = None if ref.adapter is None else _fetched(ref.adapter)
    return replace(ref, location=location, adapter=adapter)


def _fetched(uri: str) -> str:
    uri = _numbered(uri)
    return str(Storage(uri).get()) if "://" in uri else uri


def _numbered(uri: str) -> str:
    """A checkpoint's folder, where the best one is asked for by that name."""
    place, question, query = uri.partition("?")
    job, _, name = place.rpartition("/checkpoints/")
    if name != BEST:
        return uri
    best = json.loads(Storage(f"{job}{question}{query}").read_bytes(CURVE))["best"]
    return f"{job}/checkpoints/{best}{question}{query}"

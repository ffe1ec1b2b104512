"""What a process reads, brought to its machine. Knows no Ray."""

from __future__ import annotations

from dataclasses import replace

from distill_ray.models.ref import ModelRef
from distill_ray.runtime.manifest import has_manifest, local_folder
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.curve import Curve

BEST = "best"
"""Instead of a checkpoint's number: the one with the least validation loss."""


def local_ref(ref: ModelRef) -> ModelRef:
    """A ref whose files are on this machine; artifacts' URIs are fetched."""
    location = _fetched(ref.location) if ref.kind == "path" else ref.location
    adapter = None if ref.adapter is None else _fetched(ref.adapter)
    return replace(ref, location=location, adapter=adapter)


def _fetched(uri: str) -> str:
    place, question, query = uri.partition("?")
    job, _, name = place.rpartition("/checkpoints/")
    if not job:
        return str(Storage(uri).get()) if "://" in uri else uri
    artifact = Storage(f"{job}{question}{query}")
    if name == BEST:
        name = str(Curve.of(artifact).best)
    folder = f"checkpoints/{name}"
    made_here = has_manifest(artifact)  # Else a user's own, of which nothing is known.
    return str(local_folder(artifact, folder) if made_here else artifact.sub(folder).get())

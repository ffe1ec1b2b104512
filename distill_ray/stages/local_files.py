"""What a process reads, brought to its machine. Knows no Ray."""

from __future__ import annotations

from dataclasses import replace

from distill_ray.models.ref import ModelRef
from distill_ray.runtime.storage import Storage


def local_ref(ref: ModelRef) -> ModelRef:
    """A ref whose files are on this machine; artifacts' URIs are fetched."""

    def fetch(uri: str) -> str:
        return str(Storage(uri).get())

    there = ref.kind == "path" and "://" in ref.location
    location = fetch(ref.location) if there else ref.location
    adapter = fetch(ref.adapter) if ref.adapter and "://" in ref.adapter else ref.adapter
    return replace(ref, location=location, adapter=adapter)

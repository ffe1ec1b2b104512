"""Identify a config's models by content."""

from __future__ import annotations

from typing import Any

from distill_ray.config.fingerprint import path_identity
from distill_ray.config.models import ModelSource
from distill_ray.models.packages import file_of


def source_identity(source: ModelSource) -> dict[str, Any]:
    """Plain data that identifies a model's weights."""
    place = source.path or source.gguf
    files = path_identity(file_of(place)) if place else None
    return {"source": source.model_dump(mode="json"), "files": files}

"""Where a config names files and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distill_ray.config.models import PACKAGE, ModelSource, TokenizerSource
from distill_ray.config.run import RunConfig


def local_paths(cfg: RunConfig) -> Iterator[tuple[str, str]]:
    """What the run reads from a disk, no URIs, no hub ids: config key and path, as written."""
    for where, source in cfg.sources():
        path, local = source.location, source.format != "callable"
        if source.format == "dataset":  # A hub id, unless there is such a folder.
            local = Path(path).is_dir()
        if local and "://" not in path:
            yield f"{where}.{source.format}", path
    for where, model, tokenizer in (
        ("student", cfg.student.model, cfg.student.tokenizer),
        *((f"teachers.{i}", t.model, t.tokenizer) for i, t in enumerate(cfg.teachers)),
    ):
        yield from _model(where, model, tokenizer)


def _model(
    where: str, model: ModelSource, tokenizer: TokenizerSource | None
) -> Iterator[tuple[str, str]]:
    if model.path is not None:
        yield f"{where}.model.path", model.path
    if model.gguf is not None and not model.gguf.startswith(PACKAGE):
        yield f"{where}.model.gguf", model.gguf
    if tokenizer is not None and tokenizer.path is not None:
        yield f"{where}.tokenizer.path", tokenizer.path

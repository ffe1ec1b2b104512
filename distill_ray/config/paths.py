"""Where a config names files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distill_ray.config.models import PACKAGE, ModelSource, TokenizerSource
from distill_ray.config.run import RunConfig
from distill_ray.config.uris import local_path


def local_paths(cfg: RunConfig) -> Iterator[tuple[str, str]]:
    """What the run reads from a disk, no URIs, no hub ids: config key and path, as written."""
    for where, source in cfg.sources():
        for location in source.locations if source.format != "callable" else ():
            local = local_path(location)
            # A data set is a hub id, unless there is such a folder.
            if local is None or (source.format == "dataset" and not local.is_dir()):
                continue
            # Of a glob, the folder before its first sign.
            folder = re.split(r"[*?\[]", path := str(local))[0]
            yield f"{where}.{source.format}", path if folder == path else _parent(folder)
    for where, model, tokenizer in (
        ("student", cfg.student.model, cfg.student.tokenizer),
        *((f"teachers.{i}", t.model, t.tokenizer) for i, t in enumerate(cfg.teachers)),
    ):
        yield from _model(where, model, tokenizer)


def _parent(start: str) -> str:
    """The folder in which the beginning of a path is."""
    return start.rpartition("/")[0] or ("/" if start.startswith("/") else ".")


def _model(
    where: str, model: ModelSource, tokenizer: TokenizerSource | None
) -> Iterator[tuple[str, str]]:
    if model.path is not None:
        yield f"{where}.model.path", model.path
    if model.gguf is not None and not model.gguf.startswith(PACKAGE):
        yield f"{where}.model.gguf", model.gguf
    if tokenizer is not None and tokenizer.path is not None:
        yield f"{where}.tokenizer.path", tokenizer.path

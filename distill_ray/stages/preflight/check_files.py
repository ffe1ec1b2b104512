"""Whether rows can be read, and artifacts written, where the config says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from distill_ray.config.data import RowSource
from distill_ray.config.errors import Problem
from distill_ray.config.run import RunConfig
from distill_ray.runtime.run import name_problem
from distill_ray.runtime.storage import STORAGE_FIX, Storage
from distill_ray.stages.preflight.check_functions import function_problems
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.inspection import is_here, row_format


def source_problems(where: str, source: RowSource) -> Iterator[Problem]:
    """A source's function that can't be called, or local files whose first rows can't be read.

    Args:
        where: the source's place in the config.
        source: rows of a corpus or of a task; one behind a URI is tried when it is read.
    """
    is_corpus = where.startswith("corpora.sources.")
    where = f"{where}.{source.format}"
    if source.format == "callable":
        yield from function_problems(where, source.location, source.options)
    elif is_here(source):
        try:
            row_format(source, is_corpus=is_corpus)
        except ReadError as error:
            yield Problem(where, str(error.fault))


def local_storage_problems(cfg: RunConfig, config_file: str) -> Iterator[Problem]:
    """A local storage that can't be written, or has a run of this name from another config.

    Looks without touching; a remote storage is tried when the run opens it.

    Args:
        cfg: the config.
        config_file: name of the file that it was read from.
    """
    storage = Storage(cfg.storage)
    if not storage.local:
        return
    root = Path(storage.uri)
    existing = next(p for p in (root, *root.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        what = f"{root} can't be written: {existing} is "
        what += "closed to this user." if existing.is_dir() else "not a folder."
        yield Problem("storage", what, STORAGE_FIX)
    elif (problem := name_problem(cfg, config_file, storage.sub(cfg.name))) is not None:
        yield problem

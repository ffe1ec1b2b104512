"""Row sources → Ray datasets of clean rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from distill_ray.config.data import CorporaConfig, RowSource
from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.run import RunConfig, all_sources
from distill_ray.core.plugins import import_path
from distill_ray.data.rows import TEXT
from distill_ray.data.transforms import Cleaner, bucket_of
from distill_ray.runtime.cluster import silence_logger
from distill_ray.runtime.external_errors import outside_cause
from distill_ray.runtime.storage import is_full

READ_ERRORS = (ImportError, OSError, ValueError)
"""Errors of reading that are the input's (Arrow's are ValueErrors); others keep their traceback."""


def write_fragments(cfg: RunConfig, uri: str) -> None:
    """Read and clean every stream, and write its rows by bucket of their content keys.

    Raises:
        InputError: a source can't be read.
    """
    silence_logger("ray.data")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # So that a limit takes the same rows.
    try:
        parts = [
            _read(source).map_batches(
                _Clean.of(stream, source, cfg.corpora), batch_format="pyarrow"
            )
            for stream, source in all_sources(cfg).items()
        ]
        rows = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
        rows.write_parquet(uri, partition_cols=["bucket"], mode=ray.data.SaveMode.OVERWRITE)
    except (ray.exceptions.RayTaskError, *READ_ERRORS) as error:
        if is_full(error):
            raise (outside_cause(error) or error) from error
        cause = getattr(error, "cause", error)
        if not isinstance(cause, READ_ERRORS):
            raise
        # Ray adds lines of its own on retries; the first is the cause's.
        reason = str(cause).partition("\n")[0]
        problem = Problem("corpora, tasks", f"{type(cause).__name__}: {reason}")
        raise InputError("the input can't be read:", [problem]) from error


def _read(source: RowSource) -> Any:
    """A Ray dataset of one source's raw rows."""
    where = source.location
    if source.format == "callable":
        dataset = ray.data.from_items([where], override_num_blocks=1).flat_map(_Call(source))
    elif source.format == "dataset":
        dataset = ray.data.from_huggingface(_hf_dataset(source))
    elif source.format == "text":
        dataset = ray.data.read_text(where)
    elif source.format == "jsonl":
        dataset = ray.data.read_json(where, lines=True, file_extensions=None)
    elif source.format == "csv":
        dataset = ray.data.read_csv(where, file_extensions=None)
    else:
        dataset = ray.data.read_parquet(where)
    return dataset if source.max_rows is None else dataset.limit(source.max_rows)


def _hf_dataset(source: RowSource) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    if Path(source.location).is_dir():
        data = load_from_disk(source.location)
    else:
        data = load_dataset(source.location, **source.options)
    if not isinstance(data, DatasetDict):
        return data
    if source.split not in data:
        fix = did_you_mean(source.split, data)
        problem = Problem("split", f"no {source.split!r} in {source.location}.", fix)
        raise InputError("the input can't be read:", [problem])
    return data[source.split]


class _Call:
    """Runs a source's function where its rows are needed."""

    def __init__(self, source: RowSource) -> None:
        self._source = source

    def __call__(self, _: Any) -> Iterator[dict[str, str | None]]:
        source = self._source
        columns = (source.text_column, source.label_column, source.group_column)
        for row in import_path(source.location)(**source.options):
            # Every column in every row: blocks must agree on their schema.
            yield {c: None if row.get(c) is None else str(row[c]) for c in columns}


@dataclass(frozen=True)
class _Clean:
    """Raw batches → rows of the TEXT contract with their bucket."""

    cleaner: Cleaner
    buckets: int

    @classmethod
    def of(cls, stream: str, source: RowSource, corpora: CorporaConfig) -> Any:
        cleaner = Cleaner(
            stream,
            source.text_column,
            source.label_column,
            source.group_column,
            validation=corpora.validation_fraction,
            test=corpora.test_fraction,
            seed=corpora.split_seed,
        )
        return cls(cleaner, corpora.num_shards)._batch

    def _batch(self, batch: pa.Table) -> pa.Table:
        rows = [row for row in map(self.cleaner, batch.to_pylist()) if row is not None]
        table = pa.Table.from_pylist(rows, schema=TEXT)
        buckets = pa.array([bucket_of(r["key"], self.buckets) for r in rows], pa.int32())
        return table.append_column("bucket", buckets)

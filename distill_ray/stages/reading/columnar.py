"""Parquet and Arrow IPC files, by row groups and record batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.config.errors import did_you_mean
from distill_ray.runtime.filesystems import unreachable
from distill_ray.stages.reading.batches import (
    BATCH_BYTES,
    BATCH_ROWS,
    Before,
    Places,
    RawBatch,
    SliceRequest,
    table_batches,
)
from distill_ray.stages.reading.compression import file_system, open_file
from distill_ray.stages.reading.faults import unreadable
from distill_ray.stages.reading.streams import BAD_BYTES
from distill_ray.stages.reading.values import class_labels

AGAIN = "Write the file again, or take it out."


@contextmanager
def _named(uri: str, kind: str, place: str = "") -> Iterator[None]:
    """Name the file in what Arrow says about it."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        if unreachable(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise unreadable(uri, f"no valid {kind} file ({reason})", AGAIN, place=place) from error


def parquet_groups(uri: str) -> list[int]:
    """Bytes of each row group.

    Raises:
        ReadError: it isn't Parquet.
    """
    with open_file(uri) as file, _named(uri, "Parquet"):
        metadata = pq.read_metadata(file)
        return [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]


def read_parquet(request: SliceRequest) -> Iterator[RawBatch]:
    """Rows of a slice's row groups: the wanted columns alone are read.

    Raises:
        ReadError: it isn't Parquet, a page is broken, or a required column isn't there.
    """
    uri, piece = request.slice.uri, request.slice
    with open_file(uri) as raw:
        with _named(uri, "Parquet"):
            # Pages through a small buffer, so that memory doesn't grow with the row group.
            file = pq.ParquetFile(raw, buffer_size=1 << 20, page_checksum_verification=True)
        names = wanted_columns(request, file.schema_arrow.names)
        classes = class_names(file.schema_arrow)
        metadata = file.metadata
        end = metadata.num_row_groups if piece.end is None else piece.end
        number = 1 + sum(metadata.row_group(i).num_rows for i in range(piece.start))
        for group in range(piece.start, end):
            size = _rows_of_batch(metadata.row_group(group), names)
            batches = file.iter_batches(size, [group], names, use_threads=False)
            place = f"row group {group + 1}"
            for table in _each(batches, partial(_named, uri, "Parquet", place)):
                yield from _batches(request, table, number, None, classes)
                number += table.num_rows


def _rows_of_batch(group: Any, names: Sequence[str]) -> int:
    """How many rows of a row group make a batch."""
    columns = [group.column(i) for i in range(group.num_columns)]
    roots = {name.partition(".")[0] for name in names} | set(names)
    size = sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema in roots or column.path_in_schema.partition(".")[0] in roots
    )
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(size, 1))))


def arrow_batches(uri: str) -> int | None:
    """Record batches of an Arrow file; None for a stream, which can't be cut.

    Raises:
        ReadError: it isn't Arrow.
    """
    with _open_arrow(uri, None) as reader:
        return getattr(reader, "num_record_batches", None)


def read_arrow(request: SliceRequest) -> Iterator[RawBatch]:
    """Rows of a slice's record batches, of an Arrow file, a stream or Feather.

    Raises:
        ReadError: it isn't Arrow, a batch is broken, or a required column isn't there.
    """
    uri, piece = request.slice.uri, request.slice
    with _open_arrow(uri, None) as reader:
        schema = reader.schema
    names = wanted_columns(request, schema.names)
    classes, number = class_names(schema), 1
    before = Before(partial(_arrow_rows_before, uri, piece.start)) if piece.start else None
    with _open_arrow(uri, [schema.names.index(name) for name in names]) as reader:
        if hasattr(reader, "num_record_batches"):
            end = reader.num_record_batches if piece.end is None else piece.end
            batches: Iterable[Any] = map(reader.get_batch, range(piece.start, end))
        else:
            batches = reader
        for table in _each(batches, partial(_named, uri, "Arrow")):
            yield from _batches(request, table, number, before, classes)
            number += table.num_rows


def _arrow_rows_before(uri: str, batch: int) -> int:
    with _open_arrow(uri, []) as reader:
        return sum(reader.get_batch(i).num_rows for i in range(batch))


@contextmanager
def _open_arrow(uri: str, fields: list[int] | None) -> Iterator[Any]:
    """A reader of the fields with these numbers; None: of all."""
    filesystem, path = file_system(uri)
    local = filesystem.type_name == "local"
    with open_file(uri) as raw:
        magic = bytes(raw.read(6))
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=fields)
    with _named(uri, "Arrow"):
        if magic[:4] == b"FEA1":
            raise pa.ArrowInvalid("Feather's first version, which Arrow no longer writes")
        if not magic:
            raise pa.ArrowInvalid("empty")
    # Mapped: the record batches of a local file take no memory of their own.
    with pa.memory_map(path) if local else open_file(uri) as file:
        with _named(uri, "Arrow"):
            open_reader = pa.ipc.open_file if magic == b"ARROW1" else pa.ipc.open_stream
            reader = open_reader(file, options=options)
        yield reader


def _each(items: Iterable[Any], naming: Callable[[], Any]) -> Iterator[Any]:
    """The items, with what goes wrong between them named."""
    iterator = iter(items)
    while True:
        with naming():
            item = next(iterator, None)
        if item is None:
            return
        yield item


def _batches(
    request: SliceRequest,
    table: Any,
    number: int,
    before: Before | None,
    classes: dict[str, list[str]],
) -> Iterator[RawBatch]:
    # Parquet's reader takes "a.b" for a part of "a", too.
    columns = {
        name: decoded(table.column(name), classes.get(name), request.source.encoding)
        for name in request.wanted(table.schema.names)
    }
    places = Places(range(number, number + table.num_rows), before)
    yield from table_batches(columns, places, "row", request.slice.uri)


def wanted_columns(request: SliceRequest, available: Sequence[str]) -> list[str]:
    """The columns of a schema that are read.

    Raises:
        ReadError: a required one isn't there, or one is there twice.
    """
    file = request.slice.uri
    for name in request.required:
        if name not in available:
            shown = ", ".join(map(repr, available[:20]))
            what = f"no column {name!r}; its columns are {shown or 'none'}"
            near = did_you_mean(name, available)
            raise unreadable(file, what, near if near.startswith("Did") else "")
    names = request.wanted(available)
    for name in names:
        if [*available].count(name) > 1:
            raise unreadable(file, f"column {name!r} more than once", "Rename one of them.")
    return names


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column → names of its classes, as `datasets` notes them in a file's schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def decoded(column: Any, classes: Sequence[str] | None, encoding: str | None) -> Any:
    """A column with its classes by name, and bytes as text where their encoding is named."""
    if classes:
        return class_labels(column, classes)
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    if encoding is not None and is_bytes:
        values = column.to_pylist()
        return [None if v is None else v.decode(encoding, BAD_BYTES) for v in values]
    return column

"""Parts of a source, each the work of one task, and the batches of rows in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from distill_ray.config.data import RowSource
from distill_ray.stages.reading import columnar, json_rows
from distill_ray.stages.reading.batches import (
    Part,
    RawBatch,
    Slice,
    SliceRequest,
)
from distill_ray.stages.reading.delimited import read_delimited
from distill_ray.stages.reading.files import SourceFile, expand
from distill_ray.stages.reading.functions import read_function
from distill_ray.stages.reading.hub_datasets import (
    data_files,
    num_bytes,
    num_rows,
    read_dataset,
)
from distill_ray.stages.reading.streams import can_cut
from distill_ray.stages.reading.text_lines import read_text
from distill_ray.stages.reading.values import class_labels

FILE_COST = 32 << 10
"""Bytes that opening a file counts as, so that 100,000 small files aren't one part."""

READERS: dict[str, Callable[[SliceRequest], Iterator[RawBatch]]] = {
    "jsonl": json_rows.read_json,
    "csv": read_delimited,
    "tsv": read_delimited,
    "parquet": columnar.read_parquet,
    "arrow": columnar.read_arrow,
    "text": read_text,
    "dataset": read_dataset,
    "callable": read_function,
}


def plan_parts(
    source: RowSource,
    part_bytes: int,
    columns: Sequence[str] | None = None,
    required: Sequence[str] | None = None,
) -> list[Part]:
    """Cut a source into parts. Equal files give equal parts, in the order of their rows.

    Small files share a part. Large ones are cut where their format allows it: lines of UTF-8, row
    groups, record batches, rows of a data set. With `max_rows`, one part has everything.

    Args:
        source: what is read.
        part_bytes: bytes of a part, about, as they are stored.
        columns: the columns that are read; None: all.
        required: columns without which a file is refused. By default, the text column, if it is
            among `columns`.

    Raises:
        ReadError: a file isn't there, or isn't of its format.
    """
    if required is None:
        required = [source.text_column] if source.text_column in (columns or ()) else []
    classes: dict[str, tuple[str, ...]] = {}
    if source.format == "dataset" and (files := data_files(source)) is not None:
        source, classes = files.source, dict(files.classes)
    whole = Part(
        source,
        (),
        None if columns is None else tuple(columns),
        tuple(required),
        tuple(classes.items()),
    )
    if len(source.locations) > 1:  # A part has slices, and needs no list of a thousand names.
        first = {source.format: source.locations[0]}
        whole = replace(whole, source=source.model_copy(update=first))
    limit = part_bytes if source.max_rows is None else None
    parts: list[Part] = []
    slices: list[Slice] = []
    total = 0
    for piece, size in _slices(source, limit):
        if slices and limit is not None and total + size > limit:
            parts.append(replace(whole, slices=tuple(slices)))
            slices, total = [], 0
        slices.append(piece)
        total += size
    return [*parts, replace(whole, slices=tuple(slices))] if slices else parts


def _slices(source: RowSource, limit: int | None) -> Iterator[tuple[Slice, int]]:
    """Slices of at most so many bytes, where a file can be cut, with their sizes."""
    if source.format == "callable":
        yield Slice(source.location), 0
    elif source.format == "dataset":
        rows, size = num_rows(source), num_bytes(source)
        yield from _cut(source.location, rows, size, limit)
    else:
        for file in expand(source):
            yield from _slices_of(source, file, limit)


def _slices_of(
    source: RowSource, file: SourceFile, limit: int | None
) -> Iterator[tuple[Slice, int]]:
    uri, size = file.uri, file.size
    if limit is None or size <= limit:
        yield Slice(uri), size + FILE_COST
    elif source.format == "parquet":
        yield from ((Slice(uri, i, i + 1), n) for i, n in enumerate(columnar.parquet_groups(uri)))
    elif source.format == "arrow" and (batches := columnar.arrow_batches(uri)):
        yield from _cut(uri, batches, size, limit)
    elif (source.format == "text" and can_cut(uri, source.encoding)) or (
        source.format == "jsonl" and json_rows.can_split(uri, source.encoding)
    ):
        yield from _cut(uri, size, size, limit)
    else:
        yield Slice(uri), size + FILE_COST


def _cut(uri: str, length: int, size: int, limit: int | None) -> Iterator[tuple[Slice, int]]:
    """Equal slices of something of a length and a size in bytes."""
    pieces = 1 if limit is None else max(1, min(length, -(-size // max(limit, 1))))
    for i in range(pieces):
        start, end = i * length // pieces, (i + 1) * length // pieces
        yield Slice(uri, start, end), size // pieces


def input_bytes(source: RowSource) -> int:
    """Bytes of a source's files, as they are stored; 0 for a function.

    Raises:
        ReadError: see `plan_parts`.
    """
    if source.format == "callable":
        return 0
    if source.format == "dataset":
        files = data_files(source)
        if files is None:
            return num_bytes(source)
        source = files.source
    return sum(file.size for file in expand(source))


def read(part: Part) -> Iterator[RawBatch]:
    """The rows of a part, batch by batch, with the faults among them.

    Memory is bounded by a batch, whatever the size of the files.

    Raises:
        ReadError: a file can't be read to its end.
        OSError: a storage is unreachable.
    """
    left = part.source.max_rows
    classes = dict(part.classes)
    for piece in part.slices:
        request = SliceRequest(part.source, piece, part.columns, part.required)
        for batch in READERS[part.source.format](request):
            if left is not None and batch.num_met > left:
                batch = batch.first(left)
            for name, names in classes.items():
                if name in batch.columns:
                    batch.columns[name] = class_labels(batch.columns[name], names)
            yield batch
            if left is not None:
                left -= batch.num_met
                if left <= 0:
                    return


def peek(source: RowSource, rows: int = 100) -> RawBatch:
    """The first rows of a source with all of their columns, to see what it is.

    Raises:
        ReadError: it can't be read.
    """
    limited = source.model_copy(update={"max_rows": rows})
    for part in plan_parts(limited, 1):
        for batch in read(part):
            if batch.num_met:
                return batch
    return RawBatch({}, [], "row", source.location)

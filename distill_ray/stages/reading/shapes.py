"""What rows look like, and which key reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from distill_ray.config.data import RowSource
from distill_ray.config.errors import did_you_mean
from distill_ray.stages.reading.batches import RawBatch
from distill_ray.stages.reading.delimited import delimiter_fix
from distill_ray.stages.reading.faults import RowFault, raw_text, shortened
from distill_ray.stages.reading.row_formats import detect_format
from distill_ray.stages.reading.values import MISSING, NotJSON, Number

MOST_SHOWN = 20
WRITABLE = ("text", "a number", "a boolean", "a date or time", "nothing")
"""Kinds of values that are read as text."""


def describe(batch: RawBatch) -> str:
    """The columns with what they hold: `columns: row (an object), label (text)`."""
    kinds = kinds_of(batch)
    shown = [f"{raw_text(shortened(name))} ({kind})" for name, kind in kinds.items()]
    more = f", and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return "columns: " + (", ".join(shown[:MOST_SHOWN]) or "none") + more


def kinds_of(batch: RawBatch) -> dict[str, str]:
    """Column → what its first value is that isn't null."""
    return {name: _kind(column) for name, column in batch.columns.items()}


def wrong_shape(source: RowSource, batch: RawBatch) -> RowFault | None:
    """Why the text column can't be read as text, and what would read it; None where it can.

    Args:
        source: where the rows are from.
        batch: its first rows with all columns, from `parts.peek`.
    """
    kinds = kinds_of(batch)
    if not batch.num_rows or kinds.get(source.text_column) in WRITABLE:
        return None
    place = f"{batch.unit} {batch.places[0]}"
    if source.text_column in kinds:
        column = source.text_column
        what = f"column {column!r} holds {_plural(kinds[column])}, not text; {describe(batch)}"
    else:
        what = f"no column {source.text_column!r}; {describe(batch)}"
    fix = _fix(source, batch, kinds)
    return RowFault(batch.file, place, "", what, fix, _raw(batch))


def _fix(source: RowSource, batch: RawBatch, kinds: Mapping[str, str]) -> str:
    row_format = detect_format(kinds)
    if row_format is not None:
        return f"These are conversations: `row_format: {row_format}` reads them."
    if source.format in ("csv", "tsv"):
        delimiter = "\t" if source.format == "tsv" else source.delimiter or ","
        if fix := delimiter_fix(next(iter(kinds), ""), len(kinds), delimiter):
            return fix
    rows = {n: _items(c) for n, c in batch.columns.items() if kinds[n] == "a list"}
    lists = {n: items for n, items in rows.items() if items and isinstance(items[0], Mapping)}
    if batch.num_rows == 1 and not batch.faults and lists:
        name, items = max(lists.items(), key=lambda item: len(item[1]))
        return (
            f"It is one JSON object with {len(items):,} rows in {name!r}: write them as lines, "
            f"for example with `jq -c '.{name}[]'`."
        )
    near = did_you_mean(source.text_column, [n for n, k in kinds.items() if k == "text"])
    if near.startswith("Did you mean"):
        return f"{near} Set `text_column`."
    texts = [name for name, kind in kinds.items() if kind == "text"]
    inside = [
        f"{name}.{key}"
        for name, column in batch.columns.items()
        if kinds[name] == "an object"
        for key, value in _first(column).items()
        if isinstance(value, str)
    ]
    if inside:
        return (
            f"Text is inside of an object ({', '.join(inside[:5])}): make it a column of its own."
        )
    if texts:
        return f"Name the column with `text_column`; {', '.join(texts[:10])} hold text."
    return "Give rows with a column of text, or conversations with `row_format`."


def _first(column: Any) -> Any:
    """The first value that isn't null, or None."""
    for value in column if isinstance(column, list) else column.slice(0, 1000):
        value = value.as_py() if isinstance(value, pa.Scalar) else value
        if value is not None and value is not MISSING:
            return value
    return None


def _kind(column: Any) -> str:
    if isinstance(column, (pa.Array, pa.ChunkedArray)) and pa.types.is_temporal(column.type):
        return "a date or time"
    value = _first(column)
    if isinstance(value, (Number, NotJSON)):
        return "a number"
    for kind, name in (
        (str, "text"),
        (bool, "a boolean"),
        ((int, float), "a number"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
        (bytes, "bytes"),
    ):
        if isinstance(value, kind):
            return name
    return "nothing" if value is None else f"a {type(value).__name__}"


def _plural(kind: str) -> str:
    return {"a list": "lists", "an object": "objects", "a boolean": "booleans"}.get(kind, kind)


def _items(column: Any) -> list[Any]:
    value = _first(column)
    return [*value] if isinstance(value, (list, tuple)) else []


def _raw(batch: RawBatch) -> str:
    row = {name: _first(column) for name, column in batch.columns.items()}
    return raw_text(str(row))

"""Files of a shard set while it is made, by the number of the part. Knows no Ray."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill_ray.config.checksums import bytes_sha256
from distill_ray.runtime.storage import Storage

SCRATCH = ("rows", "keys", "removed", "bands", "ngrams", "sample", "reports")
"""Folders that only the work needs."""
DUPLICATES, CONTAMINATION, NEAR = "duplicates", "contamination", "near-duplicates"
"""What takes rows away, in this order."""


def rows_file(number: int) -> str:
    """A part's clean rows: the TEXT contract, duplicates included."""
    return f"rows/{number:06d}.parquet"


def keys_file(number: int) -> str:
    """KEYS of a part's rows."""
    return f"keys/{number:06d}.parquet"


def removed_file(phase: str, number: int) -> str:
    """The rows of a part that go: REMOVED."""
    return f"removed/{phase}/{number:06d}.parquet"


def report_file(phase: str, number: int) -> str:
    """What the work on a part reported; written last."""
    return f"reports/{phase}/{number:06d}.json"


def read_table(out: Storage, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file."""
    data = pa.BufferReader(out.read_bytes(path))
    return pq.read_table(data, columns=None if columns is None else list(columns))


def write_table(
    out: Storage, path: str, table: pa.Table, row_group_size: int | None = None
) -> dict[str, str]:
    """Write a compressed Parquet file; equal rows give equal bytes.

    Returns:
        Its path and SHA-256.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size)
    data = buffer.getvalue()
    out.write_bytes(path, data)
    return {path: bytes_sha256(data)}


def removed_in(out: Storage, number: int) -> NDArray[np.int64]:
    """Places of a part's rows that go."""
    rows = [np.empty(0, np.int64)]
    for phase in (DUPLICATES, CONTAMINATION, NEAR):
        path = removed_file(phase, number)
        if out.exists(path):
            rows.append(read_table(out, path, ["row"])["row"].to_numpy().astype(np.int64))
    return np.concatenate(rows)


def kept_rows(
    out: Storage, number: int, columns: Sequence[str] | None = None, *, with_place: bool = False
) -> pa.Table:
    """A part's clean rows that stay; `with_place`, with a column of their places in the file."""
    table = read_table(out, rows_file(number), columns)
    if with_place:
        table = table.append_column("place", pa.array(np.arange(len(table))))
    stays = np.ones(len(table), np.bool_)
    stays[removed_in(out, number)] = False
    return table.filter(pa.array(stays))


def clean_row(out: Storage, number: int, row: int) -> dict[str, Any]:
    """One of a part's clean rows."""
    columns = ["stream", "split", "text", "label"]
    return read_table(out, rows_file(number), columns).slice(row, 1).to_pylist()[0]  # type: ignore[no-any-return]

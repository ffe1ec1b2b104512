"""Rows of a source through the readers, as a task would read them."""

from __future__ import annotations

import bz2
import gzip
import lzma
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import RowFault
from distill_ray.stages.reading.parts import plan_parts, read
from distill_ray.stages.reading.values import as_strings


@dataclass
class RowsRead:
    """Every row of a source, in its order."""

    texts: list[str | None] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    faults: list[RowFault] = field(default_factory=list)
    parts: int = 0


def read_rows(source: RowSource, part_bytes: int = 1 << 20) -> RowsRead:
    """Read text and label of all parts of a source."""
    names = (source.text_column, source.label_column)
    parts = plan_parts(source, part_bytes, names)
    rows = RowsRead(parts=len(parts))
    for part in parts:
        for batch in read(part):
            rows.faults += batch.faults
            rows.places += batch.places
            for role, name, values in zip(("text", "label"), names, (rows.texts, rows.labels)):
                if name not in batch.columns:
                    values += [None] * batch.num_rows
                    continue
                column = batch.columns[name]
                assert len(column) == batch.num_rows
                strings, faults = as_strings(
                    column, role, batch.file, batch.places, batch.unit, name
                )
                values += strings.to_pylist()
                rows.faults += [fault for _, fault in faults]
    return rows


def compressed(data: bytes, suffix: str) -> bytes:
    """Bytes in one frame of a compression; as they are without a suffix."""
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return bytes(sink.getvalue())
    makers: dict[str, Any] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return makers[suffix](data) if suffix else data


def write(path: Path, data: bytes | str) -> Path:
    """Write a file, UTF-8 where it is text, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path

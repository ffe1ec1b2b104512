"""A part of a source → clean rows with their keys, on a Ray worker."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill_ray.data.conversation import Conversation, content_text, plain_text
from distill_ray.data.rows import SPLITS, TEXT
from distill_ray.data.transforms import content_key, split_of
from distill_ray.runtime.storage import Storage
from distill_ray.stages.reading.batches import RawBatch
from distill_ray.stages.reading.faults import ReadError, RowFault
from distill_ray.stages.reading.filters import load_filter
from distill_ray.stages.reading.inspection import TEXT_FORMAT
from distill_ray.stages.reading.parts import read
from distill_ray.stages.reading.row_formats import ROW_FORMATS, RowProblem
from distill_ray.stages.reading.values import MISSING, Role, as_strings
from distill_ray.stages.sharding.deduplicate import KEYS
from distill_ray.stages.sharding.files import keys_file, rows_file, write_table
from distill_ray.stages.sharding.parts import (
    LARGEST_PIECE,
    StreamPart,
    StreamReader,
    piece_number,
)

MOST_FAULTS = 5
"""Faults that one message names."""
BAD_ROWS = pa.schema(
    [
        ("stream", pa.string()),
        ("file", pa.string()),
        ("place", pa.string()),
        ("column", pa.string()),
        ("found", pa.string()),
        ("fix", pa.string()),
        ("row", pa.string()),
    ]
)
"""Rows that were skipped, with the reasons."""


@dataclass
class _Counts:
    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """`bad` and `empty` → rows."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Reason → rows."""
    filtered_examples: dict[str, str] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    """Split → rows."""
    size_bytes: Counter[str] = field(default_factory=Counter)
    """Split → bytes of the texts."""
    files: dict[str, Counter[str]] = field(default_factory=dict)
    """File → `bad` and `empty` rows, where there are some."""

    def leave_out(self, file: str, reason: str, count: int = 1) -> None:
        if count:
            self.left_out[reason] += count
            self.files.setdefault(file, Counter())[reason] += count


@dataclass(frozen=True)
class ReadPart:
    """Reads, cleans and writes a part."""

    uri: str

    def __call__(self, part: StreamPart) -> dict[str, Any]:
        """Write the clean rows, their keys, and the rows that were skipped.

        Returns:
            Counts, and `faults` where rows can't be read and aren't to be skipped.
        """
        out, reader, counts = Storage(self.uri), part.reader, _Counts()
        skip = reader.source.on_bad_row == "skip"
        pieces = [_Piece(piece_number(part.number, 0))]
        bad: list[RowFault] = []
        try:
            for batch in read(part.part):
                table, faults = _clean(reader, batch, counts)
                bad += faults
                if bad and not skip:
                    return {"faults": [str(fault) for fault in bad[:MOST_FAULTS]]}
                # Twice as large after every 32, so that a file of any size has few.
                room = min(part.piece_bytes << min(len(pieces) // 32, 10), LARGEST_PIECE)
                if pieces[-1].size_bytes + table["text"].nbytes > room and pieces[-1].size_bytes:
                    pieces[-1].write(out, reader.number)
                    pieces.append(_Piece(piece_number(part.number, len(pieces))))
                pieces[-1].add(table)
        except ReadError as error:  # No row's fault, but the file's.
            return {"faults": [str(error.fault)]}
        pieces[-1].write(out, reader.number)
        if bad:
            table = _bad_rows(reader.stream, bad)
            write_table(out, f"bad_rows/{part.number:06d}.parquet", table)
        return {
            "pieces": [piece.number for piece in pieces],
            "read": counts.read,
            "left_out": dict(counts.left_out + counts.filtered),
            "filtered_examples": counts.filtered_examples,
            "rows": dict(counts.rows),
            "size_bytes": dict(counts.size_bytes),
            "files": {file: dict(reasons) for file, reasons in counts.files.items()},
        }


class _Piece:
    """A Parquet file that grows batch by batch, and the columns that its keys are made of."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.size_bytes = 0
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, TEXT, compression="zstd")
        self._keys = [TEXT.empty_table().select(["key", "split", "label"])]

    def add(self, table: pa.Table) -> None:
        """Add clean rows."""
        if len(table):
            self._writer.write_table(table)
            self._keys.append(table.select(["key", "split", "label"]))
            self.size_bytes += table["text"].nbytes

    def write(self, out: Storage, stream: int) -> None:
        """Write the rows and their keys, and let go of them."""
        self._writer.close()
        out.write_bytes(rows_file(self.number), self._buffer.getvalue())
        write_table(out, keys_file(self.number), self._key_table(stream))
        del self._buffer, self._writer, self._keys

    def _key_table(self, stream: int) -> pa.Table:
        columns = pa.concat_tables(self._keys)
        digests = b"".join(bytes.fromhex(key) for key in columns["key"].to_pylist())
        parts = np.frombuffer(digests, np.dtype([("high", ">u8"), ("low", ">u4")]))
        places = {split: place for place, split in enumerate(SPLITS)}
        labels = [_label_hash(label) for label in columns["label"].to_pylist()]
        return pa.table(
            {
                "key_high": parts["high"].astype(np.uint64),
                "key_low": parts["low"].astype(np.uint32),
                "stream": np.full(len(columns), stream, np.int16),
                "split": np.array([places[s] for s in columns["split"].to_pylist()], np.int8),
                "label": np.array(labels, np.uint64),
                "part": np.full(len(columns), self.number, np.int32),
                "row": np.arange(len(columns), dtype=np.int32),
            },
            schema=KEYS,
        )


@lru_cache(maxsize=65536)
def _label_hash(label: str | None) -> int:
    """A label as a number; 0 stands for none."""
    if label is None:
        return 0
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big") | 1


def _clean(
    reader: StreamReader, batch: RawBatch, counts: _Counts
) -> tuple[pa.Table, list[RowFault]]:
    """A batch's rows of the TEXT contract, and those that can't be read."""
    source, conversations = reader.source, None
    if reader.row_format == TEXT_FORMAT:
        texts, faults = _strings(batch, source.text_column, "text")
    else:
        conversations, faults = _conversations(reader, batch)
        words = [None if c is None else plain_text(c) for c in conversations]
        texts = pa.array(words, pa.string())
    groups, group_faults = _strings(batch, source.group_column, "group")
    labels = pa.nulls(len(texts), pa.string())
    if reader.is_labelled:
        labels, label_faults = _strings(batch, source.label_column, "label")
        group_faults |= label_faults
    faults = {**group_faults, **faults}
    bad = [*batch.faults, *(faults[index] for index in sorted(faults))]
    counts.read += batch.num_met
    counts.leave_out(batch.file, "bad", len(bad))

    stays = texts.is_valid().to_numpy(zero_copy_only=False)
    stays[[*faults]] = True
    counts.leave_out(batch.file, "empty", len(stays) - int(stays.sum()))
    stays[[*faults]] = False
    stays[_filtered(reader, batch, texts, stays, counts)] = False
    chosen = np.flatnonzero(stays)
    if len(chosen) < len(texts):
        texts, labels, groups = (
            column.take(pa.array(chosen)) for column in (texts, labels, groups)
        )
    turns: list[Any] = [None] * len(chosen)
    tools: list[str | None] = [None] * len(chosen)
    if conversations is None:
        keys = [content_key(text) for text in texts.to_pylist()]
    else:
        talks = [c for c in (conversations[i] for i in chosen.tolist()) if c is not None]
        keys = [content_key(content_text(talk)) for talk in talks]
        turns = [talk.to_row()["turns"] for talk in talks]
        tools = [talk.tools for talk in talks]
    if groups.null_count:
        groups = pc.coalesce(groups, pa.array(keys, pa.string()))
    if reader.split is not None:
        splits = [reader.split] * len(keys)
    else:
        shares = {"validation": reader.validation, "test": reader.test, "seed": reader.seed}
        splits = [split_of(group, **shares) for group in groups.to_pylist()]  # type: ignore[arg-type]
    counts.rows.update(splits)
    for size, split in zip(pc.binary_length(texts).to_pylist(), splits):
        counts.size_bytes[split] += size
    columns = {
        "row_id": [f"{reader.stream}:{key}" for key in keys],
        "key": keys,
        "stream": [reader.stream] * len(keys),
        "split": splits,
        "text": texts,
        "label": labels,
        "group": groups,
        "turns": turns,
        "tools": tools,
    }
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, TEXT.field(name).type)
        for name, values in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=TEXT), bad


def _filtered(
    reader: StreamReader,
    batch: RawBatch,
    texts: pa.Array,
    stays: NDArray[np.bool_],
    counts: _Counts,
) -> list[int]:
    """Places of the rows that don't pass a filter."""
    gone: list[int] = []
    filters = [load_filter(name) for name in reader.filters]
    for index in np.flatnonzero(stays).tolist() if filters else ():
        text, place = texts[index].as_py(), f"{batch.file}, {batch.unit} {batch.places[index]}"
        reasons = (each.reason(text, place=place) for each in filters)
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            gone.append(index)
            counts.filtered[reason] += 1
            counts.filtered_examples.setdefault(reason, text[:200])
    return gone


def _strings(batch: RawBatch, column: str, role: Role) -> tuple[pa.Array, dict[int, RowFault]]:
    """A column's values as text, and the faults by index."""
    values = batch.columns.get(column)
    if values is None and role != "text":
        return pa.nulls(len(batch.places), pa.string()), {}
    if values is None:
        values = [MISSING] * len(batch.places)
    strings, faults = as_strings(values, role, batch.file, batch.places, batch.unit, column)
    return strings, dict(faults)


def _conversations(
    reader: StreamReader, batch: RawBatch
) -> tuple[list[Conversation | None], dict[int, RowFault]]:
    row_format = ROW_FORMATS[reader.row_format]
    conversations: list[Conversation | None] = []
    faults: dict[int, RowFault] = {}
    for index, row in enumerate(_rows(batch)):
        try:
            conversations.append(row_format.convert(row))
        except RowProblem as problem:
            conversations.append(None)
            place = f"{batch.unit} {batch.places[index]}"
            faults[index] = RowFault(
                batch.file, place, problem.column, problem.what, problem.fix, str(dict(row))[:2000]
            )
    return conversations, faults


def _rows(batch: RawBatch) -> Iterator[Mapping[str, Any]]:
    """A batch's rows, without the columns that a row lacks."""
    columns = {
        name: values if isinstance(values, list) else values.to_pylist()
        for name, values in batch.columns.items()
    }
    for values in zip(*columns.values()):
        yield {name: value for name, value in zip(columns, values) if value is not MISSING}


def _bad_rows(stream: str, faults: Sequence[RowFault]) -> pa.Table:
    rows = [(stream, f.file, f.place, f.column, f.what, f.fix, f.raw) for f in faults]
    arrays = [pa.array(column, pa.string()) for column in zip(*rows)]
    return pa.Table.from_arrays(arrays, schema=BAD_ROWS)

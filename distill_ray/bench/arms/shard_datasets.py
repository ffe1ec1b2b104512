"""`python -m distill_ray.bench.arms.shard_datasets`: the same shards with plain `datasets`.

Written for speed: Arrow tables in and out of `map`, duplicates found by Arrow's `group_by` on the
key column, texts written once, NumPy for the packed columns. `datasets` itself turns the
parallelism of tokenizers off in its worker processes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from transformers import AutoTokenizer

from distill_ray.bench.arms.shard import Outcome, serve
from distill_ray.bench.suites.work import ShardWork
from distill_ray.data.packing import best_fit
from distill_ray.data.rows import PACKED, SPLITS
from distill_ray.data.transforms import content_key, split_of

TEXTS_PER_BATCH = 1000
"""Of `map`; a batch is packed by itself."""
ROWS_PER_GROUP = 2000
"""Packed rows that are written at a time."""


def sharded(work: ShardWork, folder: Path) -> Outcome:
    """Read, find duplicates, split, tokenize, pack and write."""
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(work.tokenizer)
    ready_at = time.monotonic()
    rows = datasets.load_dataset(
        "json",
        data_files=list(work.files),
        split="train",
        num_proc=work.processes,
        cache_dir=str(folder / "cache"),
    )
    read_at = time.monotonic()
    keys = rows.with_format("arrow").map(
        Keys(work.validation, work.test),
        batched=True,
        num_proc=work.processes,
        remove_columns=rows.column_names,
    )
    is_first = first_of_each(keys.data.column("key"))
    unique_at = time.monotonic()
    joined = datasets.concatenate_datasets([rows, keys], axis=1).with_format("arrow")
    packed = joined.map(
        Pack(tokenizer, is_first, work.length),
        batched=True,
        batch_size=TEXTS_PER_BATCH,
        with_indices=True,
        num_proc=work.processes,
        remove_columns=joined.column_names,
    )
    packed_at = time.monotonic()
    write_splits(packed, folder)
    done_at = time.monotonic()
    unique_splits = keys.data.column("split").filter(pa.array(is_first))
    rows_by_split = {
        item["values"]: item["counts"] for item in pc.value_counts(unique_splits).to_pylist()
    }
    tokens, packed_rows = {}, {}
    for split in SPLITS:
        table = pq.read_table(folder / f"{split}.parquet", columns=["label_mask", "sources"])
        # Every token of a sample is supervised but its last.
        supervised = pc.sum(pc.list_flatten(table["label_mask"])).as_py() or 0
        tokens[split] = supervised + len(pc.list_flatten(table["sources"]))
        packed_rows[split] = table.num_rows
    return Outcome(
        rows=rows_by_split,
        tokens=tokens,
        packed=packed_rows,
        duplicates=len(is_first) - int(is_first.sum()),
        ready_at=ready_at,
        done_at=done_at,
        phases={
            "reading": read_at - ready_at,
            "keys and duplicates": unique_at - read_at,
            "tokenizing and packing": packed_at - unique_at,
            "writing": done_at - packed_at,
        },
    )


@dataclass(frozen=True)
class Keys:
    """Texts → their content keys and splits."""

    validation: float
    test: float

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table of a key and a split for each text."""
        keys = [content_key(text) for text in batch["text"].to_pylist()]
        splits = [split_of(key, validation=self.validation, test=self.test) for key in keys]
        return pa.table({"key": keys, "split": splits})


def first_of_each(keys: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which keys occur for the first time. Shape [len(keys)]."""
    numbered = pa.table({"key": keys, "number": np.arange(len(keys))})
    firsts = numbered.group_by("key").aggregate([("number", "min")])["number_min"]
    is_first = np.zeros(len(keys), dtype=np.bool_)
    is_first[firsts.to_numpy()] = True
    return is_first


@dataclass(frozen=True)
class Pack:
    """Texts with keys and splits → packed rows with their split."""

    tokenizer: Any
    is_first: NDArray[np.bool_]
    length: int

    def __call__(self, batch: pa.Table, numbers: Sequence[int]) -> pa.Table:
        """Tokenize the rows that aren't duplicates, and pack those of each split."""
        unique = batch.filter(pa.array(self.is_first[numbers]))
        tables = []
        for split in SPLITS:
            rows = unique.filter(pc.equal(unique["split"], split))
            if rows.num_rows:
                prefix = f"text:{split}:{numbers[0]:09d}"
                table = self._packed(rows["text"].to_pylist(), rows["key"].to_pylist(), prefix)
                names = pa.array([split] * table.num_rows, pa.string())
                tables.append(table.append_column("split", names))
        if not tables:
            return PACKED.append(pa.field("split", pa.string())).empty_table()
        return pa.concat_tables(tables)

    def _packed(self, texts: list[str], keys: list[str], prefix: str) -> pa.Table:
        end = self.tokenizer.eos_token_id
        ids = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        for text_ids in ids:
            text_ids.append(end)
        # Texts that are longer than a row are cut.
        pieces = [
            (number, start, min(self.length, len(text_ids) - start))
            for number, text_ids in enumerate(ids)
            for start in range(0, len(text_ids), self.length)
        ]
        bins = best_fit([size for _, _, size in pieces], self.length)
        order = [pieces[i] for held in bins for i in held]
        tokens = chain.from_iterable(ids[n][start : start + size] for n, start, size in order)
        sizes = np.array([size for _, _, size in order])
        ends = np.cumsum([len(held) for held in bins])
        columns = filled_rows(
            np.fromiter(tokens, np.int32, sizes.sum()), sizes, ends, self.length, end
        )
        columns["row_id"] = pa.array([f"{prefix}:{row:06d}" for row in range(len(bins))])
        sources = pa.array([f"text:{keys[n]}" for n, _, _ in order], pa.string())
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        columns["sources"] = pa.ListArray.from_arrays(offsets, sources)
        columns["teacher_mask"] = columns["label_mask"]
        return pa.table({name: columns[name] for name in PACKED.names}, schema=PACKED)


def write_splits(packed: Any, folder: Path) -> None:
    """Write a Parquet file for each split, a batch at a time."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                pq.ParquetWriter(folder / f"{split}.parquet", PACKED, compression="zstd")
            )
            for split in SPLITS
        }
        # `to_parquet` always compresses with snappy, and reads rows of a selection one by one.
        for batch in packed.with_format("arrow").iter(ROWS_PER_GROUP):
            for split, writer in writers.items():
                rows = batch.filter(pc.equal(batch["split"], split)).select(PACKED.names)
                if rows.num_rows:
                    writer.write_table(rows.cast(PACKED))


def filled_rows(
    tokens: NDArray[np.int32],
    sizes: NDArray[np.int64],
    ends: NDArray[np.int64],
    length: int,
    pad: int,
) -> dict[str, pa.Array]:
    """Lay samples out in rows: `input_ids`, `position_ids` and `label_mask`.

    Args:
        tokens: of all samples, in the order of rows.
        sizes: tokens of each sample.
        ends: of each row, the number of samples up to its end.
        length: tokens of a row.
        pad: fills the rest of a row.
    """
    num_rows = len(ends)
    before = np.cumsum(sizes) - sizes  # Tokens before each sample.
    row = np.repeat(np.arange(num_rows), np.diff(ends, prepend=0))
    used = np.cumsum(np.bincount(row, sizes, num_rows).astype(np.int64))
    row_starts = np.concatenate([[0], used[:-1]])
    # Where a sample begins in the rows; the padding of earlier rows lies before it.
    places = row * length + before - row_starts[row]
    indices = np.repeat(places - before, sizes) + np.arange(len(tokens))
    input_ids = np.full(num_rows * length, pad, dtype=np.int32)
    input_ids[indices] = tokens
    filled = used - row_starts
    # Positions of the padding restart at 0 too.
    positions = np.tile(np.arange(length, dtype=np.int32), num_rows)
    positions -= np.repeat(filled, length).astype(np.int32)
    positions[indices] = np.arange(len(tokens)) - np.repeat(before, sizes)
    mask = np.zeros(num_rows * length, dtype=np.bool_)
    mask[indices] = True
    mask[places + sizes - 1] = False
    offsets = np.arange(num_rows + 1, dtype=np.int32) * length
    flat = {"input_ids": input_ids, "position_ids": positions, "label_mask": mask}
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in flat.items()
    }


if __name__ == "__main__":
    serve(sharded)

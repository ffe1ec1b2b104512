"""Duplicates, leaks and near copies over all parts: found on Ray, as rows that go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sharding.deduplicate import (
    KEYS,
    REASONS,
    REMOVED,
    Removals,
    StreamRules,
    removed_rows,
)
from distill_ray.stages.sharding.files import (
    DUPLICATES,
    keys_file,
    read_table,
    removed_file,
    report_file,
    write_table,
)

PARTITION_ROWS = 2_000_000
"""Keys that are compared at once, 31 bytes each. More are shuffled by their hash."""
NUM_EXAMPLES = 3
"""Rows of each stream and reason that are kept as examples."""


def remove_duplicates(
    run: Run, out: Storage, numbers: Sequence[int], num_rows: int, rules: StreamRules
) -> Removals:
    """Find the rows whose content another row has, and write them by part.

    Up to `PARTITION_ROWS`, one task reads all keys. Beyond, Ray Data shuffles the keys by their
    hash, and then the rows that go by their part: 31 bytes and 22 bytes a row, never the texts.
    """
    report = report_file(DUPLICATES, 0)
    if not out.exists(report):
        run.ray()
        files = [keys_file(number) for number in numbers]
        if num_rows <= PARTITION_ROWS:
            task = ray.remote(_remove_here)
            tables = ray.get(task.remote(out.uri, files, rules))
        else:
            keys = read_tables(out, files)
            partitions = -(-num_rows // PARTITION_ROWS)
            gone = keys.repartition(partitions, keys=["key_high"]).map_batches(
                lambda table: removed_rows(table.select(KEYS.names), rules),
                batch_format="pyarrow",
                batch_size=None,
            )
            tables = list(write_by_part(out, DUPLICATES, gone, partitions))
        write_report(out, report, tables)
    return read_report(out, report)


def _remove_here(uri: str, files: list[str], rules: StreamRules) -> list[pa.Table]:
    out = Storage(uri)
    tables = [read_table(out, file) for file in files]
    gone = removed_rows(pa.concat_tables([KEYS.empty_table(), *tables]).combine_chunks(), rules)
    return [write_parts(out, DUPLICATES, gone)]


def read_tables(out: Storage, files: list[str]) -> Any:
    """A Ray dataset of the tables in files, a block a file."""
    uri = out.uri
    items = ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
    return items.map_batches(
        lambda batch: read_table(Storage(uri), str(batch["file"][0])),
        batch_size=1,
    )


def write_by_part(out: Storage, phase: str, gone: Any, partitions: int) -> Iterator[pa.Table]:
    """Bring the rows of one part together, write them, and yield summaries of what was written."""
    uri = out.uri
    summaries = gone.repartition(partitions, keys=["part"]).map_batches(
        lambda table: write_parts(Storage(uri), phase, table.select(REMOVED.names)),
        batch_format="pyarrow",
        batch_size=None,
    )
    yield from summaries.iter_batches(batch_format="pyarrow", batch_size=None)


def write_parts(out: Storage, phase: str, gone: pa.Table) -> pa.Table:
    """Write a file for each part in the table; a few rows of it stand for all in the answer.

    Returns:
        REMOVED with a column `count`: the first rows of each stream, split and reason, of which the
        first one has the count of all.
    """
    by_place = [(name, "ascending") for name in ("part", "row", "kept_part", "kept_row")]
    gone = gone.combine_chunks().sort_by(by_place)
    parts, rows = gone["part"].to_numpy(), gone["row"].to_numpy()
    # A near copy may be found in several partitions.
    first = np.ones(len(parts), np.bool_)
    first[1:] = (parts[1:] != parts[:-1]) | (rows[1:] != rows[:-1])
    gone, parts = gone.filter(pa.array(first)), parts[first]
    starts = np.flatnonzero(np.diff(parts, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(parts)]):
        write_table(out, removed_file(phase, int(parts[start])), gone.slice(start, stop - start))
    kinds = gone.group_by(["stream", "split", "reason"]).aggregate([([], "count_all")])
    examples = []
    for kind in kinds.to_pylist():
        same = [pc.equal(gone[name], kind[name]) for name in ("stream", "split", "reason")]
        first = gone.filter(pc.and_(pc.and_(same[0], same[1]), same[2])).slice(0, NUM_EXAMPLES)
        counts = [kind["count_all"], *[0] * (len(first) - 1)]
        examples.append(first.append_column("count", pa.array(counts, pa.int64())))
    empty = REMOVED.empty_table().append_column("count", pa.array([], pa.int64()))
    return pa.concat_tables([empty, *examples])


def write_report(out: Storage, path: str, summaries: list[pa.Table]) -> None:
    """Write what a phase took away; the phase is then done."""
    table = pa.concat_tables(summaries).sort_by([("part", "ascending"), ("row", "ascending")])
    write_table(out, path, table)


def read_report(out: Storage, path: str) -> Removals:
    """What a phase took away."""
    counts: dict[tuple[int, int, str], int] = {}
    examples: dict[tuple[int, str], list[dict[str, int]]] = {}
    for row in read_table(out, path).to_pylist():
        kind = (row["stream"], row["split"], REASONS[row["reason"]])
        counts[kind] = counts.get(kind, 0) + row["count"]
        examples.setdefault((kind[0], kind[2]), []).append(row)
    return Removals(counts, [row for rows in examples.values() for row in rows[:NUM_EXAMPLES]])

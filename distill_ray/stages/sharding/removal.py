"""Duplicates, leaks and near copies over all parts: found on Ray, as rows that go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
"""Rows that are compared at once, some 30 bytes each. More are shuffled by their keys."""
NUM_EXAMPLES = 3
"""Rows of each stream and reason that are kept as examples."""


@dataclass(frozen=True)
class Comparison:
    """What rows of all parts are compared by, and which of them go."""

    phase: str
    files: Sequence[str]
    """Tables of `schema`, in the order of reading."""
    schema: pa.Schema
    keys: Sequence[str]
    """Columns: rows that may be the same are equal in them."""
    find: Callable[[pa.Table], pa.Table]
    """Rows of `schema`, all that are equal in `keys` among them → those that go: REMOVED."""


def remove_duplicates(
    run: Run, out: Storage, numbers: Sequence[int], num_rows: int, rules: StreamRules
) -> Removals:
    """Find the rows whose content another row has, and write them by part."""
    files = [keys_file(number) for number in numbers]
    find = partial(removed_rows, rules=rules)
    return compare(run, out, Comparison(DUPLICATES, files, KEYS, ["key_high"], find), num_rows)


def compare(run: Run, out: Storage, comparison: Comparison, num_rows: int) -> Removals:
    """Find the rows that go, and write them by part.

    Up to `PARTITION_ROWS`, one task reads all tables. Beyond, Ray Data shuffles their rows by their
    keys, and then the rows that go by their part: never the texts.
    """
    report = report_file(comparison.phase, 0)
    if not out.exists(report):
        run.ray()
        if num_rows <= PARTITION_ROWS:
            summaries = [ray.get(ray.remote(_compare_here).remote(out.uri, comparison))]
        else:
            summaries = list(_compare_shuffled(out, comparison, -(-num_rows // PARTITION_ROWS)))
        table = pa.concat_tables(summaries).sort_by([("part", "ascending"), ("row", "ascending")])
        write_table(out, report, table)  # Written last: the phase is done.
    return _read_report(out, report)


def _compare_here(uri: str, comparison: Comparison) -> pa.Table:
    out = Storage(uri)
    tables = [read_table(out, file) for file in comparison.files]
    rows = pa.concat_tables([comparison.schema.empty_table(), *tables]).combine_chunks()
    return _write_parts(out, comparison.phase, comparison.find(rows))


def _compare_shuffled(out: Storage, comparison: Comparison, partitions: int) -> Iterator[pa.Table]:
    uri, files = out.uri, comparison.files
    whole_blocks: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    summaries = (
        ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
        .map_batches(lambda row: read_table(Storage(uri), str(row["file"][0])), batch_size=1)
        .repartition(partitions, keys=[*comparison.keys])
        .map_batches(lambda t: comparison.find(t.select(comparison.schema.names)), **whole_blocks)
        .repartition(partitions, keys=["part"])
        .map_batches(
            lambda t: _write_parts(Storage(uri), comparison.phase, t.select(REMOVED.names)),
            **whole_blocks,
        )
    )
    yield from summaries.iter_batches(**whole_blocks)


def _write_parts(out: Storage, phase: str, gone: pa.Table) -> pa.Table:
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


def _read_report(out: Storage, path: str) -> Removals:
    """What a phase took away."""
    counts: dict[tuple[int, int, str], int] = {}
    examples: dict[tuple[int, str], list[dict[str, int]]] = {}
    for row in read_table(out, path).to_pylist():
        kind = (row["stream"], row["split"], REASONS[row["reason"]])
        counts[kind] = counts.get(kind, 0) + row["count"]
        examples.setdefault((kind[0], kind[2]), []).append(row)
    return Removals(counts, [row for rows in examples.values() for row in rows[:NUM_EXAMPLES]])

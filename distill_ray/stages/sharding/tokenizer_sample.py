"""A sample of the train texts for a tokenizer, drawn by their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distill_ray.data.rows import TEXT
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sharding.files import kept_rows, read_table, write_table
from distill_ray.stages.sharding.parts import Piece
from distill_ray.stages.sharding.runner import over_parts

COLUMNS = ("key", "stream", "split", "text")
KEY_SPAN = 1 << 32
"""Values of a key's first 8 hex digits."""
MARGIN = 1.2
"""Texts are unequal in length: a little more than the expected share is drawn."""


@dataclass(frozen=True)
class SamplePart:
    """Writes a part's train texts whose keys are below a bound."""

    uri: str
    bound: int
    """Of a key's first 8 hex digits."""

    def __call__(self, number: int) -> dict[str, Any]:
        """Write the texts.

        Returns:
            `size_bytes` of the texts.
        """
        out = Storage(self.uri)
        table = kept_rows(out, number, COLUMNS).filter(pc.field("split") == "train")
        if self.bound < KEY_SPAN:
            table = table.filter(pc.less(table["key"], f"{self.bound:08x}"))
        write_table(out, _file(self.bound, number), table)
        return {"size_bytes": pc.sum(pc.binary_length(table["text"])).as_py() or 0}


def tokenizer_sample(
    run: Run, out: Storage, pieces: Sequence[Piece], train_bytes: int, size_bytes: int
) -> Iterator[str]:
    """Yield train texts in the order of their keys, until they have so many bytes.

    The order of keys is random, yet the same in every run. Memory is bounded by `size_bytes`.

    Args:
        run: reports progress.
        out: where the pieces' rows are.
        pieces: all pieces.
        train_bytes: of all train texts, duplicates included.
        size_bytes: of the sample.
    """
    share = MARGIN * size_bytes / max(1, train_bytes)
    items = [(piece.number, piece.number) for piece in pieces]
    while True:
        bound = min(KEY_SPAN, int(share * KEY_SPAN) + 1)
        work = SamplePart(out.uri, bound)
        reports = over_parts(run, out, f"sample-{bound}", items, work)
        drawn = sum(report["size_bytes"] for _, report in reports)
        if drawn >= size_bytes or bound == KEY_SPAN:
            break
        share *= 2
    schema = pa.schema([TEXT.field(name) for name in COLUMNS])
    tables = [read_table(out, _file(bound, number)) for number, _ in items]
    table = pa.concat_tables([schema.empty_table(), *tables])
    table = table.sort_by([("key", "ascending"), ("stream", "ascending")])
    remaining = size_bytes
    for text in table["text"]:
        yield text.as_py()
        remaining -= len(text.as_py().encode())
        if remaining <= 0:
            return


def _file(bound: int, number: int) -> str:
    return f"sample/{bound}/{number:06d}.parquet"

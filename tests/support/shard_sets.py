"""Small shard sets, written as the shard stage writes them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.data.packing import (
    Sample,
    labelled_sample,
    pack,
    prompt_sample,
    split_long,
    text_sample,
    unpacked,
)
from distill_ray.data.rows import PACKED

END = 0
"""Ends samples, and pads."""


def write(
    folder: Path,
    samples: Iterable[Sample],
    *,
    length: int,
    prefix: str = "s",
    grouped: bool = False,
) -> Path:
    """Write samples into one Parquet file of a new folder: packed, or a row each."""
    folder.mkdir(parents=True)
    parts = split_long(samples, length)
    rows = list(unpacked(parts, prefix) if grouped else pack(parts, length, END, prefix))
    pq.write_table(pa.Table.from_pylist(rows, schema=PACKED), folder / "00000.parquet")
    return folder


def samples(kind: str, count: int, *, vocab: int, seed: int, longest: int = 12) -> list[Sample]:
    """Random samples of unequal lengths: `text`, `labelled` or `prompts`."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ids = rng.integers(1, vocab, size=rng.integers(2, longest)).tolist()
        if kind == "text":
            made.append(text_sample(f"{number}", ids, END))
        elif kind == "labelled":
            made.append(labelled_sample(f"{number}", ids, [1 + number % 3], END))
        else:
            made.append(prompt_sample(f"{number}", ids))
    return made

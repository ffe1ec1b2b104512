"""The labels that the clean rows hold, read part by part."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

from distill_ray.config.data import TaskConfig
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sharding.files import kept_rows
from distill_ray.stages.sharding.parts import Piece, pieces_of

AFTER_ALL = "~"
"""Behind every key."""


def label_counts(out: Storage, pieces: Sequence[Piece], stream: str) -> Counter[str]:
    """Label → rows of a stream that stay."""
    counts: Counter[str] = Counter()
    for piece in pieces_of(pieces, stream):
        labels = kept_rows(out, piece.number, ["label"])["label"].drop_null()
        for pair in labels.value_counts().to_pylist():
            counts[pair["values"]] += pair["counts"]
    return counts


def last_labelled_key(out: Storage, pieces: Sequence[Piece], task: TaskConfig) -> str:
    """The key up to which train rows keep their label: the first `num_labelled_rows` do."""
    if task.num_labelled_rows is None:
        return AFTER_ALL
    columns = ["key", "split", "label"]
    keys = (
        key
        for piece in pieces_of(pieces, task.labelled_stream)
        for key, split, label in zip(
            *(c.to_pylist() for c in kept_rows(out, piece.number, columns).columns)
        )
        if split == "train" and label is not None
    )
    first = heapq.nsmallest(task.num_labelled_rows, keys)
    return first[-1] if len(first) == task.num_labelled_rows else AFTER_ALL

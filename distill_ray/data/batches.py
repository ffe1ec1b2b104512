"""Rows of a shard set → batches of tensors. B rows, T tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.data.grouping import grouped
from distill_ray.data.mixing import Mixing, streams_at
from distill_ray.data.order import BatchLayout, rows_at


@dataclass(frozen=True)
class Batch:
    """The inputs of a forward pass and the masks of its losses."""

    input_ids: Tensor
    """[B, T] int64."""
    position_ids: Tensor
    """[B, T] int64; restart at 0 with each sample."""
    label_mask: Tensor
    """[B, T] bool; True where the data supervise the prediction of the next token."""
    teacher_mask: Tensor
    """[B, T] bool; True where the teacher supervises the prediction of the next token."""
    is_task: Tensor
    """[B] bool; True for rows of a task, False for running text."""
    row_ids: tuple[str, ...]
    places: tuple[int, ...] = ()
    """Position of each row in the run's order, on any number of workers; in held-out batches, in
    its stream's. Empty: repeated rows are not told apart."""

    @property
    def targets(self) -> Tensor:
        """[B, T] the token after each; the last column is never supervised."""
        return torch.roll(self.input_ids, -1, dims=1)

    def to(self, device: torch.device) -> Batch:
        """Copy to another device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task")
        }
        return Batch(**moved, row_ids=self.row_ids, places=self.places)


class BatchSource(Protocol):
    """Where a training loop gets its batches."""

    def batch(self, step: int, micro: int) -> Batch:
        """This rank's micro-batch `micro` of step `step`."""


class Rows:
    """Rows of one stream and split, all or `limit` of them, memory-mapped, by place among them."""

    def __init__(self, folder: Path, cache: Path, limit: int | None = None) -> None:
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        files = sorted(str(p) for p in folder.glob("*.parquet"))
        data = Dataset.from_parquet(files, cache_dir=str(cache))
        self.data = data
        self.numbers: NDArray[np.int64] = np.arange(len(data))
        """[rows] each row's number among all of the split."""
        if limit is not None and limit < len(data):
            # Evenly spaced: each file holds another place of the input.
            self.numbers = np.arange(limit) * len(data) // limit

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, places: Sequence[int]) -> dict[str, list[Any]]:
        return dict(self.data[self.numbers[list(places)].tolist()])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[rows] tokens of each row."""
        column = self.data.data.column("input_ids")
        lengths: NDArray[np.int64] = pc.list_value_length(column).to_numpy().astype(np.int64)
        return lengths[self.numbers]

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """[rows] tokens of each row, without padding."""
        table = self.data.data
        samples = pc.list_value_length(table.column("sources")).to_numpy()
        chunks, first, counts = table.column("position_ids").chunks, 0, []
        for chunk in chunks:
            counts.append(_without_padding(chunk, samples[first : first + len(chunk)]))
            first += len(chunk)
        return np.concatenate([np.empty(0, np.int64), *counts])[self.numbers]


def _without_padding(position_ids: Any, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count each row's tokens before the padding, [rows].

    Padding begins where positions restart behind a row's last sample.

    Args:
        position_ids: an Arrow array of lists, one a row.
        samples: [rows] how many samples each row holds.
    """
    lengths = position_ids.value_lengths().to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    restarts = np.flatnonzero(position_ids.flatten().to_numpy() == 0)
    row = np.searchsorted(ends, restarts, side="right")
    last = np.zeros(len(lengths), dtype=np.int64)
    last[row] = restarts - (ends - lengths)[row]  # Of several, the last one stays.
    padded = np.bincount(row, minlength=len(lengths)) > samples
    return np.where(padded, last, lengths)


def collate(
    rows: Sequence[Mapping[str, Any]], is_task: Sequence[bool], places: Sequence[int] = ()
) -> Batch:
    """Stack rows of the PACKED contract, padded on the right to the longest of them.

    Padding is never supervised, and no token before it sees it. Its positions go on from the
    row's last, as if it belonged to its last sample: a restart would be another sample.
    """
    width = max(len(row["input_ids"]) for row in rows)

    def stack(column: str, dtype: Any) -> Tensor:
        padded = np.zeros((len(rows), width), dtype=dtype)
        for i, row in enumerate(rows):
            padded[i, : len(row[column])] = row[column]
        return torch.from_numpy(padded)

    position_ids = stack("position_ids", np.int64)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        position_ids[i, length:] = row["position_ids"][-1] + torch.arange(1, width - length + 1)
    return Batch(
        input_ids=stack("input_ids", np.int64),
        position_ids=position_ids,
        label_mask=stack("label_mask", np.bool_),
        teacher_mask=stack("teacher_mask", np.bool_),
        is_task=torch.tensor(list(is_task)),
        row_ids=tuple(row["row_id"] for row in rows),
        places=tuple(places),
    )


@dataclass(frozen=True)
class Stream:
    """The rows of one stream, and whether they belong to a task."""

    rows: Rows
    is_task: bool

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Make a batch of the rows with these numbers."""
        return collate(_dicts(self.rows[numbers]), [self.is_task] * len(numbers))


class MixedRows:
    """A BatchSource that mixes streams in given shares; the order is a pure function.

    Rows of unequal length are grouped, so that those of a micro-batch are of similar length.
    """

    def __init__(
        self, streams: Mapping[str, Stream], mixed: Mixing, layout: BatchLayout, *, seed: int
    ) -> None:
        self.num_micro = layout.num_micro
        self._names = list(mixed.names)
        self._streams = streams
        self._layout = layout
        lengths = {name: streams[name].rows.lengths for name in mixed.names}
        if len(np.unique(np.concatenate([*lengths.values()]))) > 1:
            self._stream_at, self._row_at = grouped(
                lengths,
                mixed,
                global_batch_size=layout.global_batch_size,
                micro_batch_size=layout.micro_batch_size,
                seed=seed,
            )
        else:
            several = mixed.by_tokens and len(mixed.names) > 1
            tokens = {n: streams[n].rows.tokens for n in mixed.names} if several else {}
            self._stream_at = streams_at(mixed, layout.global_batch_size, tokens, seed)
            counts = {name: len(row_lengths) for name, row_lengths in lengths.items()}
            self._row_at = rows_at(self._stream_at, counts, seed)

    def batch(self, step: int, micro: int) -> Batch:
        """This rank's micro-batch `micro` of step `step`."""
        places = list(self._layout.positions(step, micro))
        rows: list[dict[str, Any] | None] = [None] * len(places)
        kinds = [self._names[self._stream_at[p]] for p in places]
        for name in dict.fromkeys(kinds):
            own = [i for i, kind in enumerate(kinds) if kind == name]
            columns = self._streams[name].rows[[int(self._row_at[places[i]]) for i in own]]
            for i, row in zip(own, _dicts(columns)):
                rows[i] = row
        is_task = [self._streams[kind].is_task for kind in kinds]
        return collate([row for row in rows if row is not None], is_task, places)

    def rows_of(self, steps: Sequence[int]) -> dict[str, NDArray[np.int64]]:
        """List, by stream, the numbers of the rows that any rank reads in these steps, sorted."""
        size = self._layout.global_batch_size
        places = (np.asarray(steps)[:, None] * size + np.arange(size)).ravel()
        stream_at, row_at = self._stream_at[places], self._row_at[places]
        numbers = {name: row_at[stream_at == i] for i, name in enumerate(self._names)}
        return {name: np.unique(rows) for name, rows in numbers.items() if len(rows)}

    def read(self, steps: int) -> dict[str, dict[str, int]]:
        """Count, by stream, `rows` and `tokens` without padding that all ranks read in `steps`."""
        places = slice(0, steps * self._layout.global_batch_size)
        stream_at, row_at = self._stream_at[places], self._row_at[places]
        counts = {}
        for i, name in enumerate(self._names):
            rows = row_at[stream_at == i]
            tokens = int(self._streams[name].rows.tokens[rows].sum())
            counts[name] = {"rows": len(rows), "tokens": tokens}
        return counts


def in_order(
    streams: Mapping[str, Stream],
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Yield every row of every stream once, shared out over the ranks, from short to long.

    With a limit, at most that many rows of each stream, evenly spaced in that order.

    Each rank yields the same number of batches of the same sizes, since a sharded model's forward
    pass is collective: where rows run out, a row without supervised tokens stands in.
    """
    for stream in streams.values():
        order = np.argsort(stream.rows.lengths, kind="stable").tolist()
        if limit is not None and limit < len(order):
            order = [order[place * len(order) // limit] for place in range(limit)]
        share = -(-len(order) // world)
        own = [rank + world * i for i in range(share)]
        for start in range(0, share, batch_size):
            places = own[start : start + batch_size]
            rows = _dicts(stream.rows[[order[p] if p < len(order) else order[0] for p in places]])
            for place, row in zip(places, rows):
                if place >= len(order):
                    nothing = [False] * len(row["input_ids"])
                    row.update(label_mask=nothing, teacher_mask=nothing)
            yield collate(rows, [stream.is_task] * len(rows), places)


def _dicts(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values)) for values in zip(*columns.values())]

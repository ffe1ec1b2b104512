"""Packed rows → batches of tensors. B rows, T tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distill_ray.data.order import Shuffle, occurrence, positions_of, streams_at


@dataclass(frozen=True)
class Batch:
    """What a forward pass and its losses need."""

    input_ids: Tensor
    """[B, T] int64."""
    position_ids: Tensor
    """[B, T] int64; restart at 0 with each sample."""
    gold: Tensor
    """[B, T] bool; the data supervise the prediction made here."""
    distill: Tensor
    """[B, T] bool; the teacher supervises the prediction made here."""
    is_task: Tensor
    """[B] bool; rows of a task, against rows of running text."""
    row_ids: tuple[str, ...]

    @property
    def targets(self) -> Tensor:
        """[B, T] the token after each; the last column is never supervised."""
        return torch.roll(self.input_ids, -1, dims=1)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("input_ids", "position_ids", "gold", "distill", "is_task")
        }
        return Batch(**moved, row_ids=self.row_ids)


class BatchSource(Protocol):
    """Where a training loop gets its batches; rows of a file, or samples made on the way."""

    def batch(self, step: int, micro: int) -> Batch:
        """This rank's micro-batch `micro` of step `step`."""


class Rows:
    """The packed rows of one stream and split, memory-mapped, by number."""

    def __init__(self, folder: Path, cache: Path, limit: int | None = None) -> None:
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        files = sorted(str(p) for p in folder.glob("*.parquet"))
        data = Dataset.from_parquet(files, cache_dir=str(cache))
        self.data = data if limit is None else data.select(range(min(limit, len(data))))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        return dict(self.data[list(numbers)])


def collate(rows: Sequence[Mapping[str, Any]], is_task: Sequence[bool]) -> Batch:
    """Stack rows of the PACKED contract."""

    def stack(column: str, dtype: Any) -> Tensor:
        return torch.from_numpy(np.array([row[column] for row in rows], dtype=dtype))

    return Batch(
        input_ids=stack("input_ids", np.int64),
        position_ids=stack("position_ids", np.int64),
        gold=stack("gold", np.bool_),
        distill=stack("distill", np.bool_),
        is_task=torch.tensor(list(is_task)),
        row_ids=tuple(row["row_id"] for row in rows),
    )


@dataclass(frozen=True)
class Stream:
    """One stream's rows and kind."""

    rows: Rows
    is_task: bool


class MixedRows:
    """A BatchSource that mixes streams in fixed shares; the order is a pure function."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        mix: Mapping[str, float],
        *,
        steps: int,
        batch_rows: int,
        micro_rows: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_rows % (world * micro_rows):
            raise ValueError(f"{batch_rows} rows can't be cut into {world} x {micro_rows}")
        self.num_micro = batch_rows // (world * micro_rows)
        # Sorted: a mix is a mapping, and the order of its keys must not change that of the rows.
        mix = dict(sorted(mix.items()))
        self._names = list(mix)
        self._streams = streams
        self._layout = {
            "rank": rank,
            "world": world,
            "batch_rows": batch_rows,
            "micro_rows": micro_rows,
        }
        self._stream_at = streams_at(mix, steps * batch_rows)
        self._draw_at = occurrence(self._stream_at)
        self._shuffles = [Shuffle(n, len(streams[n].rows), seed) for n in self._names]

    def batch(self, step: int, micro: int) -> Batch:
        """This rank's micro-batch `micro` of step `step`."""
        places = list(positions_of(step, micro, **self._layout))
        rows: list[dict[str, Any] | None] = [None] * len(places)
        kinds = [self._names[self._stream_at[p]] for p in places]
        for name in dict.fromkeys(kinds):
            mine = [i for i, kind in enumerate(kinds) if kind == name]
            shuffle = self._shuffles[self._names.index(name)]
            found = self._streams[name].rows[[shuffle[self._draw_at[places[i]]] for i in mine]]
            for i, row in zip(mine, _dicts(found)):
                rows[i] = row
        is_task = [self._streams[kind].is_task for kind in kinds]
        return collate([row for row in rows if row is not None], is_task)


def in_order(
    streams: Mapping[str, Stream], *, batch_rows: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Every row of every stream once, in order, shared out over the ranks.

    Each rank yields the same number of batches of the same sizes, since a sharded model's forward
    pass is collective: where rows run out, a row without supervised tokens stands in.
    """
    for stream in streams.values():
        share = -(-len(stream.rows) // world)
        mine = [rank + world * i for i in range(share)]
        for start in range(0, share, batch_rows):
            numbers = mine[start : start + batch_rows]
            rows = _dicts(stream.rows[[n if n < len(stream.rows) else 0 for n in numbers]])
            kept = [row if n < len(stream.rows) else _silent(row) for n, row in zip(numbers, rows)]
            yield collate(kept, [stream.is_task] * len(kept))


def _dicts(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def _silent(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "gold": [False] * len(row["gold"]), "distill": [False] * len(row["distill"])}

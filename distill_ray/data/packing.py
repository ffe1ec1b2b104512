"""Pack samples into rows. This module alone decides which tokens are supervised.

A mask at position i is about the prediction of token i + 1. Samples that share a row never see
each other: position ids restart with each sample, from which
transformers builds a block-diagonal attention mask.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill_ray.data.rows import PACKED


@dataclass(frozen=True)
class Sample:
    """Tokens of one text or one question, with the masks of its predictions."""

    source: str
    """row_id of the text row."""
    ids: list[int]
    label_mask: list[bool]
    teacher_mask: list[bool]


def text_sample(source: str, ids: Sequence[int], end: int) -> Sample:
    """Running text: every token but the first is predicted, the end included."""
    tokens = [*ids, end]
    mask = [True] * len(ids) + [False]
    return Sample(source, tokens, mask, mask)


def labelled_sample(
    source: str,
    prompt: Sequence[int],
    answer: Sequence[int],
    end: int,
    trailing: Sequence[int] = (),
) -> Sample:
    """A prompt and its answer: the answer and the end are predicted, the prompt is not.

    Args:
        source: row_id of the text row.
        prompt: at least one token.
        answer: the answer's own tokens.
        end: ends it.
        trailing: what a chat template puts after the end; in the row, but never supervised.
    """
    mask = [False] * (len(prompt) - 1) + [True] * (len(answer) + 1) + [False] * (1 + len(trailing))
    return Sample(source, [*prompt, *answer, end, *trailing], mask, mask)


def prompt_sample(source: str, prompt: Sequence[int]) -> Sample:
    """A prompt without an answer: only the teacher supervises the next token."""
    distill = [False] * (len(prompt) - 1) + [True]
    return Sample(source, list(prompt), [False] * len(prompt), distill)


@dataclass(frozen=True)
class Samples:
    """n samples behind each other, T tokens in all."""

    sources: list[str]
    """[n] row_id of each sample's text row."""
    lengths: NDArray[np.int64]
    """[n] tokens of each sample."""
    ids: NDArray[np.int32]
    """[T] tokens."""
    label_mask: NDArray[np.bool_]
    """[T] True where the data supervise the prediction of the next token."""
    teacher_mask: NDArray[np.bool_]
    """[T] True where the teacher does."""

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Samples:
        """Join single samples."""
        items = list(samples)

        def flat(name: str, dtype: Any) -> NDArray[Any]:
            parts = [np.asarray(getattr(s, name), dtype) for s in items]
            return np.concatenate([np.empty(0, dtype), *parts])

        return cls(
            [s.source for s in items],
            np.array([len(s.ids) for s in items], np.int64),
            flat("ids", np.int32),
            flat("label_mask", np.bool_),
            flat("teacher_mask", np.bool_),
        )

    def single(self) -> list[Sample]:
        """Take the samples apart."""
        ids, label_mask, teacher_mask = (
            [part.tolist() for part in np.split(column, self.starts[1:])]
            for column in (self.ids, self.label_mask, self.teacher_mask)
        )
        return [Sample(*values) for values in zip(self.sources, ids, label_mask, teacher_mask)]

    @classmethod
    def of_texts(
        cls, sources: list[str], texts: Sequence[Sequence[int]], start: Sequence[int], end: int
    ) -> Samples:
        """Running texts, each between the start tokens and the end: see `text_sample`."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + len(start) + 1
        ends = np.cumsum(lengths)
        ids = np.empty(int(ends[-1]) if len(texts) else 0, np.int32)
        for text, stop in zip(texts, ends.tolist()):
            ids[stop - 1 - len(text) : stop - 1] = text
            ids[stop - 1 - len(text) - len(start) : stop - 1 - len(text)] = start
        ids[ends - 1] = end
        mask = np.ones(len(ids), np.bool_)
        mask[ends - 1] = False
        return cls(sources, lengths, ids, mask, mask)

    @classmethod
    def concatenated(cls, parts: Sequence[Samples]) -> Samples:
        """Join samples, in order."""
        return cls(
            [source for part in parts for source in part.sources],
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.label_mask for part in parts]),
            np.concatenate([part.teacher_mask for part in parts]),
        )

    @property
    def teaching(self) -> NDArray[np.bool_]:
        """[n] whether any of a sample's predictions is supervised."""
        supervised = np.concatenate([[0], np.cumsum(self.label_mask | self.teacher_mask)])
        first = np.concatenate([[0], np.cumsum(self.lengths)])
        teaches: NDArray[np.bool_] = supervised[first[1:]] > supervised[first[:-1]]
        return teaches

    def chosen(self, which: NDArray[np.bool_]) -> Samples:
        """The samples where `which` [n] is True."""
        tokens = np.repeat(which, self.lengths)
        return Samples(
            [source for source, stays in zip(self.sources, which.tolist()) if stays],
            self.lengths[which],
            self.ids[tokens],
            self.label_mask[tokens],
            self.teacher_mask[tokens],
        )

    def truncate(self, length: int, side: Literal["left", "right", "middle"]) -> Samples:
        """Cut what is too long at one side, or from its middle.

        The prediction across a cut is lost. The last token, which ends a sample, stays unless the
        right side is cut.
        """
        head = {"left": 0, "right": length, "middle": length - length // 2}[side]
        place = np.arange(len(self.ids)) - np.repeat(self.starts, self.lengths)
        from_end = np.repeat(self.lengths, self.lengths) - place
        long = np.repeat(self.lengths > length, self.lengths)
        stays = ~long | (place < head) | (from_end <= length - head)
        last_of_head = long & (place == head - 1)
        return Samples(
            self.sources,
            np.minimum(self.lengths, length),
            self.ids[stays],
            (self.label_mask & ~last_of_head)[stays],
            (self.teacher_mask & ~last_of_head)[stays],
        )

    @property
    def starts(self) -> NDArray[np.int64]:
        """[n] place of each sample's first token."""
        return np.cumsum(self.lengths) - self.lengths

    def split_long(self, length: int) -> Samples:
        """Cut samples that are longer than a row; a cut loses the one prediction across it."""
        pieces = np.maximum(-(-self.lengths // length), 1)
        if not len(pieces) or pieces.max() == 1:
            return self
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        lengths = np.minimum(np.repeat(self.lengths, pieces) - number * length, length)
        cut = np.cumsum(lengths)[number + 1 < np.repeat(pieces, pieces)] - 1
        label_mask, teacher_mask = self.label_mask.copy(), self.teacher_mask.copy()
        label_mask[cut] = teacher_mask[cut] = False
        sources = [s for s, count in zip(self.sources, pieces.tolist()) for _ in range(count)]
        return Samples(sources, lengths, self.ids, label_mask, teacher_mask)

    def pack(self, length: int, pad: int, prefix: str) -> pa.Table:
        """Rows of the PACKED contract, filled with whole samples by best fit, the longest first.

        Samples keep their order within a row, and rows that of their first samples.

        Args:
            length: tokens of a row; no sample has more.
            pad: fills the rest of a row; never supervised.
            prefix: start of each row_id.
        """
        rows = best_fit(self.lengths.tolist(), length)
        order = np.fromiter((i for row in rows for i in row), np.int64, len(self.lengths))
        per_row = np.fromiter(map(len, rows), np.int64, len(rows))
        row_of = np.repeat(np.arange(len(rows)), per_row)
        before = np.cumsum(self.lengths[order]) - self.lengths[order]
        first = np.cumsum(per_row) - per_row  # Each row's first sample, in `order`.
        place = np.empty(len(order), np.int64)  # Where each sample begins in the rows.
        place[order] = before - before[first][row_of] + row_of * length
        filled = np.bincount(row_of, self.lengths[order], len(rows)).astype(np.int64)
        target = np.arange(len(self.ids)) + np.repeat(place - self.starts, self.lengths)

        def in_rows(values: NDArray[Any], rest: NDArray[Any]) -> NDArray[Any]:
            rest[target] = values
            return rest

        total = len(rows) * length
        restart = (np.arange(total) - np.repeat(filled, length)) % length  # Padding's positions.
        return _packed_table(
            prefix,
            np.arange(len(rows) + 1) * length,
            in_rows(self.ids, np.full(total, pad, np.int32)),
            in_rows(self._positions(), restart.astype(np.int32)),
            in_rows(self.label_mask, np.zeros(total, np.bool_)),
            in_rows(self.teacher_mask, np.zeros(total, np.bool_)),
            pa.ListArray.from_arrays(
                pa.array([0, *accumulate(map(len, rows))], pa.int32()),
                pa.array([self.sources[i] for row in rows for i in row], pa.string()),
            ),
        )

    def rows_of_their_own(self, prefix: str) -> pa.Table:
        """Rows of the PACKED contract with one sample each, as long as it is."""
        return _packed_table(
            prefix,
            np.concatenate([[0], np.cumsum(self.lengths)]),
            self.ids,
            self._positions(),
            self.label_mask,
            self.teacher_mask,
            pa.ListArray.from_arrays(
                pa.array(range(len(self.sources) + 1), pa.int32()),
                pa.array(self.sources, pa.string()),
            ),
        )

    def _positions(self) -> NDArray[np.int32]:
        return (np.arange(len(self.ids)) - np.repeat(self.starts, self.lengths)).astype(np.int32)


def _packed_table(
    prefix: str, offsets: NDArray[np.int64], *columns: NDArray[Any] | pa.Array
) -> pa.Table:
    """Columns of tokens, cut into rows at the offsets, and the column of sources."""
    *of_tokens, sources = columns
    places = pa.array(offsets, pa.int32())
    lists = [pa.ListArray.from_arrays(places, pa.array(values)) for values in of_tokens]
    row_ids = [f"{prefix}:{number:06d}" for number in range(len(offsets) - 1)]
    return pa.Table.from_arrays([pa.array(row_ids, pa.string()), *lists, sources], schema=PACKED)


def split_long(samples: Iterable[Sample], length: int) -> list[Sample]:
    """The samples of `Samples.split_long`."""
    return Samples.of(samples).split_long(length).single()


def pack(samples: Iterable[Sample], length: int, pad: int, prefix: str) -> list[dict[str, Any]]:
    """The rows of `Samples.pack` as plain values."""
    return Samples.of(samples).pack(length, pad, prefix).to_pylist()  # type: ignore[no-any-return]


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: each item, the largest first, into the fullest bin that has room.

    At most 11/9 of the fewest bins possible, and 4 (Johnson et al., "Worst-case performance bounds
    for simple one-dimensional packing algorithms", 1974), where next fit may take twice as many.

    Args:
        sizes: of the items, each at most `room`.
        room: of a bin.

    Returns:
        Indices of the items in each bin, ascending; bins by their first items.
    """
    bins: list[list[int]] = []
    # Room → bins that have so much left; best fit needs only the smallest room that suffices.
    bins_with: dict[int, list[int]] = {}
    rooms: list[int] = []
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        place = bisect_left(rooms, sizes[item])
        if place == len(rooms):
            room_left, bin_index = room, len(bins)
            bins.append([])
        else:
            room_left = rooms[place]
            bin_index = heappop(bins_with[room_left])
            if not bins_with[room_left]:
                del bins_with[room_left], rooms[place]
        bins[bin_index].append(item)
        room_left -= sizes[item]
        if room_left not in bins_with:
            insort(rooms, room_left)
            bins_with[room_left] = []
        heappush(bins_with[room_left], bin_index)
    return sorted(sorted(items) for items in bins)


def unpacked(samples: Iterable[Sample], prefix: str) -> list[dict[str, Any]]:
    """The rows of `Samples.rows_of_their_own` as plain values."""
    return Samples.of(samples).rows_of_their_own(prefix).to_pylist()  # type: ignore[no-any-return]

"""What is read at once: slices of files, and batches of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import RowFault
from distill_ray.stages.reading.values import MISSING, plain

BATCH_BYTES = 4 << 20
"""Text of a batch, about."""
BATCH_ROWS = 8192
"""Most rows of a batch."""

Unit = Literal["line", "row"]


@dataclass(frozen=True)
class Slice:
    """A piece of a file.

    Counted in bytes of a line format, row groups of Parquet, record batches of Arrow, rows of a
    data set. A line belongs to the slice in which it begins.
    """

    uri: str
    """A local path or a URI; a data set's id, a function's import path."""
    start: int = 0
    end: int | None = None
    """One past the last; None: to the end."""


@dataclass(frozen=True)
class Part:
    """Slices that one task reads."""

    source: RowSource
    slices: tuple[Slice, ...]
    columns: tuple[str, ...] | None = None
    """The columns that are read; None: all."""
    required: tuple[str, ...] = ()
    """Columns that a file's header or schema must have."""
    classes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of classes, by column, where a data set's card has them and its files don't."""


@dataclass(frozen=True)
class SliceRequest:
    """What a reader is asked for: one slice of one source, and which columns of it."""

    source: RowSource
    slice: Slice
    columns: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()

    def wanted(self, available: Sequence[str]) -> list[str]:
        """Which of a file's columns are read."""
        names = available if self.columns is None else self.columns
        return [name for name in names if name in available]


@dataclass(frozen=True)
class Before:
    """How many rows or lines are before a slice: counted when it is first asked for."""

    counter: Callable[[], int]

    @cached_property
    def count(self) -> int:
        """The number."""
        return self.counter()


class Places(Sequence[int]):
    """Numbers of rows or lines in their file, counted from 1.

    A slice from the middle of a file doesn't know how many lines are before it. They are counted
    when the first number is asked for, which is when a fault is named.
    """

    def __init__(self, numbers: Sequence[int], before: Before | None = None) -> None:
        """`numbers` in the slice, from 1; `before`: of the slice."""
        self._numbers = numbers
        self._before = before

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return Places(self._numbers[index], self._before)
        return self._numbers[index] + (self._before.count if self._before else 0)

    def __len__(self) -> int:
        return len(self._numbers)


@dataclass
class RawBatch:
    """Rows as a file has them, by column."""

    columns: dict[str, Any]
    """Name → list of Python values, or an Arrow array. Without the wanted columns that the file,
    or none of these rows, has. A row of its own that lacks one has MISSING there."""
    places: Sequence[int]
    """Line or row number of each row in the file, from 1."""
    unit: Unit
    """What `places` counts."""
    file: str
    faults: list[RowFault] = field(default_factory=list)
    """Rows that were met beside these and can't be read."""

    @property
    def num_rows(self) -> int:
        """Rows in `columns`."""
        return len(self.places)

    @property
    def num_met(self) -> int:
        """Rows in `columns` and faults."""
        return len(self.places) + len(self.faults)

    def first(self, rows: int) -> RawBatch:
        """The first so many rows of the file's that are here, faults among them."""
        faults = [int(fault.place.split()[1]) for fault in self.faults]
        met = sorted([*self.places, *faults])[:rows]
        last = met[-1] if met else 0
        count = sum(place <= last for place in self.places)
        return RawBatch(
            {name: values[:count] for name, values in self.columns.items()},
            self.places[:count],
            self.unit,
            self.file,
            [fault for fault, place in zip(self.faults, faults) if place <= last],
        )


def table_batches(
    columns: Mapping[str, Any], places: Sequence[int], unit: Unit, file: str
) -> Iterator[RawBatch]:
    """Batches of Arrow columns, without a copy."""
    for start in range(0, len(places), BATCH_ROWS):
        piece = slice(start, start + BATCH_ROWS)
        cells = {name: column[piece] for name, column in columns.items()}
        yield RawBatch(cells, places[piece], unit, file)


Row = Mapping[str, Any]


def columns_of(rows: Sequence[Row], wanted: Sequence[str] | None) -> dict[str, Any]:
    """Rows of Python values by column, without columns that none of them has.

    Literals of numbers are kept where they are cells, which become strings. Inside of lists and
    objects, numbers are Python's.
    """
    names = dict.fromkeys(name for row in rows for name in row) if wanted is None else wanted
    columns = {}
    for name in names:
        values = [row.get(name, MISSING) for row in rows]
        kinds = {*map(type, values)}
        if kinds & {dict, list}:
            values = [plain(value) if type(value) in (dict, list) else value for value in values]
        if kinds - {type(MISSING)}:
            columns[name] = values
    return columns


def collect(
    rows: Iterable[tuple[int, Row | RowFault, int]],
    file: str,
    unit: Unit,
    columns: Sequence[str] | None,
) -> Iterator[RawBatch]:
    """Batches of rows of Python values.

    Args:
        rows: number in the file, the row or what is wrong with it, and its size in bytes.
        file: where they are from.
        unit: what the numbers count.
        columns: those that are wanted; None: all.
    """
    batch: list[Row] = []
    numbers: list[int] = []
    faults: list[RowFault] = []
    total = 0
    for number, row, size in rows:
        total += size
        if isinstance(row, RowFault):
            faults.append(row)
        else:
            batch.append(row)
            numbers.append(number)
        if total >= BATCH_BYTES or len(batch) + len(faults) >= BATCH_ROWS:
            yield RawBatch(columns_of(batch, columns), numbers, unit, file, faults)
            batch, numbers, faults, total = [], [], [], 0
    if batch or faults:
        yield RawBatch(columns_of(batch, columns), numbers, unit, file, faults)

"""CSV and TSV with a header. Every cell is a string."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain
from typing import Any

from distill_ray.config.errors import did_you_mean
from distill_ray.stages.reading.batches import (
    RawBatch,
    Row,
    Slice,
    SliceRequest,
    collect,
)
from distill_ray.stages.reading.faults import (
    ReadError,
    RowFault,
    raw_text,
    shortened,
    unreadable,
)
from distill_ray.stages.reading.streams import MAX_LINE, line_blocks, lines_of

_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", ":": "colon"}
QUOTING = (
    'A cell with a line break, a quote or the delimiter is quoted; quotes in it are doubled: "".'
)


def read_delimited(request: SliceRequest) -> Iterator[RawBatch]:
    """Rows of a file. A place is the line in which a row begins.

    A quoted empty cell and an unquoted one are both empty. Blank lines are no rows.

    Raises:
        ReadError: the header lacks a column or has it twice, a quote isn't closed; see
            `streams.line_blocks`.
    """
    source, file = request.source, request.slice.uri
    delimiter = "\t" if source.format == "tsv" else source.delimiter or ","
    csv.field_size_limit(MAX_LINE)
    lines = _Lines(file, source.encoding)
    cells = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next((row for row in cells if row), None)
    except csv.Error as error:
        raise unreadable(file, f"no valid header ({error})", QUOTING, place="line 1") from error
    if header is None:
        raise unreadable(file, "an empty file", "The first line names the columns.")
    wanted = _wanted(request, header, lines.last, delimiter)
    rows = _rows(file, cells, lines, header, wanted)
    return collect(rows, file, "line", list(wanted))


class _Lines:
    """The lines of a file, each with its `\\n`, which a cell may have in it."""

    def __init__(self, file: str, encoding: str | None) -> None:
        blocks = line_blocks(Slice(file), encoding)
        self._lines = chain.from_iterable(map(lines_of, blocks))
        self.row: list[str] = []
        """Lines since the last call of `begin`."""
        self.size = 0

    @property
    def last(self) -> str:
        return self.row[-1] if self.row else ""

    def begin(self) -> None:
        """A row begins."""
        self.row, self.size = [], 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.row.append(line)
        self.size += len(line) + 1
        return f"{line}\n"


def _rows(
    file: str, cells: Any, lines: _Lines, header: list[str], wanted: dict[str, int]
) -> Iterator[tuple[int, Row | RowFault, int]]:
    width = len(header)
    while True:
        lines.begin()
        number = cells.line_num + 1
        try:
            row = next(cells, None)
        except csv.Error as error:
            place = f"line {number}"
            if "unexpected end of data" in str(error) or "field larger" in str(error):
                what = "a quote that opens a cell and is never closed"
                raise unreadable(file, what, QUOTING, place=place) from error
            yield number, _fault(file, number, _words(error), QUOTING, lines), lines.size
            continue
        if row is None:
            return
        if len(row) == width:
            yield number, {name: row[index] for name, index in wanted.items()}, lines.size
        elif row:
            what = f"{len(row)} cells, where the header has {width}"
            yield number, _fault(file, number, what, QUOTING, lines), lines.size


def _fault(file: str, number: int, what: str, fix: str, lines: _Lines) -> RowFault:
    return RowFault(file, f"line {number}", "", what, fix, raw_text("\n".join(lines.row)))


def _words(error: csv.Error) -> str:
    text = str(error)
    if "new-line character" in text:
        return "a carriage return outside of quotes"
    return f"quotes that don't fit ({text})"


def _wanted(request: SliceRequest, header: list[str], line: str, delimiter: str) -> dict[str, int]:
    """Name → index of the columns that are read.

    Raises:
        ReadError: a required one isn't there, or one is there twice.
    """
    file = request.slice.uri
    for name in request.required:
        if name not in header:
            raise _no_column(file, header, name, line, delimiter)
    for name in request.columns or ():
        if header.count(name) > 1:
            what = f"a header that has {name!r} {header.count(name)} times"
            raise unreadable(file, what, "Rename one of them.", place="line 1")
    names = header if request.columns is None else request.wanted(header)
    return {name: header.index(name) for name in names}


def _no_column(file: str, header: list[str], name: str, line: str, delimiter: str) -> ReadError:
    shown = ", ".join(repr(raw_text(shortened(column))) for column in header[:20])
    fix = f"The first line names the columns. {did_you_mean(name, ())}".strip()
    near = did_you_mean(name, header) if len(header) > 1 else ""
    if near.startswith("Did you mean"):
        fix = near
    fix = delimiter_fix(line, len(header), delimiter) or fix
    what = f"no column {name!r} in the header; its columns are {shown}"
    return unreadable(file, what, fix, place="line 1")


def delimiter_fix(line: str, width: int, delimiter: str) -> str:
    """What to do where another delimiter cuts a header into more cells; else nothing.

    Args:
        line: the header.
        width: its number of cells.
        delimiter: what they were cut by.
    """
    others = {d: len(next(csv.reader(io.StringIO(line), delimiter=d), [])) for d in _NAMES}
    best = max(others, key=lambda other: others[other])
    if width > 1 or others[best] < 2 or best == delimiter:
        return ""
    key = "the key `tsv`" if best == "\t" else "the key `csv`"
    if best not in ("\t", ","):
        key = f"`delimiter: {best!r}`" if delimiter != "\t" else f"{key} and `delimiter: {best!r}`"
    return f"Its cells are separated by a {_NAMES[best]}: set {key}."

"""JSON Lines, one JSON array, or objects over several lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

from distill_ray.stages.reading.batches import (
    BATCH_ROWS,
    Before,
    Places,
    RawBatch,
    Row,
    SliceRequest,
    collect,
    columns_of,
    table_batches,
)
from distill_ray.stages.reading.faults import RowFault
from distill_ray.stages.reading.json_arrow import arrow_columns
from distill_ray.stages.reading.json_values import SPACE, Problem, ValueStream, decode, parse_line
from distill_ray.stages.reading.streams import (
    MAX_LINE,
    can_cut,
    characters,
    line_blocks,
    lines_before,
    lines_of,
)


def can_split(uri: str, encoding: str | None) -> bool:
    """Whether a file can be read in slices: lines of UTF-8, not compressed."""
    return can_cut(uri, encoding) and _has_lines(uri, encoding)


def read_json(request: SliceRequest) -> Iterator[RawBatch]:
    """Rows of a slice of JSON Lines, or of a whole other JSON file.

    Values are str, int, bool, None, list and dict; a number that isn't a plain integer is a
    `Number`. Blank lines are no rows. A line's fault doesn't end the file.

    Raises:
        ReadError: an array is broken; see `streams.lines`.
    """
    piece, encoding = request.slice, request.source.encoding
    if piece.start or piece.end is not None or _has_lines(piece.uri, encoding):
        return _read_lines(request)
    rows = ValueStream(piece.uri, encoding, request.columns)
    return collect(rows, piece.uri, "row", request.columns)


def _has_lines(uri: str, encoding: str | None) -> bool:
    """Whether each line is a value of its own, judging by the first one that isn't blank.

    A line that is broken otherwise than by ending early counts as one, and becomes a fault.
    """
    blocks: list[str] = []
    for block in characters(uri, encoding):
        text = block if blocks else block.lstrip(SPACE)
        if not text:
            continue
        blocks.append(text)
        if blocks[0][0] != "{":
            return blocks[0][0] != "["
        if "\n" in text or len(blocks) * len(text) > MAX_LINE:
            break
    first, _, rest = "".join(blocks).partition("\n")
    try:
        decode(first, 0)
    except json.JSONDecodeError as error:
        # Between two tokens, and the next line doesn't begin a row: pretty-printed.
        ends_early = error.pos >= len(first.rstrip(SPACE))
        return not (first.startswith("{") and ends_early and rest.strip(SPACE)[:1] not in "{")
    except (ValueError, RecursionError):
        pass
    return True


def _read_lines(request: SliceRequest) -> Iterator[RawBatch]:
    file, before = request.slice.uri, lines_before(request.slice)
    number = 1
    for block in line_blocks(request.slice, request.source.encoding):
        table = arrow_columns(block, request) if isinstance(block, bytes) else None
        if table is None or isinstance(block, str):
            lines = lines_of(block)
            yield from _row_by_row(lines, number, before, request)
            number += len(lines)
        else:
            places = Places(range(number, number + table.num_rows), before)
            columns = dict(zip(table.column_names, table.columns))
            yield from table_batches(columns, places, "line", file)
            number += block.count(b"\n")


def _row_by_row(
    lines: list[str], first: int, before: Before | None, request: SliceRequest
) -> Iterator[RawBatch]:
    """Rows of lines, and the faults of those that have one."""
    file, wanted = request.slice.uri, request.columns
    for start in range(0, len(lines), BATCH_ROWS):
        rows: list[Row] = []
        numbers: list[int] = []
        faults: list[RowFault] = []
        for number, line in enumerate(lines[start : start + BATCH_ROWS], first + start):
            try:
                row, end = decode(line)
                plain = end == len(line) and type(row) is dict
            except (ValueError, RecursionError):
                plain = False
            if not plain:
                row = parse_line(line, wanted)
            if isinstance(row, Problem):
                place = f"line {Places([number], before)[0]}"
                faults.append(row.fault(file, place, line))
            elif row is not None:
                rows.append(row)
                numbers.append(number)
        yield RawBatch(columns_of(rows, wanted), Places(numbers, before), "line", file, faults)

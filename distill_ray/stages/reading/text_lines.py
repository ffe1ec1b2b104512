"""Plain text, one row a line."""

from __future__ import annotations

from collections.abc import Iterator

from distill_ray.stages.reading.batches import BATCH_ROWS, Places, RawBatch, SliceRequest
from distill_ray.stages.reading.streams import line_blocks, lines_before, lines_of


def read_text(request: SliceRequest) -> Iterator[RawBatch]:
    """The lines of a slice in the text column, blank ones too.

    Raises:
        ReadError: see `streams.line_blocks`.
    """
    column, before = request.source.text_column, lines_before(request.slice)
    number = 1
    for block in line_blocks(request.slice, request.source.encoding):
        lines = lines_of(block)
        for start in range(0, len(lines), BATCH_ROWS):
            texts = [line.removesuffix("\r") for line in lines[start : start + BATCH_ROWS]]
            places = Places(range(number, number + len(texts)), before)
            columns = {column: texts} if request.wanted([column]) else {}
            yield RawBatch(columns, places, "line", request.slice.uri)
            number += len(texts)

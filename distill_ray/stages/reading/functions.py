"""Rows that a user's own function yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from distill_ray.core.plugins import PluginError, import_path
from distill_ray.stages.reading.batches import RawBatch, Row, SliceRequest, collect
from distill_ray.stages.reading.faults import RowFault, kind_of, raw_text, unreadable


def read_function(request: SliceRequest) -> Iterator[RawBatch]:
    """The rows of `package.module:function`, called with the source's options.

    Raises:
        ReadError: the function can't be imported, or raises.
    """
    name = request.source.location
    return collect(_rows(request), name, "row", request.columns)


def _rows(request: SliceRequest) -> Iterator[tuple[int, Row | RowFault, int]]:
    name, number = request.source.location, 0
    try:
        function = import_path(name)
    except PluginError as error:
        raise unreadable(name, str(error)) from error
    try:
        for row in islice(function(**request.source.options), request.source.max_rows):
            number += 1
            if isinstance(row, Mapping):
                size = sum(len(v) if isinstance(v, (str, bytes)) else 8 for v in row.values())
                yield number, row, size
            else:
                what, fix = kind_of(row), "It must yield dicts, for example {'text': ...}."
                yield number, RowFault(name, f"row {number}", "", what, fix, raw_text(str(row))), 1
    except GeneratorExit:
        raise
    except Exception as error:  # Whatever a user's function raises is its own.
        what = f"the function raised {type(error).__name__} ({error})"
        place = f"row {number + 1}"
        raise unreadable(name, what, "Mend the function.", place=place) from error

"""Values of a column as strings: the same ones that the file has, or a fault that names the row."""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill_ray.stages.reading.faults import RowFault, kind_of, raw_text

Role = Literal["text", "label", "group"]


class _Missing:
    """What a row has in a column that it lacks."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING = _Missing()


class Number(str):
    """A JSON number that isn't a plain integer, as it was written: `1.10` stays `1.10`."""

    __slots__ = ()


class NotJSON(str):
    """`NaN`, `Infinity` or `-Infinity` in a JSON file."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """A value of a row with its numbers as Python's, for what isn't read as strings."""
    if isinstance(value, (Number, NotJSON)):
        return float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def as_strings(
    column: Any, role: Role, file: str, places: Sequence[int], unit: str, column_name: str
) -> tuple[pa.StringArray, list[tuple[int, RowFault]]]:
    """A column's values as strings.

    Text stays the same text. Numbers and booleans are written as in the file (`1.10`, `true`),
    dates as Python writes them. Categories are decoded.

    Args:
        column: Python values, or an Arrow array; one of a batch's `columns`.
        role: what the column is for. Nothing, blank cells and MISSING are null; only a text that is
            MISSING is a fault.
        file: where the values are from.
        places: line or row number of each value.
        unit: what `places` counts.
        column_name: its name, for messages.

    Returns:
        the strings, null where there is none, and each fault with its index. A fault's string is
        null, too.
    """
    arrow = isinstance(column, (pa.Array, pa.ChunkedArray))
    strings, faults = _of_arrow(column, role) if arrow else _of_values(column, role)
    if pa.types.is_null(strings.type):
        strings = strings.cast(pa.string())
    blank = pc.or_(pc.equal(strings, ""), pc.utf8_is_space(strings))
    strings = pc.if_else(blank, pa.scalar(None, pa.string()), strings)
    return strings, [
        (index, RowFault(file, f"{unit} {places[index]}", column_name, what, fix, raw))
        for index, (what, fix, raw) in faults
    ]


_Faults = list[tuple[int, tuple[str, str, str]]]
"""Index, and a fault's `what`, `fix` and `raw`."""


def class_labels(column: Any, names: Sequence[str]) -> Any:
    """A column with its classes by name. -1 is no class, as in `datasets`.

    What is neither a number of a class nor one of the names stays as it is.
    """
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        if not pa.types.is_integer(column.type):
            return column
        known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
        labels = pa.array(names, pa.string()).take(pc.if_else(known, column, None))
        other = pc.if_else(pc.or_(known, pc.equal(column, -1)), None, column)
        return pc.coalesce(labels, other.cast(pa.string()))
    table: dict[Any, str | None] = {"-1": None, -1: None}
    table |= {str(i): name for i, name in enumerate(names)} | dict(enumerate(names))
    table |= {name: name for name in names}
    return [table.get(v, v) if type(v) in (str, int) else v for v in column]


def _of_values(values: Sequence[Any], role: Role) -> tuple[pa.StringArray, _Faults]:
    kinds = {*map(type, values)}
    if kinds <= {str, Number, int, type(None)}:
        cells = [str(v) if type(v) is int else v for v in values] if int in kinds else values
        try:
            return pa.array(cells, pa.string()), []
        except UnicodeEncodeError:  # A lone surrogate: find the row.
            pass
    strings: list[str | None] = []
    faults: _Faults = []
    for index, value in enumerate(values):
        string = _string_of(value)
        problem = None
        if string is None and value is MISSING and role == "text":
            problem = ("this row has no such column", "Name the column with `text_column`.")
        elif string is None and value is not None and value is not MISSING:
            problem = (kind_of(value), _fix_of(value, role))
        elif string is not None and not _encodes(string):
            problem = _not_unicode(string)
        if problem is not None:
            faults.append((index, (*problem, raw_text(str(value)))))
        strings.append(None if problem else string)
    return pa.array(strings, pa.string()), faults


def _string_of(value: Any) -> str | None:
    """A Python value as a string, or None for what isn't one, or is nothing."""
    if isinstance(value, NotJSON):
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):  # NumPy's among them, which know their own digits.
        return str(value) if math.isfinite(value) else None
    exact = (decimal.Decimal, datetime.date, datetime.time, datetime.timedelta, uuid.UUID)
    return str(value) if isinstance(value, exact) and value == value else None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_unicode(text: str) -> tuple[str, str]:
    """What a text with lone surrogates is, and what to do."""
    lone = [ord(c) for c in text if "\ud800" <= c <= "\udfff"]
    if all(0xDC00 <= code <= 0xDCFF for code in lone):
        place = text.index(chr(lone[0]))
        near = text[max(0, place - 20) : place + 20]
        shown = "".join(
            f"\\x{ord(c) - 0xDC00:02x}" if "\udc00" <= c <= "\udcff" else repr(c)[1:-1]
            for c in near
        )
        return (
            f"bytes that aren't text in UTF-8, or in the encoding that is named (near '{shown}')",
            "Name the file's encoding, for example `encoding: cp1252`.",
        )
    return f"half of a surrogate pair (\\u{lone[0]:04x}), no character", "Mend the row."


def _fix_of(value: Any, role: Role) -> str:
    if isinstance(value, (NotJSON, numbers.Real)):
        return "JSON has no such number: write null for nothing, or a text."
    if isinstance(value, bytes):
        return "Name their encoding, for example `encoding: utf-8`, if they are text."
    if role == "text":
        return "Name a column of text with `text_column`, or a conversation's with `row_format`."
    return f"A {role} is a text, a number or a boolean: name another with `{role}_column`."


def _of_arrow(column: Any, role: Role) -> tuple[pa.StringArray, _Faults]:
    """Strings of an Arrow column. Texts are never turned into Python objects."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # Of no chunk, or too large for one.
        array = pa.concat_arrays(array.chunks) if array.num_chunks else array.type.wrap_array([])
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _of_arrow(array.storage, role)
    if pa.types.is_dictionary(kind):
        return _of_arrow(array.dictionary_decode(), role)
    if pa.types.is_run_end_encoded(kind):
        return _of_arrow(pc.run_end_decode(array), role)
    if pa.types.is_string(kind):
        return _valid(array, role)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _valid(array.cast(pa.string()), role)
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return array.cast(pa.string()), []
    if pa.types.is_floating(kind):
        return _of_floats(array)
    if pa.types.is_decimal(kind) or pa.types.is_temporal(kind):
        return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string()), []
    # A list, an object or bytes: whatever isn't null is a fault.
    faults: _Faults = []
    for index in pc.indices_nonzero(array.is_valid()).to_pylist():
        value = array[index].as_py()
        faults.append((index, (kind_of(value), _fix_of(value, role), raw_text(str(value)))))
    return pa.nulls(len(array), pa.string()), faults


def _valid(array: pa.StringArray, role: Role) -> tuple[pa.StringArray, _Faults]:
    """The strings that are UTF-8: Arrow files don't promise it."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        pass
    else:
        return array, []
    data = array.cast(pa.binary()).to_pylist()
    texts = [None if v is None else v.decode("utf-8", "surrogateescape") for v in data]
    return _of_values(texts, role)


def _of_floats(array: Any) -> tuple[pa.StringArray, _Faults]:
    """Floats as Python writes them: 1.0 stays `1.0`, and float32 has the digits of float32."""
    write: Callable[[Any], str] = str
    finite = pc.fill_null(pc.is_finite(array), True)
    faults: _Faults = [
        (i, (f"{array[i].as_py()}", "Write null for nothing, or a text.", str(array[i])))
        for i in pc.indices_nonzero(pc.invert(finite)).to_pylist()
    ]
    values = array.to_numpy(zero_copy_only=False)
    keep = pc.and_(array.is_valid(), finite).to_pylist()
    strings = [write(value) if ok else None for value, ok in zip(values, keep)]
    return pa.array(strings, pa.string()), faults

"""Rows of a user's own functions."""

from __future__ import annotations

import pytest
from read_rows import read_rows

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.parts import input_bytes, peek


def _source(name, **keys):
    return RowSource(callable=f"user_rows:{name}", **keys)


def test_a_functions_rows_are_read_with_its_options():
    rows = read_rows(_source("rows", options={"count": 10_000}))
    assert len(rows.texts) == 10_000 and rows.labels[:2] == ["0000", "0001"]
    assert rows.places == [*range(1, 10_001)] and input_bytes(_source("rows")) == 0


def test_typed_values_are_written_as_python_writes_them():
    rows = read_rows(_source("typed"))
    strings = ["1", "1.0", "true", "1.10", "2024-01-05", None, "01", "7", "0.1", "false", "x"]
    assert rows.labels == [*strings, None, None]
    assert [(f.place, f.column) for f in rows.faults] == [("row 12", "label"), ("row 13", "label")]


def test_what_a_function_raises_names_the_function_and_the_row():
    with pytest.raises(ReadError, match=r"user_rows:failing, row 3: .*KeyError \('speaker'\)"):
        read_rows(_source("failing"))


def test_what_is_no_dict_is_a_fault():
    rows = read_rows(_source("not_rows"))
    assert rows.texts == ["a"] and [fault.place for fault in rows.faults] == ["row 2", "row 3"]
    assert "text ('b')" in rows.faults[0].what


def test_a_function_that_is_not_there_or_takes_other_options_is_named():
    with pytest.raises(ReadError, match="user_rows:nothing"):
        read_rows(_source("nothing"))
    with pytest.raises(ReadError, match="unexpected keyword argument 'counts'"):
        read_rows(_source("rows", options={"counts": 1}))


def test_max_rows_stops_the_function():
    assert len(read_rows(_source("failing", max_rows=2)).texts) == 2
    assert peek(_source("failing"), 2).columns["text"] == ["a", "b"]

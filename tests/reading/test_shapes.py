"""What rows look like, and which key reads them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_rows import write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.inspection import row_format
from distill_ray.stages.reading.parts import peek
from distill_ray.stages.reading.shapes import describe, wrong_shape


def _fault(tmp_path, *rows, **keys):
    path = write(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    source = RowSource(jsonl=str(path), **keys)
    return wrong_shape(source, peek(source))


def test_a_column_of_text_is_right(tmp_path):
    for value in ("a", "", "0101", 5, 1.5, True, None):
        assert _fault(tmp_path, {"text": value, "more": {}}) is None


def test_the_first_value_that_is_not_null_counts(tmp_path):
    assert "holds lists" in str(_fault(tmp_path, {"text": None}, {"text": [1]}))


def test_nested_rows_are_told_with_their_columns(tmp_path):
    fault = _fault(tmp_path, {"row": {"text": "a", "n": 1}, "label": "x"})
    assert "columns: row (an object), label (text)" in str(fault)
    assert "Text is inside of an object (row.text)" in fault.fix and fault.place == "line 1"


@pytest.mark.parametrize(
    ("row", "row_format"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
    ],
)
def test_conversations_are_told_with_the_format_that_reads_them(tmp_path, row, row_format):
    assert f"`row_format: {row_format}`" in _fault(tmp_path, row).fix


def test_one_object_around_the_rows_is_told(tmp_path):
    rows = [{"text": f"row {i}"} for i in range(240)]
    fault = _fault(tmp_path, {"version": 1, "data": rows})
    assert "one JSON object with 240 rows in 'data'" in fault.fix and "jq -c '.data[]'" in fault.fix
    path = write(tmp_path / "pretty.json", json.dumps({"version": 1, "data": rows}, indent=1))
    source = RowSource(jsonl=str(path))
    assert "240 rows in 'data'" in wrong_shape(source, peek(source)).fix


def test_another_name_is_suggested(tmp_path):
    assert "Did you mean 'texts'?" in _fault(tmp_path, {"texts": "a", "id": 5}).fix
    assert "body, title hold text" in _fault(tmp_path, {"body": "a", "title": "b", "id": 5}).fix


@pytest.mark.parametrize(
    ("key", "delimiter", "fix"),
    [
        ("csv", ";", "separated by a semicolon: set `delimiter: ';'`."),
        ("csv", "\t", "separated by a tab: set the key `tsv`."),
        ("tsv", ",", "separated by a comma: set the key `csv`."),
        ("tsv", ";", "set the key `csv` and `delimiter: ';'`."),
    ],
)
@pytest.mark.parametrize("column", ["text", "Body"])
def test_another_delimiter_is_named(tmp_path, key, delimiter, fix, column):
    path = write(tmp_path / "cells", f"id{delimiter}{column}\n1{delimiter}a\n")
    source = RowSource(**{key: str(path)})
    fault = wrong_shape(source, peek(source))
    assert fault is not None and fault.fix.endswith(fix)


def test_a_text_column_without_a_value_does_not_hide_conversations(tmp_path):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "rows.jsonl"
    source = RowSource(jsonl=str(path))
    write(path, json.dumps({"text": None, "messages": talk}))
    assert row_format(source, is_corpus=True) == "messages"
    write(path, json.dumps({"text": "c", "messages": talk}))
    assert row_format(source, is_corpus=True) == "text"


def test_columns_of_arrow_are_described_by_kind(tmp_path):
    table = pa.table(
        {
            "text": pa.array([[1], None]),
            "n": [1, 2],
            "when": pa.array([0, 1], pa.date32()),
            "cat": pa.array(["a", "b"]).dictionary_encode(),
            "none": pa.nulls(2),
            "raw": [b"x", b"y"],
            "inner": [{"a": 1}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = RowSource(parquet=str(tmp_path / "a.parquet"))
    assert describe(peek(source)) == (
        "columns: text (a list), n (a number), when (a date or time), cat (text), none (nothing), "
        "raw (bytes), inner (an object)"
    )
    assert "column 'text' holds lists" in str(wrong_shape(source, peek(source)))


def test_a_batch_of_faults_alone_has_no_shape(tmp_path):
    path = write(tmp_path / "rows.jsonl", "[1]\n2\n")
    source = RowSource(jsonl=str(write(path, "{\n{\n")))
    batch = peek(source)
    assert wrong_shape(source, batch) is None and len(batch.faults) == 2

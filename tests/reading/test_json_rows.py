"""JSON Lines, arrays and objects: values as written, faults by line."""

from __future__ import annotations

import json

import pytest
from read_rows import read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.parts import plan_parts, read


def _read(tmp_path, content, **keys):
    return read_rows(RowSource(jsonl=str(write(tmp_path / "rows.jsonl", content)), **keys))


def _faults(tmp_path, content):
    return [(fault.place, str(fault)) for fault in _read(tmp_path, content).faults]


def _labels(tmp_path, *literals):
    lines = [f'{{"text": "a", "label": {literal}}}\n' for literal in literals]
    return _read(tmp_path, "".join(lines)).labels


@pytest.mark.parametrize("kind", ["array", "lines"])
def test_text_that_looks_like_something_else_stays_as_it_is(tmp_path, kind):
    values = ["0101", "1.10", "true", "06:30", "NA", "null", "2024-01-05", "9" * 25, "1e3"]
    rows = [{"text": value, "label": value} for value in values]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    rows_read = _read(tmp_path, json.dumps(rows) if kind == "array" else lines)
    assert rows_read.texts == rows_read.labels == values


def test_numbers_have_the_digits_of_the_file(tmp_path):
    literals = ["1.10", "1.0", "1e3", "-0.0", "12345678901234567890123456", "7", "true", "null"]
    assert _labels(tmp_path, *literals) == [*literals[:-1], None]
    assert _labels(tmp_path, "1", "null", "2") == ["1", None, "2"]


def test_an_integer_of_thousands_of_digits_stays_too(tmp_path):
    assert _labels(tmp_path, "9" * 5000) == ["9" * 5000]


def test_a_huge_number_in_a_column_that_nobody_reads_does_not_matter(tmp_path):
    row = '{"id": %s, "text": "a", "x": NaN, "x": 2}\n' % ("8" * 5000)
    assert _read(tmp_path, row).texts == ["a"]


def test_a_column_may_change_its_kind_after_the_first_megabytes(tmp_path):
    rows = [{"text": "x" * 500, "label": 1, "meta": 1} for _ in range(6000)]
    rows += [{"text": "last", "label": "01", "meta": {"a": [1]}}, {"text": 5, "label": 0.5}]
    rows_read = _read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert rows_read.labels == ["1"] * 6000 + ["01", "0.5"]
    assert rows_read.texts[-2:] == ["last", "5"]


def test_not_a_number_is_no_label(tmp_path):
    (fault,) = _read(tmp_path, '{"text": "a", "label": 1.5}\n{"text": "b", "label": NaN}\n').faults
    assert (fault.place, fault.column) == ("line 2", "label") and "NaN" in fault.what


def test_empty_and_blank_labels_are_none(tmp_path):
    assert _labels(tmp_path, '""', '" \\t"', "null", '"a"') == [None, None, None, "a"]


def test_a_missing_label_is_none_and_a_missing_text_is_a_fault(tmp_path):
    rows = _read(tmp_path, '{"text": "a", "label": "b"}\n{"text": "c"}\n{"label": "d"}\n')
    assert rows.labels == ["b", None, "d"] and rows.texts == ["a", "c", None]
    assert [(f.place, f.column) for f in rows.faults] == [("line 3", "text")]


def test_a_column_that_no_row_has_is_not_in_the_batch(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    (part,) = plan_parts(RowSource(jsonl=str(path)), 100, ("text", "label"))
    assert [[*batch.columns] for batch in read(part)] == [["text"]]


def test_a_key_that_is_escaped_is_the_same_key(tmp_path):
    rows = _read(tmp_path, '{"text": "a"}\n{"text": "b", "\\u006cabel": "x"}\n')
    assert rows.labels == [None, "x"]


@pytest.mark.parametrize("value", ["[1, 2]", '{"a": 1}'])
@pytest.mark.parametrize("column", ["text", "label"])
def test_lists_and_objects_are_faults_with_line_and_column(tmp_path, value, column):
    row = {"text": "a", "label": "b"}
    lines = json.dumps(row) + "\n" + json.dumps({**row, column: json.loads(value)}) + "\n"
    (fault,) = _read(tmp_path, lines).faults
    assert (fault.place, fault.column) == ("line 2", column)
    assert ("a list ([1, 2])" if "[" in value else "an object") in str(fault)
    assert str(fault).startswith(f"{tmp_path / 'rows.jsonl'}, line 2, column '{column}': a")


def test_half_a_surrogate_pair_is_a_fault(tmp_path):
    (fault,) = _read(tmp_path, '{"text": "a"}\n{"text": "b\\ud83d"}\n').faults
    assert fault.place == "line 2" and "\\ud83d" in fault.what
    json.dumps(fault.raw).encode()
    assert _read(tmp_path, '{"text": "\\ud83d\\ude00"}\n').texts == ["😀"]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    rows = _read(tmp_path, '\n{"text": "a"}\n  \r\n\t\n{"text": "b"}')
    assert rows.texts == ["a", "b"] and rows.places == [2, 5]


def test_each_broken_line_is_named_and_the_others_are_read(tmp_path):
    lines = ['{"text": "a"}', '{"text": "b"', "[1]", '"c"', '{"text": "d"} {"text": "e"}']
    lines += ['{"text": "f", "text": "g"}', '{"text": "h\ti"}', '{"text": "j"}', '{"text": "k']
    rows = _read(tmp_path, "\n".join(lines))
    assert rows.texts == ["a", "j"]
    assert [fault.place for fault in rows.faults] == [f"line {n}" for n in (2, 3, 4, 5, 6, 7, 9)]
    found = " | ".join(fault.what for fault in rows.faults)
    for words in ("ends early", "a list", "more after the value", "one key twice", "U+0009"):
        assert words in found
    assert [fault.raw for fault in rows.faults] == [lines[n] for n in (1, 2, 3, 4, 5, 6, 8)]
    assert rows.faults[4].column == "text"


def test_lines_of_several_objects_are_not_mistaken_for_lines_of_one(tmp_path):
    rows = _read(tmp_path, '{"text": "a"} {"text": "b"}\n\n{"text": "c"}\n')
    assert rows.texts == ["c"] and [fault.place for fault in rows.faults] == ["line 1"]


def test_a_place_counts_the_lines_before_a_part(tmp_path):
    lines = [json.dumps({"text": f"row {i}", "label": "x"}) for i in range(1000)]
    lines[777] = "{"
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))
    rows = read_rows(RowSource(jsonl=str(path)), 500)
    assert rows.parts > 20
    assert [fault.place for fault in rows.faults] == ["line 778"]
    assert rows.places == [n for n in range(1, 1001) if n != 778]


def test_objects_over_several_lines_are_read(tmp_path):
    rows = [{"text": f"row {i}", "label": i, "more": {"a": [1, 2]}} for i in range(3)]
    rows_read = _read(tmp_path, "\n".join(json.dumps(row, indent=2) for row in rows))
    assert rows_read.texts == ["row 0", "row 1", "row 2"] and rows_read.places == [1, 2, 3]


def test_a_first_line_that_is_cut_off_does_not_hide_the_lines_after_it(tmp_path):
    assert [p for p, _ in _faults(tmp_path, '{"text": "a",\n{"text": "b"}\n')] == ["line 1"]


@pytest.mark.parametrize(
    ("content", "place", "found"),
    [
        ('[{"text": "a"},\n {"text": "b"}', "line 2, row 2", "array that ends early"),
        ('[{"text": "a"},\n {"text": "b]', "line 2, row 2", "ends early"),
        ('[{"text": "a"}\n {"text": "b"}]', "line 2, row 1", "where a comma should be"),
        ('[{"text": "a"},\n {"text" "b"}]', "line 2, row 2", "no valid JSON"),
        ('[{"text": "a"}]\n[{"text": "b"}]', "line 2, row 1", "more after the JSON array"),
    ],
)
def test_a_broken_array_is_named_with_line_and_row(tmp_path, content, place, found):
    with pytest.raises(ReadError) as caught:
        _read(tmp_path, content)
    assert caught.value.fault.place == place and found in caught.value.fault.what


def test_rows_of_an_array_that_are_no_objects_are_faults(tmp_path):
    rows = _read(tmp_path, '[{"text": "a"}, 5, ["b"], {"text": "c"}]')
    assert rows.texts == ["a", "c"] and rows.places == [1, 4]
    assert [(f.place, f.raw) for f in rows.faults] == [("row 2", "5"), ("row 3", '["b"]')]


def test_an_array_larger_than_a_block_streams(tmp_path):
    rows = [{"text": "y" * 3000, "label": f"{i:05d}"} for i in range(3000)]
    rows.insert(1500, {"text": "z" * 5_000_000, "label": "long"})
    path = write(tmp_path / "rows.json", json.dumps(rows))
    rows_read = read_rows(RowSource(jsonl=str(path)))
    assert rows_read.labels == [row["label"] for row in rows]
    assert len(rows_read.texts[1500]) == 5_000_000
    (part,) = plan_parts(RowSource(jsonl=str(path)), 1 << 20, ("text",))
    assert max(sum(map(len, batch.columns["text"])) for batch in read(part)) < 10_000_000


def test_lists_nested_without_end_are_one_fault(tmp_path):
    rows = _read(tmp_path, '{"text": "a"}\n{"text": ' + "[" * 200_000 + '\n{"text": "b"}\n')
    assert rows.texts == ["a", "b"] and rows.faults[0].place == "line 2"


def test_an_empty_file_has_no_rows(tmp_path):
    assert _read(tmp_path, "").texts == [] and _read(tmp_path, "[]").texts == []


def test_max_rows_takes_the_first_rows_broken_ones_among_them(tmp_path):
    rows = _read(tmp_path, '{"text": "a"}\n{\n{"text": "b"}\n{"text": "c"}\n', max_rows=3)
    assert rows.texts == ["a", "b"] and [fault.place for fault in rows.faults] == ["line 2"]


def test_numbers_inside_of_lists_and_objects_are_numbers(tmp_path):
    """They are rendered by a chat template, not read as strings."""
    path = write(tmp_path / "rows.jsonl", '{"messages": [{"arguments": {"x": 1.50, "n": 2}}]}\n')
    (part,) = plan_parts(RowSource(jsonl=str(path)), 100, ("messages",))
    (batch,) = read(part)
    assert batch.columns["messages"] == [[{"arguments": {"x": 1.5, "n": 2}}]]
    assert type(batch.columns["messages"][0][0]["arguments"]["x"]) is float

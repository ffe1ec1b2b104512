"""CSV and TSV: every cell is the string that it is."""

from __future__ import annotations

import pytest
from read_rows import read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError


def _read(tmp_path, content, key="csv", **keys):
    path = write(tmp_path / f"rows.{key}", content)
    return read_rows(RowSource(**{key: str(path)}, **keys))


def _error(tmp_path, content, key="csv", **keys):
    with pytest.raises(ReadError) as caught:
        _read(tmp_path, content, key, **keys)
    return caught.value.fault


def test_cells_that_look_like_something_else_stay_as_they_are(tmp_path):
    cells = ["0101", "1.10", "true", "06:30", "NA", "null", "nan", "2024-01-05", "9" * 25, " a "]
    rows = _read(tmp_path, "label,text\n" + "".join(f"{cell},{cell}\n" for cell in cells))
    assert rows.texts == rows.labels == cells


def test_an_empty_cell_is_none_quoted_or_not(tmp_path):
    assert _read(tmp_path, 'text,label\na,\nb,""\nc,"x"\n').labels == [None, None, "x"]


def test_a_cell_with_line_breaks_counts_its_lines(tmp_path):
    rows = _read(tmp_path, 'text,label\r\n"a\r\nb\n\nc",x\r\n\r\nd,y\r\n')
    assert rows.texts == ["a\r\nb\n\nc", "d"] and rows.places == [2, 7]


def test_cells_with_line_breaks_are_read_beyond_the_first_megabyte(tmp_path):
    cell = "line\n" * 300
    content = "text,label\n" + "".join(f'"{cell}{i}","{i:04d}"\n' for i in range(5000))
    rows = _read(tmp_path, content)
    assert rows.texts == [f"{cell}{i}" for i in range(5000)]
    assert rows.labels[:2] == ["0000", "0001"]
    assert rows.places[1] == 2 + 301


def test_a_cell_may_be_larger_than_pythons_limit(tmp_path):
    rows = _read(tmp_path, "text,label\n" + "x" * 1_000_000 + ",a\n")
    assert len(rows.texts[0]) == 1_000_000


def test_rows_of_another_width_are_faults(tmp_path):
    rows = _read(tmp_path, "text,label\na,b\nc\nd,e,f\ng,h\n")
    assert rows.texts == ["a", "g"] and rows.places == [2, 5]
    assert [(f.place, f.what, f.raw) for f in rows.faults] == [
        ("line 3", "1 cells, where the header has 2", "c"),
        ("line 4", "3 cells, where the header has 2", "d,e,f"),
    ]


def test_quotes_that_do_not_fit_are_a_fault_of_their_row(tmp_path):
    rows = _read(tmp_path, 'text,label\n"a"b,c\nd "e" f,g\n"h ""i""",j\n')
    assert rows.texts == ['d "e" f', 'h "i"'] and rows.places == [3, 4]
    (fault,) = rows.faults
    assert fault.place == "line 2" and "quotes that don't fit" in fault.what


def test_a_quote_that_is_never_closed_is_named_where_it_opens(tmp_path):
    fault = _error(tmp_path, 'text,label\na,b\n"c,d\ne,f\n')
    assert fault.place == "line 3" and "never closed" in fault.what


def test_a_carriage_return_outside_of_quotes_is_a_fault(tmp_path):
    rows = _read(tmp_path, "text,label\na\rb,c\nd,e\n")
    assert rows.texts == ["d"] and "carriage return" in rows.faults[0].what


def test_a_header_without_the_text_column_names_its_columns(tmp_path):
    fault = _error(tmp_path, "Text,label\na,b\n")
    assert "no column 'text'" in fault.what and "'Text', 'label'" in fault.what
    assert fault.fix == "Did you mean 'Text'?" and fault.file.endswith("rows.csv")


@pytest.mark.parametrize(
    ("delimiter", "key"), [(";", "`delimiter: ';'`"), ("\t", "the key `tsv`"), ("|", "'|'")]
)
def test_another_delimiter_that_would_fit_is_named(tmp_path, delimiter, key):
    fault = _error(tmp_path, f"text{delimiter}label\na{delimiter}b\n")
    assert key in fault.fix
    keys = {} if delimiter == "\t" else {"delimiter": delimiter}
    content = f"text{delimiter}label\na{delimiter}b\n"
    rows = _read(tmp_path, content, "tsv" if delimiter == "\t" else "csv", **keys)
    assert rows.labels == ["b"]


def test_a_repeated_name_matters_only_where_it_is_read(tmp_path):
    assert _read(tmp_path, "text,x,x,\na,1,2,3\n").texts == ["a"]
    assert "'text' 2 times" in _error(tmp_path, "text,text\na,b\n").what


def test_a_file_without_the_label_column_gives_none(tmp_path):
    assert _read(tmp_path, "id,text\n1,a\n").labels == [None]


def test_an_empty_file_has_no_header(tmp_path):
    assert "empty" in _error(tmp_path, "").what
    assert _read(tmp_path, "text,label\n").texts == []


def test_windows_encoding_is_named_by_the_key_that_reads_it(tmp_path):
    content = "text,label\ncafé,a\nthé,b\n".encode("cp1252")
    rows = _read(tmp_path, content)
    assert [(f.place, f.column) for f in rows.faults] == [("line 2", "text"), ("line 3", "text")]
    assert "near 'caf\\xe9'" in rows.faults[0].what and "`encoding: cp1252`" in rows.faults[0].fix
    assert _read(tmp_path, content, encoding="cp1252").texts == ["café", "thé"]


def test_bytes_that_are_not_text_in_a_column_that_nobody_reads_do_not_matter(tmp_path):
    rows = _read(tmp_path, b"text,note\na,caf\xe9\n")
    assert rows.texts == ["a"] and not rows.faults


def test_max_rows_ends_the_reading(tmp_path):
    rows = _read(tmp_path, "text,label\n" + "a,b\n" * 20_000, max_rows=9000)
    assert len(rows.texts) == 9000

"""Parquet, Arrow and Feather: typed columns as the strings that the file has."""

from __future__ import annotations

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from read_rows import read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.parts import plan_parts, read


def _labels(tmp_path, labels, **keys):
    labels = labels if isinstance(labels, pa.Array) else pa.array(labels)
    table = pa.table({"text": ["a"] * len(labels), "label": labels})
    pq.write_table(table, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    rows = read_rows(RowSource(parquet=str(tmp_path / "a.parquet"), **keys))
    again = read_rows(RowSource(arrow=str(tmp_path / "a.feather"), **keys))
    assert rows.labels == again.labels
    assert [f.place for f in rows.faults] == [f.place for f in again.faults]
    return rows


@pytest.mark.parametrize(
    ("values", "kind", "strings"),
    [
        ([1, None, 20], pa.int64(), ["1", None, "20"]),
        ([1, 255], pa.uint8(), ["1", "255"]),
        ([1.0, 0.1, None, 1e22], pa.float64(), ["1.0", "0.1", None, "1e+22"]),
        ([1.0, 0.1], pa.float32(), ["1.0", "0.1"]),
        ([True, False, None], pa.bool_(), ["true", "false", None]),
        ([decimal.Decimal("1.10"), None], pa.decimal128(5, 2), ["1.10", None]),
        ([datetime.date(2024, 1, 5)], pa.date32(), ["2024-01-05"]),
        ([datetime.datetime(2024, 1, 5, 6, 30)], pa.timestamp("us"), ["2024-01-05 06:30:00"]),
        ([datetime.time(6, 30)], pa.time64("us"), ["06:30:00"]),
        ([None, None], pa.null(), [None, None]),
        (["0101", "", " ", None], pa.string(), ["0101", None, None, None]),
    ],
)
def test_values_are_written_as_the_file_has_them(tmp_path, values, kind, strings):
    rows = _labels(tmp_path, pa.array(values, kind))
    assert rows.labels == strings and not rows.faults


def test_categories_are_decoded(tmp_path):
    assert _labels(tmp_path, pa.array(["b", "a", None, "b"]).dictionary_encode()).labels == [
        *"ba",
        None,
        "b",
    ]


def test_lists_objects_and_bytes_are_faults_with_file_row_and_column(tmp_path):
    for values in ([[1], None, [2]], [{"a": 1}, None, {"a": 2}], [b"x", None, b"y"]):
        rows = _labels(tmp_path, values)
        assert rows.labels == [None] * 3
        assert [(f.place, f.column) for f in rows.faults] == [
            ("row 1", "label"),
            ("row 3", "label"),
        ]


def test_bytes_are_text_where_their_encoding_is_named(tmp_path):
    rows = _labels(tmp_path, ["café".encode("cp1252"), None], encoding="cp1252")
    assert rows.labels == ["café", None] and not rows.faults


def test_not_a_number_is_a_fault(tmp_path):
    assert [f.what for f in _labels(tmp_path, [1.5, float("nan")]).faults] == ["nan"]


def test_class_labels_are_read_by_their_names(tmp_path):
    features = {
        "text": {"_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": [*"abcd"], "label": [1, 0, -1, None]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    rows = read_rows(RowSource(parquet=str(tmp_path / "a.parquet")))
    assert rows.labels == ["pos", "neg", None, None]


def test_only_wanted_columns_are_read(tmp_path):
    table = pa.table({"text": ["a"], "label": ["b"], "row": [{"text": "c"}], "row.text": ["d"]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = RowSource(parquet=str(tmp_path / "a.parquet"))
    (part,) = plan_parts(source, 1 << 20, ("row.text", "group"))
    (batch,) = read(part)
    assert {name: column.to_pylist() for name, column in batch.columns.items()} == {
        "row.text": ["d"]
    }


def test_one_corrupt_file_among_many_is_named(tmp_path):
    for i in range(20):
        pq.write_table(pa.table({"text": [f"a{i}"]}), tmp_path / f"{i:02d}.parquet")
    whole = (tmp_path / "13.parquet").read_bytes()
    for broken in (b"not Parquet at all", whole[:-6], whole[:4]):
        write(tmp_path / "13.parquet", broken)
        with pytest.raises(ReadError, match=r"13\.parquet: no valid Parquet file"):
            read_rows(RowSource(parquet=str(tmp_path)))


def test_a_broken_page_is_named_with_its_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"row {i} of {i * 7919}" for i in range(2000)]
    options = {"row_group_size": 1000, "write_page_checksum": True, "use_dictionary": False}
    pq.write_table(pa.table({"text": texts}), path, **options)
    data = bytearray(path.read_bytes())
    offset = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[offset + 200] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ReadError, match="row group 2"):
        read_rows(RowSource(parquet=str(path)))


def test_a_corrupt_arrow_file_is_named(tmp_path):
    path = tmp_path / "a.arrow"
    for data in (b"", b"ARROW1\0\0 and no more", b"neither", b"FEA1 old"):
        write(path, data)
        with pytest.raises(ReadError, match=r"a\.arrow: no valid Arrow file"):
            read_rows(RowSource(arrow=str(path)))


def test_an_arrow_stream_that_is_cut_off_is_named(tmp_path):
    path, table = tmp_path / "a.arrow", pa.table({"text": [f"row {i}" for i in range(4000)]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ReadError, match=r"a\.arrow"):
        read_rows(RowSource(arrow=str(path)))


def test_a_schema_without_the_text_column_names_the_columns(tmp_path):
    pq.write_table(pa.table({"texts": ["a"], "y": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(ReadError, match=r"no column 'text'; its columns are 'texts', 'y'.*Did you"):
        read_rows(RowSource(parquet=str(tmp_path / "a.parquet")))


def test_bytes_in_a_column_of_strings_that_are_not_utf8_are_named(tmp_path):
    strings = pa.array([b"a", b"caf\xe9", None]).cast(pa.binary()).view(pa.string())
    table = pa.table({"text": strings})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    rows = read_rows(RowSource(arrow=str(tmp_path / "a.arrow")))
    assert rows.texts == ["a", None, None]
    assert [(f.place, f.column) for f in rows.faults] == [("row 2", "text")]


def test_large_cells_come_in_small_batches(tmp_path):
    table = pa.table({"text": ["x" * 100_000 + str(i) for i in range(300)], "n": range(300)})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="none")
    (part,) = plan_parts(RowSource(parquet=str(tmp_path / "a.parquet")), 1 << 40, ("text",))
    assert max(batch.columns["text"].nbytes for batch in read(part)) <= 5 << 20

"""How a source becomes parts."""

from __future__ import annotations

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
from read_rows import compressed, read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.parts import input_bytes, peek, plan_parts, read


def _lines(count, start=0):
    return "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(start, start + count))


def test_small_files_share_a_part_in_the_order_of_their_names(tmp_path):
    for i in range(300):
        write(tmp_path / f"{i:03d}.jsonl", _lines(2, 2 * i))
    source = RowSource(jsonl=str(tmp_path))
    parts = plan_parts(source, 4 << 20, ("text",))
    assert len(parts) == 3 and parts == plan_parts(source, 4 << 20, ("text",))
    assert read_rows(source, 4 << 20).texts == [f"row {i}" for i in range(600)]
    assert input_bytes(source) == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_large_files_of_lines_are_cut_and_compressed_ones_are_not(tmp_path):
    write(tmp_path / "a.jsonl", _lines(5000))
    write(tmp_path / "b.jsonl.zst", compressed(_lines(5000, 5000).encode() * 1, ".zst"))
    source = RowSource(jsonl=str(tmp_path))
    slices = [s for part in plan_parts(source, 2000, ("text",)) for s in part.slices]
    assert sum(s.uri.endswith("a.jsonl") for s in slices) > 20
    assert [s.end for s in slices if s.uri.endswith(".zst")] == [None]
    assert read_rows(source, 2000).texts == [f"row {i}" for i in range(10_000)]


def test_files_of_another_encoding_and_arrays_are_not_cut(tmp_path):
    array = json.dumps([{"text": f"row {i}"} for i in range(500)])
    for data in (_lines(500).encode("utf-16"), array.encode()):
        path = write(tmp_path / "a.jsonl", data)
        source = RowSource(jsonl=str(path))
        assert len(plan_parts(source, 100, ("text",))) == 1
        assert read_rows(source, 100).texts == [f"row {i}" for i in range(500)]


def test_parquet_is_cut_by_row_groups(tmp_path):
    table = pa.table({"text": [f"row {i}" for i in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    source = RowSource(parquet=str(tmp_path / "a.parquet"))
    assert len(plan_parts(source, 1000)) == 10
    assert read_rows(source, 1000).texts == table["text"].to_pylist()


def test_max_rows_makes_one_part_that_stops(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.jsonl", _lines(100, 100 * i))
    source = RowSource(jsonl=str(tmp_path), max_rows=250)
    rows = read_rows(source, 100)
    assert rows.parts == 1 and rows.texts == [f"row {i}" for i in range(250)]


def test_a_part_is_small_to_send(tmp_path):
    write(tmp_path / "a.jsonl", _lines(5000))
    names = [f"{tmp_path}/a.jsonl"] * 1000
    for part in plan_parts(RowSource(jsonl=names), 10_000, ("text",)):
        assert len(pickle.dumps(part)) < 2000 and pickle.loads(pickle.dumps(part)) == part


def test_batches_are_small_whatever_the_rows_are(tmp_path):
    write(tmp_path / "short.jsonl", _lines(200_000))
    write(tmp_path / "long.jsonl", json.dumps({"text": "x" * 900_000}) * 1 + "\n")
    long = "".join(json.dumps({"text": "x" * 900_000, "label": [i]}) + "\n" for i in range(20))
    write(tmp_path / "long.jsonl", long)
    for part in plan_parts(RowSource(jsonl=str(tmp_path)), 1 << 30, ("text", "label")):
        for batch in read(part):
            assert batch.num_rows <= 8192
            assert sum(map(len, map(str, batch.columns["text"]))) <= 5 << 20


def test_a_peek_shows_all_columns_of_the_first_rows(tmp_path):
    write(tmp_path / "a.jsonl", "\n")
    write(tmp_path / "b.jsonl", '{"x": 1}\n{"y": [2]}\n' + _lines(500))
    batch = peek(RowSource(jsonl=[f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]))
    assert [*batch.columns] == ["x", "y", "text"] and batch.num_rows == 100

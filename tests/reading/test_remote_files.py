"""Files behind URIs, on a real S3 server that fails now and then."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_rows import compressed, read_rows
from s3_server import Bucket, bucket_with_credentials

from distill_ray.config.data import RowSource
from distill_ray.runtime.filesystems import open_uri
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.files import expand, local_paths

pytestmark = pytest.mark.heavy


def _lines(count: int, start: int) -> bytes:
    rows = ({"text": f"row {i}", "label": f"{i:04d}"} for i in range(start, start + count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    with bucket_with_credentials() as made:
        files, root = open_uri(made.direct)
        table = pa.table({"text": [f"row {i}" for i in range(100)]})
        content = {
            "lines/a.jsonl": _lines(200, 0),
            "lines/b c+%.jsonl": _lines(200, 200),
            "lines/deep/c.jsonl.gz": compressed(_lines(200, 400), ".gz"),
            "lines/_SUCCESS": b"",
            "lines/README.md": b"# no data",
            "broken/a.jsonl": _lines(50, 0) + b"{broken\n" + _lines(50, 50),
        }
        for name, data in content.items():
            with files.open_output_stream(f"{root}/{name}", compression=None) as stream:
                stream.write(data)
        pq.write_table(table, f"{root}/table/a.parquet", filesystem=files, row_group_size=10)
        yield made


def _at(store: Bucket, path: str) -> str:
    return store.uri.replace("/here?", f"/here/{path}?")


@pytest.mark.parametrize("path", ["lines/", "lines/**", "lines/**/*.jsonl*", "l*s"])
def test_globs_name_the_same_files_as_the_folder(store, path):
    names = ["lines/a.jsonl", "lines/b%20c%2B%25.jsonl", "lines/deep/c.jsonl.gz"]
    files = expand(RowSource(jsonl=_at(store, path)))
    assert [file.uri for file in files] == [_at(store, name) for name in names]


def test_a_folder_is_read_in_parts_while_the_server_fails(store):
    source = RowSource(jsonl=_at(store, "lines"))
    store.misbehave("503", "reset", every=4, match="GET")
    rows = read_rows(source, 1000)
    assert store.met()
    store.misbehave()
    assert rows.texts == [f"row {i}" for i in range(600)] and rows.parts > 10
    assert local_paths(source) == []


def test_one_file_is_found_by_its_name(store):
    (file,) = expand(RowSource(jsonl=_at(store, "lines/a.jsonl")))
    assert file.uri == _at(store, "lines/a.jsonl") and file.size == len(_lines(200, 0))


def test_parquet_is_read_by_row_groups(store):
    rows = read_rows(RowSource(parquet=_at(store, "table")), 500)
    assert rows.texts == [f"row {i}" for i in range(100)] and rows.parts > 2


def test_a_fault_names_the_uri_and_the_line_of_the_file(store):
    (fault,) = read_rows(RowSource(jsonl=_at(store, "broken/a.jsonl")), 700).faults
    assert fault.file == _at(store, "broken/a.jsonl") and fault.place == "line 51"


def test_a_missing_file_suggests_its_neighbour(store):
    with pytest.raises(ReadError, match=r"Did you mean 'a\.jsonl'"):
        expand(RowSource(jsonl=_at(store, "lines/aa.jsonl")))
    with pytest.raises(ReadError, match="no file matches this glob"):
        expand(RowSource(jsonl=_at(store, "lines/*.csv")))

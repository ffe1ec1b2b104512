"""Which files a source names."""

from __future__ import annotations

import pytest
from read_rows import write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.files import expand, local_paths


def _names(tmp_path, where, kind="jsonl"):
    files = expand(RowSource(**{kind: where}))
    return [file.uri.removeprefix(f"{tmp_path}/") for file in files]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.jsonl.gz", "sub/c.ndjson", "sub/deep/d.jsonl"):
        write(tmp_path / name, "{}")
    for name in ("README.md", "LICENSE", ".hidden.jsonl", "_SUCCESS", "b.jsonl.crc", "notes.md"):
        write(tmp_path / name, "no data")
    for name in (".git/x.jsonl", "_temporary/y.jsonl", "sub/.cache/z.jsonl"):
        write(tmp_path / name, "{}")
    write(tmp_path / "marker.jsonl", "")
    return tmp_path


ALL = ["a.jsonl.gz", "b.jsonl", "sub/c.ndjson", "sub/deep/d.jsonl"]


def test_a_folder_is_read_with_its_folders_and_without_what_is_no_data(folder):
    assert _names(folder, str(folder)) == ALL
    assert _names(folder, f"{folder}/") == ALL


def test_a_list_of_places_is_read_once_each(folder):
    places = [f"{folder}/sub", f"{folder}/b.jsonl", f"{folder}/sub/c.ndjson"]
    assert _names(folder, places) == ["b.jsonl", "sub/c.ndjson", "sub/deep/d.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", ["b.jsonl", "marker.jsonl"]),
        ("**/*.jsonl", ["b.jsonl", "marker.jsonl", "sub/deep/d.jsonl"]),
        ("*/*.ndjson", ["sub/c.ndjson"]),
        ("sub/d*", ["sub/deep/d.jsonl"]),
        ("[ab].jsonl*", ["a.jsonl.gz", "b.jsonl", "b.jsonl.crc"]),
        ("*", ALL),
        (".hid*", [".hidden.jsonl"]),
        ("s?b/**", ["sub/c.ndjson", "sub/deep/d.jsonl"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_globs_match_paths_and_uris_alike(folder, pattern, names, scheme):
    assert _names(folder, f"{scheme}{folder}/{pattern}") == names


def test_home_and_file_uris_are_local_paths(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert _names(folder, "~/b.jsonl") == _names(folder, f"file://{folder}/b.jsonl") == ["b.jsonl"]
    assert local_paths(RowSource(jsonl=f"file://{folder}/b.jsonl")) == [folder / "b.jsonl"]


def test_names_with_signs_of_globs_and_uris_are_found_as_they_are(tmp_path):
    write(tmp_path / "a[1] %20?.jsonl", "{}")
    assert _names(tmp_path, f"{tmp_path}/a[1] %20?.jsonl") == ["a[1] %20?.jsonl"]
    write(tmp_path / "b c.jsonl", "{}")
    assert _names(tmp_path, f"file://{tmp_path}/b%20c.jsonl") == ["b c.jsonl"]


def test_a_missing_file_suggests_its_neighbour(folder):
    with pytest.raises(ReadError, match=r"no such file or folder\. Did you mean 'b\.jsonl'"):
        expand(RowSource(jsonl=f"{folder}/bb.jsonl"))
    with pytest.raises(ReadError, match=r"Its folder .*nowhere isn't there"):
        expand(RowSource(jsonl=f"{folder}/nowhere/bb.jsonl"))
    with pytest.raises(ReadError, match="no file matches this glob"):
        expand(RowSource(jsonl=f"{folder}/*.parquet"))


def test_a_folder_of_several_kinds_is_refused_by_name(folder):
    write(folder / "stats.csv", "a,b")
    with pytest.raises(ReadError, match=r"1 \.csv; such as stats\.csv.*\*\*/\*\.jsonl"):
        expand(RowSource(jsonl=str(folder)))


def test_a_folder_of_another_format_names_its_key(tmp_path):
    write(tmp_path / "a.csv", "text\na")
    with pytest.raises(ReadError, match=r"The key `csv` reads \.csv"):
        expand(RowSource(jsonl=str(tmp_path)))


def test_files_without_a_suffix_are_what_the_source_says(tmp_path):
    for i in range(3):
        write(tmp_path / f"part-{i:05d}", "{}")
    assert len(_names(tmp_path, str(tmp_path))) == 3


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ReadError, match="a folder without files of data"):
        expand(RowSource(jsonl=str(tmp_path)))

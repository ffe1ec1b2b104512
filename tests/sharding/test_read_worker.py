"""Parts of a run's sources → clean rows, without Ray: large files, and files that change midway."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import config

from distill_ray.config import RunConfig
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sharding.files import read_table, rows_file
from distill_ray.stages.sharding.parts import SMALLEST, plan_stream_parts
from distill_ray.stages.sharding.read_worker import ReadPart

Row = dict[str, Any]
FILLER = "and so it went on, line by line, " * 6


def read(folder: Path, source: Row, **task: Any) -> tuple[list[Row], list[Row], int]:
    """Rows of a task's source through all of its parts, the parts' reports, and their number."""
    data = config(folder)
    data["tasks"][0] |= {"source": source, **task}
    out = Storage(str(folder / "out"))
    rows: list[Row] = []
    reports = []
    parts = plan_stream_parts(RunConfig.model_validate(data))
    own = [part for part in parts if part.reader.stream == "organ.labelled"]
    for part in own:
        report = ReadPart(out.uri)(part)
        reports.append(report)
        for piece in report.get("pieces", ()):
            columns = ["text", "label", "group", "key"]
            rows += read_table(out, rows_file(piece), columns).to_pylist()
    return rows, reports, len(own)


def without_keys(rows: list[Row]) -> Iterator[tuple[str, str | None, str | None]]:
    for row in rows:
        yield row["text"], row["label"], None if row["group"] == row["key"] else row["group"]


def large(count: int = 25_000) -> list[Row]:
    """Rows of more than `SMALLEST`; in the second half labels and groups are other things."""
    return [
        {
            "text": f"{i:05d} {FILLER}",
            "label": f"{i % 7:04d}" if i < count // 2 else i % 7,
            "group": i // 3 if i < count // 2 else f"0{i // 3}",
        }
        for i in range(count)
    ]


def as_text(items: list[Row]) -> list[tuple[str, str, str]]:
    return [(row["text"], str(row["label"]), str(row["group"])) for row in items]


def test_a_column_that_changes_its_kind_midway_is_read_as_it_is(tmp_path: Path) -> None:
    items = large()
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in items))
    assert file.stat().st_size > SMALLEST
    rows, reports, num_parts = read(tmp_path, {"jsonl": str(file)})
    assert num_parts > 1
    assert [*without_keys(rows)] == as_text(items)
    assert sum(report["read"] for report in reports) == len(items)


def test_cells_with_line_breaks_come_back_from_megabytes_of_csv(tmp_path: Path) -> None:
    items = [
        {"text": f'{i:05d}\n"{FILLER}"\n\n, {i}', "label": f"0{i % 5}", "group": ""}
        for i in range(8_000)
    ]
    for n in range(3):
        with (tmp_path / f"cells-{n}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=["label", "group", "text"])
            writer.writeheader()
            writer.writerows(items[n::3])
    assert sum(file.stat().st_size for file in tmp_path.glob("cells-*.csv")) > 3 << 19
    rows, _, _ = read(tmp_path, {"csv": str(tmp_path / "cells-*.csv")})
    assert sorted(without_keys(rows)) == sorted((row["text"], row["label"], None) for row in items)


def test_a_fault_late_in_a_large_file_has_its_line(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in large()]
    lines[23_456] = json.dumps({"text": "late", "label": ["a", "list"]})
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(lines))
    _, reports, _ = read(tmp_path, {"jsonl": str(file)})
    faults = [fault for report in reports for fault in report.get("faults", [])]
    assert len(faults) == 1
    assert faults[0].startswith(f"{file}, line 23457, column 'label': a list (['a', 'list']).")


LABELS = [["heart"], {"organ": "eye"}, b"\xff\x00"]


@pytest.mark.parametrize("column", ["label", "group"])
@pytest.mark.parametrize("value", LABELS, ids=["list", "object", "bytes"])
def test_what_is_no_label_or_group_is_a_fault_in_every_typed_format(
    tmp_path: Path, value: Any, column: str
) -> None:
    import datasets

    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]})
    if column == "label":
        table = table.drop_columns(["label"])
    table = table.append_column(column, pa.array([None, value]))
    pq.write_table(table, tmp_path / "rows.parquet")
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
        file.write_table(table)
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    for key, name in (("parquet", "rows.parquet"), ("arrow", "rows.arrow"), ("dataset", "saved")):
        _, (report,), _ = read(tmp_path, {key: str(tmp_path / name)})
        kind = {list: "a list", dict: "an object", bytes: "bytes"}[type(value)]
        (fault,) = report["faults"]
        assert fault.startswith(f"{tmp_path / name}, row 2, column {column!r}: {kind}"), fault
        assert f"{column}_column" in fault or "encoding" in fault
    source = {"callable": "user_rows:of_values", "options": {"column": column, "kind": kind}}
    _, (report,), _ = read(tmp_path, source)
    assert report["faults"][0].startswith(f"user_rows:of_values, row 2, column {column!r}: {kind}")


def test_blank_labels_and_groups_are_none(tmp_path: Path) -> None:
    blank = ["", " ", "\t", "\u00a0", "\u3000", None]
    items = [{"text": f"row {i}", "label": b, "group": b} for i, b in enumerate(blank)]
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in items))
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "rows.parquet")
    for source in ({"jsonl": str(file)}, {"parquet": str(tmp_path / "rows.parquet")}):
        rows, _, _ = read(tmp_path, source)
        assert [*without_keys(rows)] == [(row["text"], None, None) for row in items]


def test_empty_texts_are_counted_by_file(tmp_path: Path) -> None:
    texts = ["a", "", None, "  ", "b"]
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps({"text": t, "label": "x"}) + "\n" for t in texts))
    rows, (report,), _ = read(tmp_path, {"jsonl": str(file)})
    assert [row["text"] for row in rows] == ["a", "b"]
    assert report["read"] == 5 and report["left_out"] == {"empty": 3}
    assert report["files"] == {str(file): {"empty": 3}}

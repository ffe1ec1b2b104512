"""A part of a source as clean rows, keys and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_run import config, write_jsonl

from distill_ray.config import RunConfig
from distill_ray.data.rows import SPLITS, TEXT
from distill_ray.data.transforms import content_key, split_of
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sharding.files import keys_file, read_table, rows_file
from distill_ray.stages.sharding.parts import plan_stream_parts
from distill_ray.stages.sharding.read_worker import ReadPart


class Read:
    """The parts of a task's rows, read one after the other."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], **source: Any) -> None:
        folder.mkdir(exist_ok=True)
        data = config(folder)
        source = {"jsonl": str(write_jsonl(folder / "rows.jsonl", rows)), **source}
        data["tasks"][0] |= {"source": source}
        cfg = RunConfig.model_validate(data)
        parts = [p for p in plan_stream_parts(cfg) if p.reader.stream == "organ.labelled"]
        self.out = Storage(str(folder / "out"))
        self.reports = [ReadPart(self.out.uri)(part) for part in parts]
        self.numbers = [n for report in self.reports for n in report.get("pieces", ())]

    @property
    def rows(self) -> list[dict[str, Any]]:
        tables = [read_table(self.out, rows_file(number)) for number in self.numbers]
        assert all(table.schema.equals(TEXT) for table in tables)
        return [row for table in tables for row in table.to_pylist()]


def test_a_clean_row_keeps_its_text_as_it_was_read(tmp_path: Path) -> None:
    (row,) = Read(tmp_path, [{"text": " Fever\n", "label": 3, "group": 12, "else": 1}]).rows
    key = content_key("fever")
    assert row == {
        "row_id": f"organ.labelled:{key}", "key": key, "stream": "organ.labelled",
        "split": split_of("12", validation=0.15, test=0.15), "text": " Fever\n", "label": "3",
        "group": "12", "turns": None, "tools": None,
    }  # fmt: skip


def test_a_row_without_a_group_is_its_own_by_content(tmp_path: Path) -> None:
    one, other = Read(tmp_path, [{"text": "Fever"}, {"text": "  fever", "group": None}]).rows
    assert one["group"] == one["key"] == other["group"]
    assert one["split"] == other["split"]
    assert one["label"] is None


def test_rows_of_one_group_never_straddle_two_splits(tmp_path: Path) -> None:
    rows = Read(tmp_path, [{"text": f"text {i}", "group": i % 20} for i in range(200)]).rows
    splits = {r["group"]: {x["split"] for x in rows if x["group"] == r["group"]} for r in rows}
    assert all(len(of_group) == 1 for of_group in splits.values())
    assert {split for of_group in splits.values() for split in of_group} == set(SPLITS)


def test_rows_without_text_are_counted_by_file(tmp_path: Path) -> None:
    read = Read(tmp_path, [{"text": "a"}, {"text": None}, {"text": " \n"}, {"text": ""}])
    (report,) = read.reports
    assert report["read"] == 4
    assert report["left_out"] == {"empty": 3}
    assert report["files"] == {str(tmp_path / "rows.jsonl"): {"empty": 3}}
    assert len(read.rows) == 1


def test_a_row_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    (report,) = Read(tmp_path, [{"text": "a"}, {"text": "b", "label": [1]}, {"body": "c"}]).reports
    first, second = report["faults"]
    assert "rows.jsonl, line 2, column 'label': a list" in first
    assert "rows.jsonl, line 3, column 'text'" in second


def test_skipped_rows_are_kept_with_their_reasons(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "label": [1]}, {"body": "c"}]
    read = Read(tmp_path, rows, on_bad_row="skip")
    (report,) = read.reports
    assert report["left_out"] == {"bad": 2}
    assert [row["text"] for row in read.rows] == ["a"]
    (file,) = Path(read.out.uri).glob("bad_rows/*.parquet")
    bad = pq.read_table(file).to_pylist()
    assert [row["place"] for row in bad] == ["line 2", "line 3"]
    assert "list" in bad[0]["found"] and bad[1]["column"] == "text"


def test_keys_are_the_rows_keys(tmp_path: Path) -> None:
    read = Read(
        tmp_path, [{"text": f"text {i}", "label": "x" if i % 2 else None} for i in range(9)]
    )
    keys = read_table(read.out, keys_file(read.numbers[0])).to_pylist()
    assert [f"{k['key_high']:016x}{k['key_low']:08x}" for k in keys] == [
        row["key"] for row in read.rows
    ]
    assert [bool(k["label"]) for k in keys] == [row["label"] is not None for row in read.rows]
    assert [SPLITS[k["split"]] for k in keys] == [row["split"] for row in read.rows]


def test_a_function_of_any_length_is_cut_into_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"jsonl": None, "callable": "user_rows:rows", "options": {"count": 20_000}}
    whole = Read(tmp_path, [{"text": "x"}], **source)
    assert len(whole.numbers) == 1
    monkeypatch.setattr("distill_ray.stages.sharding.parts.SMALLEST", 20_000)
    monkeypatch.setattr("distill_ray.stages.sharding.parts.ROWS_A_PART", 1)
    cut = Read(tmp_path / "cut", [{"text": "x"}], **source)
    assert len(cut.reports) == 1 and len(cut.numbers) > 2
    assert cut.rows == whole.rows


def test_parts_and_batches_change_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"text {i} " + "x" * (i % 50), "label": str(i % 3)} for i in range(3000)]
    whole = Read(tmp_path / "one", rows).rows
    monkeypatch.setattr("distill_ray.stages.sharding.parts.SMALLEST", 5000)
    monkeypatch.setattr("distill_ray.stages.sharding.parts.ROWS_A_PART", 1)
    many = Read(tmp_path / "many", rows)
    assert len(many.numbers) > 10
    assert many.rows == whole

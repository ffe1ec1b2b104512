"""A study of text by the command line, killed while its students read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import kill_in, manifests, run, stages, write_domain_study

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_study_of_text_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    folder = write_domain_study(tmp_path, workers=2)
    kill_in(folder, "read", 1, "texts.yaml")
    first = manifests(folder)
    assert any("/reading/" in path for path in first)
    assert not any("/fine-tune-" in path for path in first)

    events, result = run(folder, file="texts.yaml")
    assert stages(events, "reused") >= {"shard", "adapt"}
    finished = manifests(folder)
    assert first.items() <= finished.items()
    page = Path(result["page"])
    domain = json.loads(page.with_suffix(".json").read_text())["domains"]["tiny"]
    assert domain["failed"] == []
    students = domain["students"]
    assert len(students) == 8
    assert all(len(student["accuracy"]) == 2 for student in students.values())

    read = {name: student["read"] for name, student in students.items() if student["read"]}
    whole = [sum(row["tokens"] for row in streams.values()) for streams in read.values()]
    assert max(whole) / min(whole) < 1.1, "all arms read as many rows"
    mixed = {name: row["tokens"] for name, row in read["raw-mixed"].items()}
    # Within one row of 64 tokens of its share.
    assert abs(mixed["talk"] - 0.7 * sum(mixed.values())) <= 64
    assert len({json.dumps(student["learned"]) for student in students.values()}) == 1
    assert set(students["unread"]["learned"]) == {"organ.labelled"}
    assert (page.parent / "texts-tiny.svg").stat().st_size > 1000

    again, _ = run(folder, file="texts.yaml")
    assert stages(again, "reused") >= {"shard", "adapt", "read", "fine-tune"}
    assert manifests(folder) == finished

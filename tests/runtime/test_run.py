"""A run's name belongs to the config that used it first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import config

from distill_ray.config import InputError, RunConfig
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.capacity import capacity_problems
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run


def opened(folder: Path, file: str = "a.yaml", **changes: object) -> Run:
    return Run.open(RunConfig.model_validate(config(folder, **changes)), file)


def settled(run: Run, artifact: Artifact) -> bool:
    """As a stage asks: first the retry, then whether work is left."""
    run.claim_retry(artifact)
    return artifact.is_settled()


def owner(folder: Path) -> dict[str, Any]:
    """The config that a run's name belongs to: its file, and a fingerprint of each section."""
    return dict(json.loads((folder / "runs/tiny/run.json").read_text()))


def test_an_edited_config_keeps_its_name(tmp_path: Path) -> None:
    first = opened(tmp_path)
    before = owner(tmp_path)
    again = opened(tmp_path, seed=5)
    assert owner(tmp_path) == before, "a seed is in none of the sections that own the name"
    student = config(tmp_path)["student"]
    student["model"]["seed"] = 77
    edited = opened(tmp_path, student=student)
    assert first.storage.uri == again.storage.uri == edited.storage.uri
    assert edited.storage.uri == str(tmp_path / "runs/tiny")
    after = owner(tmp_path)
    changed = [
        name for name in before["sections"] if before["sections"][name] != after["sections"][name]
    ]
    assert (after["config"], changed) == ("a.yaml", ["student"])


def test_edits_one_after_another_keep_the_name(tmp_path: Path) -> None:
    opened(tmp_path)
    data, seen = config(tmp_path), [owner(tmp_path)["sections"]]
    for section, change in (
        ("student", {**data["student"], "tokenizer": {"train": {"vocab_size": 400}}}),
        ("corpora", {**data["corpora"], "validation_fraction": 0.2}),
        ("teachers", data["teachers"][:1]),
        ("tasks", [{**data["tasks"][0], "num_labelled_rows": 50}]),
    ):
        data[section] = change
        run = Run.open(RunConfig.model_validate(data), "a.yaml")
        assert run.storage.uri == str(tmp_path / "runs/tiny")
        seen.append(owner(tmp_path)["sections"])
    # The name belongs to the config as it is now: each edit is compared with the one before it.
    for old, new, edited in zip(seen, seen[1:], ("student", "corpora", "teachers", "tasks")):
        assert [name for name in old if old[name] != new[name]] == [edited]
    assert all(seen[0][name] != seen[-1][name] for name in seen[0]), "nothing of the first is left"


def test_another_file_with_other_sections_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    first = (tmp_path / "runs/tiny/run.json").read_text()
    teachers = config(tmp_path)["teachers"][:1]
    with pytest.raises(InputError, match=r"belongs to another config, a\.yaml"):
        opened(tmp_path, "b.yaml", teachers=teachers)
    assert (tmp_path / "runs/tiny/run.json").read_text() == first


def test_a_renamed_file_with_the_same_sections_goes_on(tmp_path: Path) -> None:
    opened(tmp_path)
    opened(tmp_path, "b.yaml")
    assert json.loads((tmp_path / "runs/tiny/run.json").read_text())["config"] == "b.yaml"


class Listener:
    """Collects the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def emit(self, event: Event) -> None:
        if event.kind == "note":
            self.notes.append(event.text)


def of_version_0_1(folder: Path, file: str = "a.yaml") -> Path:
    """A run's folder as version 0.1 left it."""
    made = folder / "runs/tiny"
    (made / "adapt/full-0123456789ab").mkdir(parents=True)
    (made / "audit-sheets").mkdir()
    sections = dict.fromkeys(("student", "teachers", "corpora", "tasks"), "0123456789ab")
    (made / "run.json").write_text(json.dumps({"config": file, "sections": sections}, indent=1))
    return made


def test_a_storage_of_version_0_1_is_told_once_that_nothing_is_reused(tmp_path: Path) -> None:
    made, listener = of_version_0_1(tmp_path), Listener()
    cfg = RunConfig.model_validate(config(tmp_path))
    Run.open(cfg, "a.yaml", listener)
    (note,) = listener.notes
    assert note.startswith(f"{made} is from version 0.1, and nothing in it is reused")
    assert "delete these folders in it: adapt, audit-sheets." in note
    assert (made / "adapt/full-0123456789ab").exists(), "nothing is deleted by itself"
    Run.open(cfg, "a.yaml", listener)
    assert len(listener.notes) == 1
    assert owner(tmp_path)["format"] == 2


def test_a_new_storage_says_nothing_of_versions(tmp_path: Path) -> None:
    listener = Listener()
    Run.open(RunConfig.model_validate(config(tmp_path)), "a.yaml", listener)
    assert listener.notes == []


def test_a_name_that_another_config_used_in_version_0_1_stays_its_own(tmp_path: Path) -> None:
    made = of_version_0_1(tmp_path, "b.yaml")
    before = (made / "run.json").read_text()
    with pytest.raises(InputError, match=r"belongs to another config, b\.yaml"):
        opened(tmp_path)
    assert (made / "run.json").read_text() == before


def test_capacity_counts_every_worker(tmp_path: Path) -> None:
    cluster = RunConfig.model_validate(config(tmp_path)).cluster
    assert not capacity_problems(cluster, cpus=2, gpus=0)
    (problem,) = capacity_problems(cluster, cpus=1, gpus=0)
    assert "2 workers x 1 CPU = 2 CPUs, the cluster has 1." in str(problem)
    assert "At most 1 such workers fit." in str(problem)


def test_what_failed_stays_so_unless_it_is_to_be_tried_again(tmp_path: Path) -> None:
    run = opened(tmp_path)
    made, left, lost = (run.artifact("probe", name, {}) for name in ("made", "left", "lost"))
    with made.building():
        pass
    lost.record_failure("out of memory")
    assert settled(run, made) and settled(run, lost) and not settled(run, left)
    assert lost.failure() == "out of memory"


def test_what_failed_is_tried_again_once(tmp_path: Path) -> None:
    cfg = RunConfig.model_validate(config(tmp_path))
    run = Run.open(cfg, "a.yaml", retry_failed=True)
    lost, other = (run.artifact("probe", name, {}) for name in ("lost", "other"))
    for artifact in (lost, other):
        artifact.record_failure("out of memory")
    assert not settled(run, lost) and lost.failure() is None
    lost.record_failure("again")
    assert settled(run, lost) and lost.failure() == "again", "not for ever"
    assert not settled(run, other), "each has a try of its own"
    with other.building():
        pass
    assert settled(run, other)
    assert not settled(Run.open(cfg, "a.yaml", retry_failed=True), lost), "nor never again"


def test_to_ask_whether_work_is_left_deletes_nothing(tmp_path: Path) -> None:
    cfg = RunConfig.model_validate(config(tmp_path))
    run = Run.open(cfg, "a.yaml", retry_failed=True)
    failed = run.artifact("probe", "failed", {})
    failed.record_failure("out of memory")
    assert failed.is_settled() and failed.failure() == "out of memory"
    assert run.claim_retry(failed) and failed.failure() is None
    assert not run.claim_retry(failed), "one claim an artifact"

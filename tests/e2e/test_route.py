"""The whole route by the command line, killed on its way, with two teachers that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import kill_in, manifests, run, stages, write_configs
from tiny_run import rows
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.ray, pytest.mark.heavy, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # One worker: a process takes longer to start than all it does here. test_study.py has two.
    return write_configs(tmp_path_factory.mktemp("route"), workers=1)


def loaded_from(page: str) -> list[str]:
    """What a browser would fetch to show the page."""
    found: list[str] = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            wanted = {"link": "href"}.get(tag, "src")
            found.extend(v for k, v in attrs if k == wanted and v and not v.startswith("data:"))

    Sources().feed(page)
    return found


def test_a_killed_run_goes_on_where_it_stopped_and_a_finished_one_changes_nothing(
    folder: Path,
) -> None:
    kill_in(folder, "distill", 60)
    killed = manifests(folder)
    assert any("/rank/" in path for path in killed)
    assert not any("/distill/" in path for path in killed)

    events, result = run(folder)
    assert "ray" in stages(events, "progress"), "it is said when Ray starts"
    assert stages(events, "reused") >= {"shard", "adapt", "audit", "probe", "rank"}
    student = [e for e in events if e["stage"] == "distill" and "student:" in e.get("text", "")]
    steps = [event["completed"] for event in student if "completed" in event]
    assert min(steps) > 20 and min(steps) % 20 == 1, "resumes from a checkpoint, not the start"
    finished = manifests(folder)
    assert killed.items() <= finished.items()
    assert loaded_from(Path(result["report"]).read_text()) == []
    assert_named(folder, Path(result["report"]).with_suffix(".md").read_text())
    lineage = json.loads(Path(result["report"]).with_suffix(".json").read_text())["lineage"]
    behind = {path.rpartition("/")[0] for path in finished if "/report/" not in path}
    assert {entry["path"] for entry in lineage} == {
        path.split("/", 3)[-1] for path in behind if "/vocabulary/" not in path
    }

    events, _ = run(folder)
    assert stages(events, "started") == set()
    assert manifests(folder) == finished
    assert "ray" not in stages(events, "progress"), "nothing needs it"


def assert_named(folder: Path, page: str) -> None:
    """The other teachers are ranked; the two that failed are named, with the reason."""
    (file,) = (folder / "runs").rglob("ranking.json")
    ranking = json.loads(file.read_text())
    assert {row["teacher"] for row in ranking["leaderboard"]["early"]} == {"wide", "narrow"}
    left_out = ranking["failed"]
    assert set(left_out) == {"broken", "killer"}
    assert left_out["broken"].startswith("audit: ") and "died" not in left_out["broken"]
    assert left_out["killer"].startswith("probe: seed 0: ")
    for name, reason in left_out.items():
        assert f"{name} is not ranked. {reason}." in page


def test_the_leaderboard_is_read_from_the_artifacts(folder: Path) -> None:
    before = manifests(folder)
    shown = subprocess.run(
        [sys.executable, "-m", "distill_ray", "rank", str(folder / "tiny.yaml")],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "starting" not in shown.stdout, "Ray isn't needed"
    for said in ("wide", "narrow", "broken is left out: audit:", "killer is left out: probe:"):
        assert said in shown.stdout
    assert manifests(folder) == before


def test_the_student_loads_in_plain_transformers_and_knows_more_than_at_first(
    folder: Path,
) -> None:
    (left,) = (folder / "runs").glob("*/*/report/*/student")
    tokenizer = AutoTokenizer.from_pretrained(left)
    student = AutoModelForCausalLM.from_pretrained(left)
    right = 0
    items = rows()[::5]
    for item in items:
        prompt = tokenizer(f"{item['text']}\nOrgan:", return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            made = student.generate(**prompt, max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        right += text.strip() == item["label"]
    assert right / len(items) > 0.8
    assert (left / "README.md").is_file()


def test_the_scores_are_of_the_test_split_and_of_the_student_minus_each_other_model(
    folder: Path,
) -> None:
    (file,) = (folder / "runs").rglob("scores.json")
    scores = json.loads(file.read_text())
    identities = json.loads((file.parent / "manifest.json").read_text())["identity"]["scores"]
    assert_scored_on_the_test_split(file.parents[2] / "evaluate-scores", scores["rows"], identities)
    assert {"student", "control", "initial-student", "wide", "narrow"} <= set(scores["rows"])
    assert scores["teacher"] in {"wide", "narrow"}
    assert_student_minus_other(scores)
    verdicts = {(row["against"], row["set"]): row["nll_verdict"] for row in scores["comparisons"]}
    assert verdicts["initial-student", "organ"] == "better", "it has learnt"


def assert_scored_on_the_test_split(
    folder: Path, rows: dict[str, Any], identities: dict[str, str]
) -> None:
    """Each row's figures are those of its scores, which have the questions of the test split."""
    for name, row in rows.items():
        (place,) = folder.glob(f"*{identities[name]}")
        assert json.loads((place / "manifest.json").read_text())["identity"]["split"] == "test"
        answers = json.loads((place / "model_scores.json").read_text())
        for task, figures in row["tasks"].items():
            gold = np.array(answers["answer_index"][task])
            options = torch.tensor(answers["options"][task], dtype=torch.float64)
            nll = -options.log_softmax(1).numpy()[np.arange(len(gold)), gold]
            right = options.numpy().argmax(axis=1) == gold
            assert figures["questions"] == len(gold)
            assert figures["nll"]["value"] == pytest.approx(nll.clip(max=-np.log(1e-12)).mean())
            assert figures["accuracy"]["value"] == pytest.approx(right.mean())


def assert_student_minus_other(scores: dict[str, Any]) -> None:
    """Differences and their verdicts follow from the rows: a lower NLL is better."""
    rows = scores["rows"]
    others = {row["against"] for row in scores["comparisons"]}
    assert others == set(rows) - {"student"}
    for row in scores["comparisons"]:
        student, other = (rows[who]["tasks"][row["set"]] for who in ("student", row["against"]))
        for figure, sign in (("accuracy", 1), ("nll", -1)):
            difference = row[figure]
            expected = student[figure]["value"] - other[figure]["value"]
            assert difference["value"] == pytest.approx(expected, abs=1e-9)
            low, high = sorted((sign * difference["low"], sign * difference["high"]))
            verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
            assert row[f"{figure}_verdict"] == verdict, row


def test_a_changed_section_redoes_only_what_depends_on_it(folder: Path) -> None:
    before = manifests(folder)
    events, result = run(folder, "--set", "evaluate.num_bootstrap=500")
    assert stages(events, "reused") >= {"shard", "adapt", "audit", "probe", "rank", "distill"}
    new = set(manifests(folder)) - set(before)
    assert {path.split("/")[3] for path in new} == {"evaluate", "report"}
    assert before.items() <= manifests(folder).items()
    assert Path(result["report"]).is_file()

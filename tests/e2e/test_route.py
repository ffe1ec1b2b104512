"""The whole route by the command line, killed twice on its way, with two teachers that fail.

A study follows it, of which the route is a domain.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import doomed
import pytest
import torch
import yaml
from findings import config, rows, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

Files = dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's config, with enough steps that a kill falls into the middle."""
    path = tmp_path_factory.mktemp("route")
    data = config(path)
    for recipe in data["adapt"]["recipes"].values():
        recipe["tokens"] = 40960
    data["student"]["model"] = tiny_model(24, 1)
    data["distill"] |= {"tokens": 153600, "save_every": 20, "validate_every": 50}
    data |= {"storage": str(path / "runs" / "which")}
    data["probe"]["race"] = {"max_seeds": 3}
    data["cluster"]["max_failures"] = 0
    _with_failing_teachers(data, path)
    (path / "tiny.yaml").write_text(yaml.safe_dump(data))
    study = {"name": "which", "storage": str(path / "runs"), "seeds": [0, 1], "rungs": 2}
    study |= {"results": str(path / "results"), "domains": {"tiny": {}}}
    shared = {k: v for k, v in data.items() if k not in ("name", "storage")}
    (path / "study.yaml").write_text(yaml.safe_dump({**study, "run": shared}))
    return path


def _with_failing_teachers(data: dict[str, Any], path: Path) -> None:
    tokens = path / "tokenizer"
    size = doomed.tokenizer(tokens, (row["text"] for row in rows()), 320)
    init = {**tiny_model(32, 5)["init"], "vocab_size": size}
    folders = {
        "broken": {"path": str(doomed.broken(path / "broken", init))},
        "killer": {"path": str(doomed.killer(path / "killer", init)), "trust_remote_code": True},
    }
    data["student"]["tokenizer"] = {"path": str(tokens)}
    data["teachers"] += [
        {"name": name, "model": model, "tokenizer": {"path": str(tokens)}}
        for name, model in folders.items()
    ]


def command(folder: Path, *flags: str, file: str = "tiny.yaml") -> list[str]:
    what = ["study", "ranking"] if file == "study.yaml" else ["run"]
    return [sys.executable, "-m", "distill_ray", *what, str(folder / file), *flags]


def run(
    folder: Path, *flags: str, file: str = "tiny.yaml"
) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """Run to the end; events, result, seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [*command(folder, *flags, file=file), "--json"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines if "event" in line]
    return events, lines[-1]["result"], time.monotonic() - started


def kill_in(folder: Path, stage: str, done: int, file: str = "tiny.yaml") -> list[dict[str, Any]]:
    """Start the run and SIGKILL the driver once `stage` has got that far."""
    process = subprocess.Popen(
        [*command(folder, file=file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line).get("event", {}))
        if events[-1].get("stage") == stage and events[-1].get("done", 0) >= done:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait(timeout=60) == -signal.SIGKILL, f"ended before {stage} was reached"
    return events


def manifests(folder: Path) -> Files:
    found = sorted((folder / "runs").rglob("manifest.json"))
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def loaded_from(page: str) -> list[str]:
    """What a browser would fetch to show the page."""
    found: list[str] = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            wanted = {"link": "href"}.get(tag, "src")
            found.extend(v for k, v in attrs if k == wanted and v and not v.startswith("data:"))

    Sources().feed(page)
    return found


def stages(events: list[dict[str, Any]], kind: str) -> set[str]:
    return {event["stage"] for event in events if event["kind"] == kind}


def test_a_killed_run_goes_on_where_it_stopped_and_a_finished_one_changes_nothing(
    folder: Path,
) -> None:
    kill_in(folder, "probe", 1)
    after_first = manifests(folder)
    assert any("/probe/" in path for path in after_first)
    assert not any("/distill/" in path for path in after_first)

    events = kill_in(folder, "distill", 60)
    assert stages(events, "reused") >= {"shard", "adapt", "audit"}
    after_second = manifests(folder)
    assert after_first.items() <= after_second.items()

    events, result, _ = run(folder)
    assert stages(events, "reused") >= {"shard", "adapt", "audit", "probe", "rank"}
    student = [e for e in events if e["stage"] == "distill" and "student:" in e.get("text", "")]
    steps = [event["done"] for event in student if "done" in event]
    assert min(steps) > 20 and min(steps) % 20 == 1, "resumes from a checkpoint, not the start"
    finished = manifests(folder)
    assert after_second.items() <= finished.items()
    assert loaded_from(Path(result["report"]).read_text()) == []
    assert_named(folder, Path(result["report"]).with_suffix(".md").read_text())

    events, _, seconds = run(folder)
    assert stages(events, "started") == set()
    assert manifests(folder) == finished
    assert seconds < 20


def assert_named(folder: Path, page: str) -> None:
    """The other teachers are ranked; the two that failed are named, with the reason."""
    (file,) = (folder / "runs").rglob("ranking.json")
    ranking = json.loads(file.read_text())
    assert {row["teacher"] for row in ranking["standings"]["early"]} == {"wide", "narrow"}
    left_out = ranking["left_out"]
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


def test_a_study_goes_on_where_it_was_killed_and_reuses_the_route(folder: Path) -> None:
    before = manifests(folder)
    events = kill_in(folder, "full", 1, "study.yaml")
    assert stages(events, "reused") >= {"shard", "adapt", "audit", "probe", "rank"}
    between = manifests(folder)
    done = between.keys() - before.keys()
    assert done and all("/full/" in path for path in done)

    _, result, _ = run(folder, file="study.yaml")
    finished = manifests(folder)
    assert before.items() <= between.items() <= finished.items()
    assert len([path for path in finished if "/full/" in path]) == 4
    found = json.loads(Path(result["page"]).with_suffix(".json").read_text())
    domain = found["domains"]["tiny"]
    assert set(domain["outcomes"]) == {"wide", "narrow"}
    assert [row["teacher"] for row in domain["failed"]["full"]] == ["killer", "killer"]
    assert domain["failed"]["audit"].keys() == {"broken"}
    assert abs(domain["agreement"]["ranking"]["spearman"]) in (0.0, 1.0)
    assert (Path(result["page"]).parent / "which-tiny.svg").stat().st_size > 1000


def test_the_student_loads_in_plain_transformers_and_knows_more_than_at_first(
    folder: Path,
) -> None:
    _, result, _ = run(folder)
    tokenizer = AutoTokenizer.from_pretrained(result["student"])
    student = AutoModelForCausalLM.from_pretrained(result["student"])
    right = 0
    items = rows()[::5]
    for item in items:
        prompt = tokenizer(f"{item['text']}\nOrgan:", return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            made = student.generate(**prompt, max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        right += text.strip() == item["label"]
    assert right / len(items) > 0.8
    assert (Path(result["student"]) / "README.md").is_file()


def test_a_changed_section_redoes_only_what_depends_on_it(folder: Path) -> None:
    before = manifests(folder)
    events, result, _ = run(folder, "--set", "evaluate.bootstrap=500")
    assert stages(events, "reused") >= {"shard", "adapt", "audit", "probe", "rank", "distill"}
    new = set(manifests(folder)) - set(before)
    assert {path.split("/")[3] for path in new} == {"evaluate", "report"}
    assert before.items() <= manifests(folder).items()
    assert Path(result["report"]).is_file()

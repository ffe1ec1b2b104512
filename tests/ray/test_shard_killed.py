"""A killed `shard` goes on, and its files are those of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tiny_run import config

from distill_ray.config import RunConfig
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.shard import shard

pytestmark = [
    pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(400)
]  # fmt: skip
WORDS = ("pain", "swelling", "failure", "infection", "of the", "left", "right", "heart", "lung")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 14 MB of notes: four parts of the smallest size, beside those of the task."""
    folder = tmp_path_factory.mktemp("killed")
    data = config(folder)
    rng = random.Random(0)
    with (folder / "notes.jsonl").open("w") as file:
        for number in range(70_000):
            text = " ".join(rng.choices(WORDS, k=30)) + f" {number % 60_000}"
            file.write(json.dumps({"text": text}) + "\n")
    data["corpora"]["sources"].append(
        {"name": "notes", "source": {"jsonl": str(folder / "notes.jsonl")}}
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data))
    return folder


def files_of(folder: Path, name: str, progress: Any = None) -> dict[str, str]:
    """Path → SHA-256 of a shard set that is made in this process."""
    data = yaml.safe_load((folder / "tiny.yaml").read_text()) | {"name": name}
    run = Run.open(RunConfig.model_validate(data), "tiny.yaml", progress)
    return shard(run).artifact.manifest().files


@pytest.fixture(scope="module")
def undisturbed(folder: Path, ray_here: None) -> dict[str, str]:
    return files_of(folder, "undisturbed")


@pytest.mark.parametrize("phase", ["reading and cleaning", "tokenizing and packing"])
def test_a_killed_driver_leaves_parts_that_are_not_made_again(
    folder: Path, undisturbed: dict[str, str], phase: str
) -> None:
    name = phase.split()[0]
    command = [sys.executable, "-m", "distill_ray", "shard", str(folder / "tiny.yaml")]
    process = subprocess.Popen(
        [*command, "--json", "--set", f"name={name}"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line).get("event", {})
        if event.get("text") == phase and event.get("completed", 0) >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait(timeout=120) == -signal.SIGKILL, f"ended before {phase}"
    parts = {
        path: path.stat().st_mtime_ns for path in (folder / "runs" / name).rglob("reports/*/*.json")
    }
    assert len(parts) >= 2
    reports = Reports(folder / "runs" / name, set(parts))
    assert files_of(folder, name, reports) == undisturbed
    assert reports.kept, "what was done before is there while the rest is made"


class Reports:
    """Looks, while a run goes on, whether files that were there stay as they are."""

    def __init__(self, folder: Path, files: set[Path]) -> None:
        self.times = {file: file.stat().st_mtime_ns for file in files}
        self.kept = False

    def emit(self, event: Event) -> None:
        if event.text == "tokenizing and packing" and not self.kept:
            self.kept = all(f.stat().st_mtime_ns == time for f, time in self.times.items())


class Killer:
    """Kills one of Ray's workers at each of two phases."""

    def __init__(self) -> None:
        self.phases: set[str] = set()

    def emit(self, event: Event) -> None:
        if (event.completed or 0) < 1 or event.stage != "shard" or event.text in self.phases:
            return
        children = psutil.Process().children(recursive=True)
        # Not one of Ray's agents: without them the node ends, and the driver with it.
        workers = [p for p in children if "flatmap" in (p.cmdline() or [""])[0].lower()]
        if workers:
            os.kill(workers[0].pid, signal.SIGKILL)
            self.phases.add(event.text)


def test_a_killed_worker_costs_its_tasks(folder: Path, undisturbed: dict[str, str]) -> None:
    killer = Killer()
    assert files_of(folder, "worker", killer) == undisturbed
    assert killer.phases >= {"reading and cleaning", "tokenizing and packing"}

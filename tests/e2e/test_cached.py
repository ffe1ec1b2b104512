"""A weighted distillation from cached targets by the command line: killed, then on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tiny_run import config, tiny_model, training

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Place:
    """A run whose targets have a small file system of their own, where that is allowed."""

    folder: Path
    inside: tuple[str, ...] = ()
    """Puts a command into the namespace that has the file system."""

    @property
    def targets(self) -> Path:
        return self.folder / "runs/tiny/targets"

    def resize(self, size_kib: int) -> None:
        options = f"remount,size={size_kib}k"
        subprocess.run([*self.inside, "mount", "-o", options, str(self.targets)], check=True)

    def command(self, stage: str) -> list[str]:
        call = [sys.executable, "-m", "distill_ray", stage, str(self.folder / "tiny.yaml")]
        return [*self.inside, *call, "--json"]

    def run(self, stage: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(stage), capture_output=True, text=True, timeout=400)

    def files(self, of: str = "wide") -> dict[str, str]:
        """Every file of a teacher's targets → its digest, as seen from inside."""
        found = ["find", str(self.targets), "-type", "f", "-path", f"*/targets/{of}-*"]
        find = [*found, "-exec", "sha256sum", "{}", "+"]
        found = subprocess.run([*self.inside, *find], capture_output=True, text=True, check=True)
        lines = [line.split(maxsplit=1) for line in found.stdout.splitlines()]
        return {path: digest for digest, path in lines}

    def whole(self, path: str, to: Path) -> bool:
        """Whether a file is Parquet to its end."""
        cat = subprocess.run([*self.inside, "cat", path], capture_output=True, check=True)
        to.write_bytes(cat.stdout)
        return pq.ParquetFile(to).read().num_rows > 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One teacher, as it is."""
    folder = tmp_path_factory.mktemp("cached")
    data = config(folder)
    data["teachers"] = [{"name": "wide", "model": tiny_model(32, 2)}]
    data["adapt"] = {}
    data["tasks"][0]["max_examples"] = 10
    data["probe"] |= {"token_budget": 1024, "num_curve_points": 1}
    data["cluster"]["num_workers"] = 1
    data["distill"] = training(
        mix={"organ.labelled": 1, "organ.prompts": 2, "findings": 1},
        objective={"temperature": 2.0, "weighting": "adaptive"},
        token_budget=10240,
        reassess={"at_progress": []},
        serving={"kind": "cached", "targets": {"kind": "top_k", "k": 32}, "rows_per_file": 2},
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data))
    made = Place(folder)
    made.targets.mkdir(parents=True)
    holder = _namespace()
    try:
        if holder is not None:
            made.inside = ("nsenter", f"-t{holder.pid}", "-U", "-m", "--preserve-credentials")
            mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "targets", str(made.targets)]
            subprocess.run([*made.inside, *mount], check=True)
        yield made
    finally:
        if holder is not None:
            holder.kill()
            holder.wait()


def _namespace() -> subprocess.Popen[bytes] | None:
    """A process in a mount namespace of its own; None where this user may not have one."""
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        return None
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        return None
    call = ["unshare", "-rm", "sh", "-c", "echo ready; exec sleep 900"]
    holder = subprocess.Popen(call, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def events(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line).get("event", {}) for line in lines.splitlines() if line[:1] == "{"]


def test_a_killed_pass_leaves_the_files_that_were_done(place: Place, tmp_path: Path) -> None:
    process = subprocess.Popen(
        place.command("distill"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line).get("event", {})
        if "targets of wide" in event.get("text", "") and event["completed"] >= 5:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait(timeout=60) == -signal.SIGKILL, "ended before it was killed"
    found = [path for path in place.files() if path.endswith(".parquet")]
    assert 5 <= len(found) < event["total"]
    assert all(place.whole(path, tmp_path / "copy") for path in found)
    assert not any(path.endswith("manifest.json") for path in place.files())
    of_the_control = [Path(path).name for path in place.files("frozen-student")]
    assert "manifest.json" in of_the_control and len(of_the_control) > 1, "it comes first"


def test_a_full_disk_is_one_message_and_leaves_no_torn_file(place: Place, tmp_path: Path) -> None:
    if not place.inside:
        pytest.skip("needs a user namespace with a file system of its own")
    before = place.files()
    place.resize(200)
    done = place.run("distill")
    assert done.returncode == 2, done.stderr[-4000:]
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.startswith("disk full:\n  storage: ")
    assert str(place.targets) in done.stderr
    assert "left, the teacher's targets need about" in done.stderr
    fix = "Free some space, or set storage to another place. Rerun the same command to resume.\n"
    assert done.stderr.endswith(fix)
    after = place.files()
    assert len(after) > len(before)
    assert {p: d for p, d in before.items() if p.endswith(".parquet")}.items() <= after.items()
    assert all(path.endswith(".parquet") for path in after), "what was half written is removed"
    assert all(place.whole(path, tmp_path / "copy") for path in after)


def test_the_same_command_goes_on_from_there_and_ends(place: Place) -> None:
    before = {p: d for p, d in place.files().items() if p.endswith(".parquet")}
    if place.inside:
        place.resize(64 * 1024)
    done = place.run("distill")
    assert done.returncode == 0, done.stderr[-4000:]
    after = place.files()
    assert before.items() <= after.items()
    told = [e for e in events(done.stdout) if e.get("kind") == "note"]
    assert len(told) == 1 and "% of the mass" in told[0]["text"]
    students = json.loads(done.stdout.splitlines()[-1])["result"]
    assert len(students) == 2 and all((Path(s) / "manifest.json").is_file() for s in students)
    (curve,) = place.folder.glob("runs/tiny/distill/student-*/curve.json")
    shares = [row["share"] for row in json.loads(curve.read_text())["history"]]
    assert shares and all(0 < share < 1 for share in shares), "samples are weighted"

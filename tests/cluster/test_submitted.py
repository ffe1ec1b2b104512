"""A run as a job of a real cluster with a token: let in or not, killed, stopped, sent again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml
from cli_runs import manifests
from open_ports import beyond_loopback, listening
from ray_cluster import Head, clean_environment, command_line, head
from tiny_run import config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

TOKEN = "token-of-this-cluster-and-no-other"
SECRETS = {"AWS_SECRET_ACCESS_KEY": "planted-key-9431", "HF_TOKEN": "planted-token-7725"}


class Desk:
    """Where a user sits: a folder with a config and its data, and the command."""

    def __init__(self, folder: Path, cluster: Head) -> None:
        self.folder, self.cluster = folder, cluster
        self.storage = folder / "runs"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        data = config(self.work)
        # Relative: they travel with the job.
        data["corpora"]["sources"][0]["source"] = {"text": "corpus.txt"}
        data["tasks"][0]["source"] = {"jsonl": "task.jsonl"}
        data["cluster"]["num_workers"] = 1
        # One teacher, with enough steps to be killed within, and little after it.
        data["teachers"] = data["teachers"][:1]
        data["adapt"]["recipes"] = {"full": data["adapt"]["recipes"]["full"] | {"tokens": 102400}}
        data["distill"] |= {"tokens": 10240, "schedule": {"kind": "fixed"}}
        (self.work / "tiny.yaml").write_text(yaml.safe_dump(data))

    def command(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command, with the token unless told otherwise, to its end."""
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN} | SECRETS | variables
        variables = {name: value for name, value in variables.items() if value}
        return subprocess.run(
            [sys.executable, "-m", "distill_ray", *words, "--address", self.cluster.url],
            cwd=self.work,
            env=clean_environment(self.folder, **variables),
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def submit(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        to = ("--storage", str(self.storage))
        return self.command("submit", "tiny.yaml", *to, *words, **variables)

    def ask(self, path: str = "") -> Any:
        """What the cluster's job server knows."""
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        return requests.get(
            f"{self.cluster.url}/api/jobs/{path}", headers=bearer, timeout=60
        ).json()

    def logs(self, job_id: str) -> str:
        return str(self.ask(f"{job_id}/logs")["logs"])

    def jobs(self) -> list[dict[str, Any]]:
        """All that the cluster keeps of its jobs."""
        return [job for job in self.ask() if job["submission_id"]]

    def wait_for(self, job_id: str, said: str) -> None:
        _until(lambda: said in self.logs(job_id), f"{job_id} never said {said!r}")

    def status(self, job_id: str) -> str:
        return next(str(j["status"]) for j in self.jobs() if j["submission_id"] == job_id)

    def driver(self) -> psutil.Process:
        """The job's own process, not the shell around it."""
        (found,) = (
            process
            for process in self.cluster.processes()
            if command_line(process)[1:3] == ["-m", "distill_ray"]
        )
        return found


def _until(done: Callable[[], bool], otherwise: str, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, otherwise
        time.sleep(0.5)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **SECRETS}
    with tempfile.TemporaryDirectory(prefix="r") as home, head(Path(home), variables) as cluster:
        yield Desk(tmp_path_factory.mktemp("desk"), cluster)


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"RAY_AUTH_TOKEN": "another"}, "the cluster rejects the token that was sent"),
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster requires a token, and none was sent"),
        ({"RAY_AUTH_TOKEN": ""}, "couldn't find an authentication token"),
    ],
)
def test_without_the_token_nothing_is_sent(desk: Desk, variables: dict[str, str], why: str) -> None:
    done = desk.submit(**variables)
    assert done.returncode == 2, done.stderr
    assert why in done.stderr and "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert len(done.stderr.splitlines()) == 2, "one message, no traceback"
    assert TOKEN not in done.stderr and desk.jobs() == []


def test_a_driver_with_another_token_isn_t_let_in(desk: Desk) -> None:
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}
    local = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # The head is on loopback alone.
    flags = ["--set", f"cluster.address={desk.cluster.gcs}", "--storage", str(desk.folder / "no")]
    done = subprocess.run(
        [sys.executable, "-m", "distill_ray", "shard", "tiny.yaml", *flags],
        cwd=desk.work,
        env=clean_environment(desk.folder, **secret, **local),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 2, "one message, no traceback"
    assert "no Ray at" in done.stderr and "RAY_AUTH_TOKEN_PATH" in done.stderr


def test_a_token_in_a_file_is_enough(desk: Desk) -> None:
    file = desk.folder / "token"
    file.write_text(TOKEN)
    done = desk.command(
        "jobs",
        "status",
        "--json",
        RAY_AUTH_MODE="",
        RAY_AUTH_TOKEN="",
        RAY_AUTH_TOKEN_PATH=str(file),
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"jobs": []}), done.stderr


def test_a_bad_config_is_refused_before_anything_is_sent(desk: Desk) -> None:
    for flags, where in ((("--set", "prob.tokens=1"), "prob"), (("--storage", "runs"), "storage")):
        done = desk.command("submit", "tiny.yaml", *flags)
        assert done.returncode == 2 and where in done.stderr
    assert desk.jobs() == []


def test_a_run_that_is_killed_and_stopped_goes_on_to_its_report(desk: Desk) -> None:
    _killed(desk)
    first = manifests(desk.folder)
    assert any("/shard/" in path for path in first)
    _stopped(desk)
    second = manifests(desk.folder)
    assert first.items() < second.items() and any("/adapt/" in path for path in second)
    done = desk.submit("--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Submitted tiny-3" in done.stdout and "tiny-3 SUCCEEDED" in done.stdout
    assert _reused(done.stdout) >= {"shard", "adapt"}
    assert second.items() < manifests(desk.folder).items(), "nothing is made twice"
    report = Path(done.stdout.partition("Report:  ")[2].splitlines()[0])
    assert report.is_relative_to(desk.storage) and report.stat().st_size > 10_000
    _told_of_the_attempts(desk)
    _no_secret_is_anywhere(desk)


def _killed(desk: Desk) -> None:
    """The driver dies without a word, in the middle of the teachers' training."""
    done = desk.submit()
    assert done.returncode == 0, done.stderr
    desk.wait_for("tiny-1", "full: loss")
    processes = desk.cluster.processes()
    assert len(listening(processes)) >= 5
    assert beyond_loopback(processes) == []
    lines = [" ".join(command_line(process)) for process in processes]
    assert not [line for line in lines for secret in (TOKEN, *SECRETS.values()) if secret in line]
    desk.driver().send_signal(signal.SIGKILL)
    _until(lambda: desk.status("tiny-1") == "FAILED", "a killed job never failed")
    assert desk.command("jobs", "logs", "tiny-1", "--follow").returncode == 137


def _stopped(desk: Desk) -> None:
    """By the command, once the teachers are trained."""
    assert "Submitted tiny-2" in desk.submit().stdout
    again = desk.submit()
    assert again.returncode == 2 and "tiny-2 is " in again.stderr and len(desk.jobs()) == 2
    desk.wait_for("tiny-2", "audit  started")
    done = desk.command("jobs", "stop", "tiny")
    assert (done.returncode, done.stdout.strip()) == (0, "tiny-2 STOPPED")
    assert _reused(desk.logs("tiny-2")) == {"shard"}
    assert desk.command("jobs", "logs", "tiny", "--follow").returncode == 130


def _reused(log: str) -> set[str]:
    lines = (line.split() for line in log.splitlines())
    return {words[0] for words in lines if words[1:2] == ["reused"]}


def _told_of_the_attempts(desk: Desk) -> None:
    shown = json.loads(desk.command("jobs", "status", "tiny", "--json").stdout)["jobs"]
    found = [(job["id"], job["status"], job["exit_code"]) for job in shown]
    expected = [("tiny-1", "FAILED", 137), ("tiny-2", "STOPPED", 130), ("tiny-3", "SUCCEEDED", 0)]
    assert found == expected
    told = [job["metadata"] for job in desk.jobs()]
    assert {(m["run"], m["stage"]) for m in told} == {("tiny", "run")}
    assert {m["attempt"] for m in told} == {"1", "2", "3"}
    assert len({m["config"] for m in told}) == 1


def _no_secret_is_anywhere(desk: Desk) -> None:
    """Neither in artifacts, nor in what the cluster keeps of its jobs, nor in any log of it."""
    logs = [file for file in (desk.cluster.session / "logs").rglob("*") if file.is_file()]
    files = [file for file in desk.storage.rglob("*") if file.is_file()]
    assert len(files) > 50 and any("job-driver-tiny-3" in file.name for file in logs)
    texts = {str(file): file.read_bytes() for file in (*files, *logs)}
    texts["jobs"] = json.dumps(desk.jobs()).encode()
    for secret in (TOKEN, *SECRETS.values()):
        assert [place for place, text in texts.items() if secret.encode() in text] == []


def test_a_job_that_fails_there_ends_the_command_with_its_exit_code(desk: Desk) -> None:
    done = desk.submit("--follow", "--set", "name=large", "--set", "cluster.cpus_per_worker=1000")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "insufficient cluster resources" in done.stdout
    assert "large-1 FAILED, exit code 2" in done.stdout

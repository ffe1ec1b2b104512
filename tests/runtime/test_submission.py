"""A run as a job: its id, what is told of it, what it is started by, how it ends."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_run import config

from distill_ray.config import InputError, RunConfig, load_config
from distill_ray.runtime.jobs import _LogTail, _url
from distill_ray.runtime.submission import (
    Attempt,
    Submission,
    attempt_of,
    find,
    next_attempt,
    storage_problems,
)
from distill_ray.runtime.working_dir import MIB, Package, survey
from distill_ray.stages.preflight.check import paths_elsewhere, submit_problems

ROOT = Path(__file__).parents[2]


def attempts(**statuses: str) -> list[Attempt]:
    return [Attempt(name.replace("_", "-"), status) for name, status in statuses.items()]


def submission(folder: Path, **cluster: Any) -> Submission:
    data = config(folder)
    data["cluster"] |= cluster
    cfg = RunConfig.model_validate(data)
    package = Package(folder, {}, {}, ("runs",))
    return Submission(cfg, "a b.yaml", "rank", ("--set", "seed=$HOME 'x'"), package)


def test_attempts_are_counted_by_run() -> None:
    known = attempts(tiny_1="FAILED", tiny_10="STOPPED", tiny_2_7="SUCCEEDED", other_30="FAILED")
    assert next_attempt(known, "tiny") == "tiny-11"
    assert next_attempt(known, "tiny-2") == "tiny-2-8"
    assert next_attempt(known, "new") == "new-1"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_run_that_is_under_way_is_refused_by_the_name_of_its_attempt(status: str) -> None:
    known = attempts(tiny_1="FAILED", tiny_2=status, tiny_2_1="SUCCEEDED")
    with pytest.raises(InputError, match=rf"tiny-2 is {status}.*jobs stop tiny-2"):
        next_attempt(known, "tiny")
    assert next_attempt(known, "tiny-2") == "tiny-2-2"


def test_a_name_is_that_of_a_job_or_of_a_run_s_last_attempt() -> None:
    known = attempts(tiny_2="FAILED", tiny_10="RUNNING", tiny_9="FAILED", tiny_2_1="STOPPED")
    assert find(known, "tiny").id == "tiny-10"
    assert find(known, "tiny-2").id == "tiny-2"
    assert find(known, "tiny-2-1").id == "tiny-2-1"
    with pytest.raises(InputError, match="Did you mean 'tiny'"):
        find(known, "tyny")


@pytest.mark.parametrize(
    ("status", "driver", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 1, 1),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_a_command_ends_as_the_job_does(status: str, driver: int | None, expected: int) -> None:
    assert Attempt("a-1", status, driver_exit_code=driver).exit_code == expected


def test_jobs_of_others_are_no_attempts() -> None:
    job = {"status": "RUNNING", "metadata": None, "message": None, "driver_exit_code": None}
    job |= {"start_time": 1_000, "end_time": None}
    for other in (None, "raysubmit_4LamXRuQpYdSMg7J", "tiny", "tiny-0", "-1"):
        assert attempt_of(SimpleNamespace(submission_id=other, **job)) is None
    ours = attempt_of(SimpleNamespace(submission_id="tiny-1", **job))
    assert ours is not None and (ours.run, ours.number, ours.over) == ("tiny", 1, False)
    assert ours.started is not None and ours.started.timestamp() == 1 and ours.ended is None


def test_a_job_is_started_by_the_same_command_with_words_that_a_shell_leaves_alone(
    tmp_path: Path,
) -> None:
    words = shlex.split(submission(tmp_path).request("tiny-3")["entrypoint"])
    assert words[:3] == ["python", "-m", "distill_ray"]
    assert words[3:] == ["rank", "a b.yaml", "--set", "seed=$HOME 'x'"]


def test_a_job_holds_no_processor_and_its_driver_stays_where_the_config_says(
    tmp_path: Path,
) -> None:
    request = submission(tmp_path).request("tiny-3")
    assert request["entrypoint_num_cpus"] == 0
    assert request["entrypoint_label_selector"] is None and "pip" not in request["runtime_env"]
    assert request["runtime_env"]["working_dir"] == str(tmp_path)
    assert request["runtime_env"]["excludes"] == ["runs"]
    job = {"node_labels": {"market-type": "!spot"}, "pip": ["my-package==1"]}
    request = submission(tmp_path, job=job).request("tiny-3")
    assert request["entrypoint_label_selector"] == {"market-type": "!spot"}
    assert request["runtime_env"]["pip"] == ["my-package==1"]


def test_a_job_is_told_what_it_is_and_no_secret_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_PASSWORD"):
        monkeypatch.setenv(name, "planted")
    first, second = (submission(tmp_path).request(f"tiny-{n}") for n in (3, 4))
    assert "planted" not in json.dumps(first)
    told = first["metadata"]
    assert (told["run"], told["attempt"], told["stage"]) == ("tiny", "3", "rank")
    assert {**told, "attempt": "4"} == second["metadata"]
    other = submission(tmp_path, num_workers=1).request("tiny-3")["metadata"]
    assert other["config"] != told["config"]


@pytest.mark.parametrize(
    ("storage", "fine"),
    [
        *(("runs", False), ("./runs", False), ("/shared/runs", True)),
        *(("file:///shared/runs", True), ("s3://bucket/runs", True), ("gs://bucket", True)),
    ],
)
def test_a_storage_that_would_be_lost_with_the_job_is_refused(
    tmp_path: Path, storage: str, fine: bool
) -> None:
    cfg = RunConfig.model_validate(config(tmp_path, storage=storage))
    found = [str(problem) for problem in storage_problems(cfg, Path("/here"))]
    assert fine == (found == [])
    assert fine or ("--storage" in found[0] and "/here/runs" in found[0])


def test_a_password_in_the_storage_is_refused_and_not_repeated(tmp_path: Path) -> None:
    data = config(tmp_path, storage="s3://key:planted@bucket/runs")
    with pytest.raises(ValueError, match="password") as caught:
        RunConfig.model_validate(data)
    assert "planted" not in str(caught.value).split("input_value")[0]


def test_what_only_the_cluster_has_is_left_to_the_job_and_the_rest_is_checked_here(
    tmp_path: Path,
) -> None:
    data = config(tmp_path, storage="/not/on/this/machine/runs")
    data["corpora"]["sources"][0]["source"] = {"text": "/not/on/this/machine.txt"}
    data["teachers"][0]["model"] = {"path": "/not/on/this/machine"}
    data["tasks"][0]["source"] = {"jsonl": "mispelt.jsonl"}
    data["cluster"]["num_workers"] = 1  # Of a size that this machine may not have.
    data["cluster"]["cpus_per_worker"] = 1000
    cfg = RunConfig.model_validate(data)
    assert len(paths_elsewhere(cfg)) == 2
    file = tmp_path / "run.yaml"
    package = Package(tmp_path, {"run.yaml": 1, "task.jsonl": 1}, {}, ())
    found = [str(problem) for problem in submit_problems(cfg, file, package)]
    assert [line.split(":")[0] for line in found] == ["tasks.0.source.jsonl"]
    unsent = Package(tmp_path, {"task.jsonl": 1}, {}, ())
    file.write_text("")
    found = [str(problem) for problem in submit_problems(cfg, file, unsent)]
    assert any(line.startswith("CONFIG: run.yaml isn't sent") for line in found)


def test_the_quickstart_can_be_submitted_from_its_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    config_file = Path("configs/quickstart.yaml")
    cfg = load_config(config_file, ["storage=s3://bucket/runs"])
    package = survey(ROOT, cfg.cluster.job.excludes, cfg.cluster.job.max_file_mib * MIB)
    assert list(submit_problems(cfg, config_file, package)) == []
    assert {"configs/quickstart.yaml", "distill_ray/cli/main.py", "jobs/run.py"} <= set(
        package.files
    )
    assert package.size_bytes < 20 * MIB


def test_an_address_is_a_dashboard_s_url() -> None:
    assert _url("127.0.0.1:8265") == "http://127.0.0.1:8265"
    assert _url("https://cluster.example/ray/") == "https://cluster.example/ray"
    for wrong in ("ray://head:10001", "auto://", "http://"):
        with pytest.raises(InputError, match="isn't an http or https URL"):
            _url(wrong)


class Broken:
    """A log of which each connection gives the first `lengths[i]` characters, in pieces of 3."""

    def __init__(self, log: str, lengths: list[int]) -> None:
        self.log, self.lengths = log, lengths

    async def tail_job_logs(self, job_id: str) -> Any:
        shown = self.log[: self.lengths.pop(0)]
        for start in range(0, len(shown), 3):
            yield shown[start : start + 3]


def test_a_log_that_is_read_over_several_connections_is_told_once() -> None:
    import asyncio

    log, told = "".join(chr(97 + i % 26) for i in range(50)), []
    server = Broken(log, [10, 0, 5, 31, 31, 50])
    tail = _LogTail(told.append)
    moved = []
    while server.lengths:
        asyncio.run(tail.read(server, "tiny-1"))
        moved.append(tail.has_advanced())
    assert "".join(told) == log
    assert moved == [True, False, False, True, False, True]

"""Two commands on one run's folder at once: one works, the other waits or is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from lease_process import processes
from tiny_run import config

from distill_ray.runtime.claims import FOLDER

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BAD_INPUT = 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    data = config(tmp_path)
    data["cluster"]["num_workers"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "tiny.yaml"


@contextmanager
def shard(file: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """`distill-ray shard`, which is killed if it still runs at the end."""
    command = [sys.executable, "-m", "distill_ray", "shard", str(file), "--json", *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def notes(text: str) -> list[str]:
    events = [line["event"] for line in lines(text) if "event" in line]
    return [event["text"] for event in events if event["kind"] == "note"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def claims(file: Path) -> list[str]:
    return [path.name for path in (file.parent / "runs/tiny" / FOLDER).glob("*.json")]


def digests(file: Path) -> dict[str, str]:
    """Those of the one shard set, which is all that is in its folder."""
    (folder,) = (file.parent / "runs/tiny/shard").iterdir()
    return dict(json.loads((folder / "manifest.json").read_text())["files"])


def test_the_second_is_refused_and_the_first_ends_as_if_alone(file: Path) -> None:
    with shard(file) as first:
        until(lambda: len(claims(file)) == 1)
        with shard(file) as second:
            out, err = second.communicate(timeout=120)
        assert second.returncode == BAD_INPUT and first.poll() is None
        assert "run folder in use:" in err and f"(pid {first.pid} on" in err
        assert "Traceback" not in out + err and "--wait" in err
        out, err = first.communicate(timeout=240)
    assert first.returncode == 0, err
    assert claims(file) == [] and notes(out) == []


def test_the_one_that_waits_takes_over_when_the_first_is_killed(file: Path) -> None:
    with shard(file) as first:
        until(lambda: len(claims(file)) == 1)
        with shard(file, "--wait") as second:
            until(lambda: len(claims(file)) == 2)
            until(lambda: any((file.parent / "runs/tiny/shard").glob("*.building*/*")))
            os.kill(first.pid, signal.SIGKILL)
            out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert any("is taken over from" in note for note in notes(out))
    disturbed = digests(file)
    (file.parent / "runs").rename(file.parent / "disturbed")
    with shard(file) as alone:
        alone.communicate(timeout=240)
    assert alone.returncode == 0
    assert disturbed == digests(file), "whole, and equal to those of an undisturbed run"


def test_what_is_complete_can_be_read_while_another_one_works(file: Path) -> None:
    with shard(file) as first:
        out, err = first.communicate(timeout=240)
        assert first.returncode == 0, err
    with processes(str(file.parent / "runs/tiny"), 1) as (worker,):
        worker.ask("acquire")
        with shard(file) as reader:
            again, err = reader.communicate(timeout=120)
        assert reader.returncode == 0, err
        assert lines(again)[-1] == lines(out)[-1], "the same artifact"
        with shard(file, "--set", "seed=5", "--set", "corpora.sequence_length=32") as writer:
            _, err = writer.communicate(timeout=120)
        assert writer.returncode == BAD_INPUT and "run folder in use:" in err


def test_a_run_that_lost_its_folder_stops_with_a_message(file: Path) -> None:
    with shard(file) as first:
        until(lambda: any((file.parent / "runs/tiny/shard").glob("*.building*/*")))
        for path in (file.parent / "runs/tiny" / FOLDER).iterdir():
            path.unlink()
        out, err = first.communicate(timeout=120)
    assert first.returncode == BAD_INPUT, err
    assert "run folder lost:" in err and "Traceback" not in out + err
    assert not any((file.parent / "runs/tiny/shard").glob("*/manifest.json"))

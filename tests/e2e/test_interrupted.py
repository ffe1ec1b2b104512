"""Ctrl-C while Ray starts: the command ends as it says, and nothing of Ray stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from cli_runs import INTERRUPTED, command, write_configs

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def names(process: psutil.Process) -> set[str]:
    return {child.name() for child in process.children(recursive=True)}


def test_an_interruption_while_ray_starts_ends_as_any_other(tmp_path: Path) -> None:
    started = psutil.Popen(
        command(write_configs(tmp_path, workers=1)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 120
    while "raylet" not in names(started):
        assert time.monotonic() < until and started.is_running(), "Ray never started"
        time.sleep(0.02)
    ray = started.children(recursive=True)
    os.kill(started.pid, signal.SIGINT)
    said = started.communicate(timeout=120)[0]
    assert started.returncode == INTERRUPTED, said
    assert "Interrupted. Rerun the same command to resume." in said
    assert psutil.wait_procs(ray, timeout=30)[1] == [], "something of Ray's lives on"

"""A disk that runs full in any stage: one message, nothing torn; on it goes when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_run import config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
SIZE = 48 << 20
ROOM = {"shard": 100_000, "adapt": 150_000, "distill": 300_000, "report": 100_000}
"""Stage → bytes that are left when it begins: it writes some files, and not the next."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def command(stage: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distill_ray", stage, str(file), "--json"],
        capture_output=True,
        text=True,
        timeout=900,
    )


def leave(disk: Path, room: int) -> Path:
    """Fill the disk up to that many bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    return ballast


def test_every_stage_says_so_and_goes_on_when_there_is_room(tmp_path: Path, disk: Path) -> None:
    data = config(tmp_path, storage=str(disk / "runs"))
    data["cluster"] |= {"num_workers": 1, "max_failures": 0}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(data))
    for stage, room in ROOM.items():
        ballast = leave(disk, room)
        full = command(stage, file)
        ballast.unlink()
        assert full.returncode == 2, f"{stage}: {full.stderr[-3000:]}"
        assert "disk full:" in full.stderr, stage
        assert "Free some space" in full.stderr and "Traceback" not in full.stderr
        assert not list(disk.rglob("*.failed.json")), "no model is to blame"
        assert not list(disk.rglob("*.part")), "what was cut off makes room"
        done = command(stage, file)
        assert done.returncode == 0, f"{stage}: {done.stderr[-3000:]}"
    assert list((disk / "runs").glob("tiny/report/*/report.html"))

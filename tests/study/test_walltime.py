"""How long a study took, by its artifacts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from distill_ray.runtime.manifest import Manifest
from distill_ray.study.common import busy_s

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def made(begun: float, ended: float) -> Manifest:
    created = (START + timedelta(seconds=ended)).isoformat(timespec="seconds")
    return Manifest("arm", "", "", {}, {}, ended - begun, created, {}, {})


def test_time_counts_once_however_many_work_at_it() -> None:
    assert busy_s([made(0, 100), made(10, 60), made(50, 130)]) == 130


def test_a_pause_between_two_commands_is_not_work() -> None:
    assert busy_s([made(1000, 1040), made(0, 30)]) == 70


def test_nothing_takes_no_time() -> None:
    assert busy_s([]) == 0

"""The entrypoints for `ray job submit`: thin, and the same commands as the command line's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distill_ray.stages.pipeline import STAGES

pytestmark = pytest.mark.heavy

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("name", ["run", *STAGES])
def test_an_entrypoint_is_thin_and_runs_its_stage(name: str) -> None:
    script = JOBS / f"{name}.py"
    assert len(script.read_text().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, str(script), "nowhere.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "nowhere.yaml: no such file" in done.stderr

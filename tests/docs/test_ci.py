"""What CI adds to the suite: slow tests of touched folders, within a limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from slow_folders import folders_of

SUPPORT = Path(__file__).parents[1] / "support"


def test_touched_folders_name_the_slow_tests_that_run_them():
    assert folders_of(["README.md", "distill_ray/core/head.py", "tests/conftest.py"]) == []
    assert folders_of(["distill_ray/models/load.py", "tests/e2e/test_cached.py"]) == [
        "tests/e2e",
        "tests/models",
        "tests/ray",
    ]
    assert folders_of(["tests/core/test_head.py", "tests/removed/test_gone.py"]) == []


def test_no_test_begins_that_might_end_after_the_limit(tmp_path):
    (tmp_path / "test_three.py").write_text(
        "import pytest\n"
        "def test_usual(): pass\n"
        "@pytest.mark.timeout(4)\n"
        "def test_short(): pass\n"
        "@pytest.mark.timeout(5000)\n"
        "def test_long(): pass\n"
    )

    def output(minutes: str) -> str:
        pytest = [sys.executable, "-m", "pytest", "-p", "time_limit", "-vrs", "-o", "timeout=300"]
        return subprocess.run(
            [*pytest, "--rootdir", tmp_path, "--minutes", minutes, tmp_path],
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    enough, little = output("35"), output("4")
    assert "3 passed" in enough
    assert "1 passed, 2 skipped" in little
    assert "no time left of 4 minutes" in little

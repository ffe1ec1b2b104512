"""Variables that what is started inherits, and no longer than that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distill_ray.runtime.environment import variables_set

TOLD = "import os; print(os.environ['OURS'], os.environ['KNOWN'])"


def test_what_is_started_in_the_block_inherits_them_and_afterwards_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KNOWN", "before")
    monkeypatch.delenv("OURS", raising=False)
    with pytest.raises(ZeroDivisionError), variables_set({"OURS": "1", "KNOWN": "2"}):
        child = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True)
        1 / 0  # noqa: B018
    assert child.stdout.split() == ["1", "2"]
    assert "OURS" not in os.environ and os.environ["KNOWN"] == "before"

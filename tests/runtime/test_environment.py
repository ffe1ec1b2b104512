"""Variables that what is started inherits, and no longer than that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distill_ray.runtime.environment import variables_set

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
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


@pytest.mark.parametrize(
    ("address", "known", "expected"),
    [("None", {}, "0"), ("None", {WATCHER: "1"}, "1"), ("'ray://elsewhere:10001'", {}, "None")],
)
def test_nobody_watches_for_a_preemption_of_this_machine_but_on_a_cluster_and_at_a_user_s_word(
    address: str, known: dict[str, str], expected: str
) -> None:
    said = f"""
import os
from distill_ray.runtime.environment import prepare
prepare({address})
print(os.environ.get("{WATCHER}"))
"""
    bare = {name: value for name, value in os.environ.items() if name != WATCHER}
    started = [sys.executable, "-c", said]
    found = subprocess.run(started, capture_output=True, text=True, env={**bare, **known})
    assert found.stdout.split() == [expected], found.stderr

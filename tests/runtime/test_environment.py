"""Variables that what is started inherits, and no longer than that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distill_ray.runtime.environment import cluster_address, prepare_client, variables_set

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


@pytest.mark.parametrize(
    ("configured", "named", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, "10.0.0.7:6379", "10.0.0.7:6379"),
        ("10.0.0.8:6379", "10.0.0.7:6379", "10.0.0.8:6379"),
        ("auto", "10.0.0.7:6379", "auto"),
        (None, "http://127.0.0.1:8265", None),
    ],
)
def test_a_run_joins_the_cluster_that_is_configured_or_that_ray_names(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, named: str | None, expected: str | None
) -> None:
    if named is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", named)
    assert cluster_address(configured) == expected


@pytest.mark.parametrize(
    ("given", "mode", "expected"),
    [
        ({}, "", ""),
        ({"RAY_AUTH_TOKEN": "x"}, "", "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/x"}, "", "token"),
        ({"RAY_AUTH_TOKEN": "x"}, "disabled", "disabled"),
    ],
)
def test_a_token_that_is_given_is_used_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], mode: str, expected: str
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, given.get(name, ""))
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    prepare_client()
    assert os.environ["RAY_AUTH_MODE"] == expected

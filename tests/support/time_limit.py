"""pytest's `--minutes N`: begin no test that might end later."""

from __future__ import annotations

import datetime
import random
import time

import pytest

LONGEST_S = 1800.0
"""A test with a longer limit of its own counts as this: such limits are for stuck machines."""
_began = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes",
        type=float,
        metavar="N",
        help="skip tests whose timeout could end later than N minutes after the first one began",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files come in another order every day, so that none is always left out."""
    if config.getoption("minutes") is not None:
        files = sorted({item.path for item in items})
        random.Random(datetime.date.today().isoformat()).shuffle(files)
        items.sort(key=lambda item: files.index(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("minutes")
    if minutes is None:
        return
    left = 60 * minutes - (time.monotonic() - _began)
    if left < min(_timeout_s(item), LONGEST_S):
        pytest.skip(f"no time left of {minutes:g} minutes")


def _timeout_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    own = marker.args[0] if marker is not None and marker.args else None
    return float(own or item.config.getini("timeout") or 0)

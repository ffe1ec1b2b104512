"""Shared by all tests."""

import os

# Before anything reads them: no threads beside torch's own, and nothing is ever downloaded.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from distill_ray.runtime.environment import prepare

# Ray reads it when it is imported, so before the test modules are.
prepare(None)

pytest_plugins = ["time_limit"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models are slower on many threads, and sums come out in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_itemcollected(item: pytest.Item) -> None:
    """With `-n`, what starts Ray runs in one process, and a file's tests share their fixtures."""
    group = "ray" if _is(item, "ray") else item.nodeid.partition("::")[0]
    item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first."""
    items.sort(key=lambda item: (not _is(item, "ray"), not _is(item, "heavy")))


def _is(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None

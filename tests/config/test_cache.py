"""A folder of the cache is there whole or not at all, for any number of processes."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from distill_ray.config.cache import cached_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_filled_once(cache):
    filled = []

    def fill(folder):
        filled.append(folder)
        (folder / "file").write_text("content")

    first, again = cached_folder("name", fill), cached_folder("name", fill)
    assert first == again == cache / "name"
    assert (first / "file").read_text() == "content"
    assert len(filled) == 1


def test_of_several_at_once_one_wins_and_all_use_it(cache):
    together = Barrier(4)

    def fill(folder):
        (folder / "file").write_text("content")
        together.wait(timeout=10)  # All of them have found the cache empty.

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: cached_folder("name", fill), range(4)))
    assert found == {cache / "name"}
    assert [path.name for path in cache.iterdir()] == ["name"]
    assert [path.name for path in (cache / "name").iterdir()] == ["file"]


def test_a_failure_leaves_nothing_behind(cache):
    def fill(folder):
        (folder / "file").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        cached_folder("name", fill)
    assert list(cache.iterdir()) == []

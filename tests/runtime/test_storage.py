"""Files that are there whole or not at all, also where there is no room."""

from __future__ import annotations

import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from distill_ray.config.errors import InputError
from distill_ray.runtime.storage import Storage, is_full


@pytest.fixture(params=["path", "uri"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("/data/runs", "/data/runs"),
        ("/data/my runs", "/data/my runs"),
        ("/data/100%25 ?*", "/data/100%25 ?*"),
        ("runs", "/here/runs"),
        ("~/runs", "/home/me/runs"),
        ("file:///data/runs", "/data/runs"),
        ("file://localhost/data/runs", "/data/runs"),
        ("file:///data/my%20runs%3F", "/data/my runs?"),
        ("file://~/my%20runs", "/home/me/my runs"),
    ],
)
def test_a_path_and_its_uri_are_one_place(
    given: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    storage = Storage(given)
    expected = place.replace("/here", str(tmp_path))
    assert storage.local and storage.uri == expected
    assert storage.sub("tiny/a").uri == f"{expected}/tiny/a"
    assert Storage(storage.sub("tiny").uri).uri == f"{expected}/tiny", "as workers open it"


@pytest.mark.parametrize("given", ["file://runs", "file://server/share/runs", "~nobody-here/runs"])
def test_a_place_that_is_not_on_this_machine_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="storage not accessible"):
        Storage(given)


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as full:
        Path("/dev/full").write_bytes(b"1")
    local = pafs.LocalFileSystem()
    with (
        pytest.raises(OSError, match="No space left") as arrow,
        local.open_output_stream("/dev/full") as stream,
    ):
        stream.write(b"1")
    with pytest.raises(OSError, match="No such file") as missing:
        (tmp_path / "no/file").write_bytes(b"1")
    assert is_full(full.value)
    assert is_full(arrow.value)
    assert is_full(OSError(str(arrow.value))), "as a remote file system's, by its text alone"
    assert not is_full(missing.value)


def test_a_write_that_fails_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "taken/by-a-folder").mkdir(parents=True)
    with pytest.raises(OSError):
        storage.write_bytes("taken", b"1")
    assert storage.files() == []


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Bytes that a file may have: a write past it fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield 10_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(
    storage: Storage, file_size_limit: int
) -> None:
    storage.write_bytes("file", b"before")
    with pytest.raises(OSError, match="File too large"):
        storage.write_bytes("file", b"1" * (file_size_limit + 1))
    assert storage.read_bytes("file") == b"before"
    assert storage.files() == ["file"]


def test_files_and_folders_are_removed_and_what_is_not_there_is_no_error(storage: Storage) -> None:
    for path in ("a/one", "a/two", "b/three"):
        storage.write_bytes(path, b"1")
    for path in ("a/one", "b", "c"):
        storage.delete(path)
    assert storage.files() == ["a/two"]


def test_room_is_that_of_the_disk_even_before_the_folder_is_there(storage: Storage) -> None:
    there, below = storage.free_bytes(), storage.sub("not/yet").free_bytes()
    assert there is not None and below is not None
    assert there > 0 and below > 0


def test_a_remote_folder_is_asked_once_and_a_local_one_each_time(tmp_path: Path) -> None:
    asked: list[str] = []

    def find(answer: str) -> Callable[[], str]:
        return lambda: asked.append(answer) or answer

    remote, local = Storage(f"fsspec+memory://{tmp_path}/once"), Storage(str(tmp_path))
    for answer in ("", "first", "second"):
        assert remote.sub("a/b").memoize("what", find(answer)) == ("first" if answer else "")
        assert local.sub("a/b").memoize("what", find(answer)) == answer
    assert asked == ["", "", "first", "first", "second"]
    assert pickle.loads(pickle.dumps(remote)).sub("a/b").memoize("what", find("third")) == "third"
    assert remote.sub("a/b").memoize("other", find("third")) == "third"


def fill(storage: Storage, path: str) -> None:
    with storage.folder(path) as folder:
        (folder / "file").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda s: s.write_bytes("a/b/c/file", b""), "asked"),
        (lambda s: s.sub("a/b").write_bytes("file", b""), "asked"),
        (lambda s: fill(s, "a/b/c"), "asked"),
        (lambda s: s.delete("a/b/file"), "asked"),
        (lambda s: s.sub("a").delete("b"), "asked"),
        (lambda s: s.delete("a"), "asked"),
        (lambda s: s.write_bytes("a/file", b""), "known"),
        (lambda s: fill(s, "a/c"), "known"),
        (lambda s: s.sub("a/bc").write_bytes("file", b""), "known"),
        (lambda s: s.delete("a/bc"), "known"),
    ],
)
def test_a_remote_folder_that_was_changed_here_is_asked_again(
    tmp_path: Path, change: Callable[[Storage], None], known: str
) -> None:
    storage = Storage(f"fsspec+memory://{tmp_path}/changed")
    assert storage.sub("a/b").memoize("what", lambda: "known") == "known"
    change(storage)
    assert storage.sub("a/b").memoize("what", lambda: "asked") == known


def test_a_file_is_replaced_whole_and_never_written_in_place(
    storage: Storage, tmp_path: Path
) -> None:
    storage.write_bytes("file", b"old")
    held = next(tmp_path.rglob("file")).open("rb")
    inode = next(tmp_path.rglob("file")).stat().st_ino
    storage.write_bytes("file", b"new, and longer")
    with held:
        assert held.read() == b"old", "who has it open reads on in the old one"
    assert next(tmp_path.rglob("file")).read_bytes() == b"new, and longer"
    assert next(tmp_path.rglob("file")).stat().st_ino != inode
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["file"]

"""Artifacts: whole or not there, and named by what they were made from."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime import artifacts
from distill_ray.runtime.artifacts import BUILDING, FAILED, Artifact
from distill_ray.runtime.checksums import DamagedError
from distill_ray.runtime.storage import PART, Storage


@pytest.fixture(params=["path", "uri"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")


@pytest.fixture(params=["path", "uri", "remote"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    scheme = {"path": "", "uri": "file://", "remote": "fsspec+memory://"}[request.param]
    return Storage(f"{scheme}{tmp_path}")


def artifact(storage: Storage, **identity: object) -> Artifact:
    return Artifact(storage, "kind", "key", dict(identity))


def test_an_artifact_is_there_once_its_block_has_ended(storage: Storage) -> None:
    made = artifact(storage, x=1)
    with made.building() as building:
        building.write_json("data.json", {"a": [1, 2]})
        building.counts["rows"] = 2
        assert not made.is_complete()
    assert made.is_complete()
    assert made.read_json("data.json") == {"a": [1, 2]}
    manifest = made.manifest()
    assert (manifest.identity, manifest.counts) == ({"x": 1}, {"rows": 2})
    data = (made.local() / "data.json").read_bytes()
    assert manifest.files == {"data.json": hashlib.sha256(data).hexdigest()}


def test_a_failed_build_leaves_nothing(storage: Storage) -> None:
    made = artifact(storage, x=1)
    with pytest.raises(RuntimeError, match="boom"), made.building() as building:
        building.write_json("data.json", 1)
        raise RuntimeError("boom")
    assert not made.is_complete()
    assert storage.files() == [] and storage.children("kind") == []


def test_files_of_a_build_are_at_the_artifact_s_place_all_at_once(storage: Storage) -> None:
    made = artifact(storage, x=1)
    with made.building() as building:
        building.write_json("data.json", 1)
        with building.storage.folder("more") as folder:
            (folder / "rows.txt").write_text("rows")
        assert not storage.exists(made.path)
        assert building.storage.uri.rpartition("/")[0] == made.uri.rpartition("/")[0]
    assert made.folder.files() == ["data.json", "manifest.json", "more/rows.txt"]
    assert storage.children("kind") == [made.uri.rpartition("/")[2]]


def test_what_a_killed_build_left_is_replaced(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    any_storage.write_bytes(f"{made.path}/stale.json", b"1")
    any_storage.write_bytes(f"{made.path}{BUILDING}-0a1b/stale.json", b"1")
    any_storage.write_bytes(f"{made.path}{BUILDING}/stale.json", b"1")
    other = artifact(any_storage, x=2)
    any_storage.write_bytes(f"{other.path}{BUILDING}/kept.json", b"1")
    with made.building() as building:
        building.write_json("fresh.json", 1)
    assert list(made.manifest().files) == ["fresh.json"]
    assert made.folder.files() == ["fresh.json", "manifest.json"]
    assert any_storage.exists(f"{other.path}{BUILDING}/kept.json"), "another artifact's stays"


def test_a_build_of_a_complete_artifact_replaces_it(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    for name in ("one.json", "two.json"):
        with made.building() as building:
            building.write_json(name, 1)
        assert list(made.manifest().files) == [name]


def die_while_building(folder: Path, resumable: bool, moment: str) -> None:
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "committing":
        artifacts.versions = die  # type: ignore[assignment]
    if moment == "renaming":
        Path.rename = die  # type: ignore[assignment,method-assign]
    with artifact(Storage(str(folder)), x=1).building(resumable) as building:
        building.write_json("first.json", 1)
        if moment == "writing":
            die()
        building.write_json("second.json", 2)


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("moment", ["writing", "committing", "renaming"])
def test_a_killed_build_leaves_no_half_artifact(
    tmp_path: Path, resumable: bool, moment: str
) -> None:
    """Killed as it writes, before its manifest, or between its manifest and the rename."""
    killed = multiprocessing.get_context("fork").Process(
        target=die_while_building, args=(tmp_path, resumable, moment)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    storage = Storage(str(tmp_path))
    made = artifact(storage, x=1)
    assert not made.is_complete() and not storage.exists(made.path)
    with made.building(resumable) as building:
        written = ["first.json"] if moment == "writing" else ["first.json", "second.json"]
        assert building.storage.files() == (written if resumable else [])
        building.write_json("second.json", 2)
    names = ["first.json", "second.json"] if resumable else ["second.json"]
    assert list(made.manifest().files) == names
    assert made.is_complete() and made.local()
    assert storage.children("kind") == [made.uri.rpartition("/")[2]]


def test_an_interrupted_resumable_build_goes_on_with_the_missing_files(
    any_storage: Storage,
) -> None:
    made = artifact(any_storage, x=1)
    for error in (RuntimeError, OSError, KeyboardInterrupt):
        with pytest.raises(error), made.building(resumable=True) as building:
            building.storage.write_bytes(f"parts/{error.__name__}", b"1")
            raise error
        assert not made.is_complete()
    with made.building(resumable=True) as building:
        assert len(building.storage.sub("parts").files()) == 3
        building.write_json("last.json", 1)
    assert len(made.manifest().files) == 4 and made.is_complete()


def test_an_input_error_leaves_nothing_to_go_on_with(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    with pytest.raises(InputError), made.building(resumable=True) as building:
        building.write_json("data.json", 1)
        raise InputError("the input can't be read:", [Problem("corpora", "no rows")])
    assert any_storage.files() == []


def test_a_file_that_was_cut_off_is_not_kept(storage: Storage) -> None:
    made = artifact(storage, x=1)
    for name in ("a.parquet", f"a.parquet.123{PART}", f"below/b.parquet{PART}"):
        made.partial.write_bytes(name, b"1")
    with made.building(resumable=True) as building:
        assert building.storage.files() == ["a.parquet"]


def test_digests_that_writers_computed_are_taken_and_the_others_read(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    with made.building() as building:
        for name in ("one", "two"):
            building.storage.write_bytes(name, name.encode())
        building.digests["one"] = "0" * 64
    assert made.manifest().files == {
        "one": "0" * 64,
        "two": hashlib.sha256(b"two").hexdigest(),
    }
    with pytest.raises(DamagedError, match="one: checksum mismatch"):
        made.local()  # A digest that was taken elsewhere is compared when the file is opened.


def test_a_file_that_a_writer_names_must_be_there(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    with pytest.raises(FileNotFoundError, match="lost"), made.building() as building:
        building.digests["lost"] = "0" * 64
    assert not made.is_complete()


def test_of_two_builds_at_once_the_first_to_end_is_whole_and_stays(storage: Storage) -> None:
    made = artifact(storage, x=1)
    with made.building() as slow:
        slow.write_json("slow.json", 1)
        storage.write_bytes("elsewhere", b"")
        fast = f"{made.path}{BUILDING}-fast"
        storage.write_bytes(f"{fast}/fast.json", b"1")
        made.commit({}, 0.0, folder=storage.sub(fast))
    assert list(made.manifest().files) == ["fast.json"] and made.local()
    assert storage.children("kind") == [made.uri.rpartition("/")[2]]


def test_a_folder_that_was_filled_beside_its_place_is_committed(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    made.partial.write_bytes("data", b"1")
    assert not made.is_complete()
    made.commit({}, 0.0, folder=made.partial)
    assert made.is_complete() and made.read_bytes("data") == b"1"
    assert any_storage.children("kind") == [made.uri.rpartition("/")[2]]


def test_equal_identities_share_a_folder_and_others_do_not(storage: Storage) -> None:
    one = artifact(storage, x=1, y=(1, 2))
    assert artifact(storage, y=[1, 2], x=1).path == one.path
    assert artifact(storage, x=2, y=[1, 2]).path != one.path
    assert Artifact(storage, "other", "key", {"x": 1, "y": [1, 2]}).fingerprint != one.fingerprint


def test_a_manifest_is_plain_json(storage: Storage) -> None:
    made = artifact(storage, x=1)
    with made.building():
        pass
    text = storage.read_bytes(f"{made.path}/manifest.json")
    assert json.loads(text)["versions"]["distill_ray"]


def test_a_failure_is_noted_beside_the_place_until_it_is_forgotten(storage: Storage) -> None:
    made = artifact(storage, x=1)
    assert made.failure() is None
    made.forget_failure()
    made.record_failure("out of memory")
    assert artifact(storage, x=1).failure() == "out of memory"
    assert artifact(storage, x=2).failure() is None
    assert not made.is_complete() and not storage.exists(made.path)
    made.forget_failure()
    assert made.failure() is None


def test_a_failure_s_note_never_stands_beside_a_complete_artifact(any_storage: Storage) -> None:
    made = artifact(any_storage, x=1)
    made.record_failure("out of memory")
    with made.building():
        assert made.failure() == "out of memory", "until it is made"
    assert made.failure() is None and made.is_complete()
    made.record_failure("a late process")
    assert made.failure() is None
    assert not any_storage.exists(f"{made.path}{FAILED}")

"""Artifacts: whole or not there, and named by what they were made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage


@pytest.fixture(params=["path", "uri"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")


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
    assert not storage.exists(made.path)


def test_what_a_killed_build_left_is_replaced(storage: Storage) -> None:
    made = artifact(storage, x=1)
    storage.write_bytes(f"{made.path}/stale.json", b"1")
    with made.building() as building:
        building.write_json("fresh.json", 1)
    assert list(made.manifest().files) == ["fresh.json"]


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
    with made.building():
        pass
    assert made.failure() == "out of memory", "making it doesn't touch the note"
    made.forget_failure()
    assert made.failure() is None and made.is_complete()

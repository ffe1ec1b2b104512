"""What became of an artifact's files is seen when they are opened, and said; never used."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from stage_results import curve

from distill_ray.config.errors import InputError
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import MISMATCH, DamagedError
from distill_ray.runtime.external_errors import outside_cause
from distill_ray.runtime.filesystems import ATTEMPTS, PatientS3, open_uri
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.curve import CURVE
from distill_ray.stages.results.local_files import local_ref


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["local", "remote"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    """An artifact with a checkpoint."""
    base = tmp_path / "runs"
    storage = Storage(str(base) if request.param == "local" else f"fsspec+memory://{base}")
    artifact = Artifact(storage, "adapt", "full", {"x": 1})
    with artifact.building() as building:
        curve(best=1).write(building, CURVE)
        for checkpoint_index in range(2):
            content = np.random.default_rng(checkpoint_index).bytes(3000)
            building.storage.write_bytes(
                f"checkpoints/{checkpoint_index}/model.safetensors", content
            )
    return artifact


def test_sound_files_are_opened(made: Artifact) -> None:
    assert made.is_complete()
    assert made.read_json(CURVE)["best"] == 1
    expected = np.random.default_rng(1).bytes(3000)
    assert (made.local() / "checkpoints/1/model.safetensors").read_bytes() == expected
    best = local_ref(ModelRef("path", made.storage.sub(f"{made.path}/checkpoints/best").uri))
    assert (Path(best.location) / "model.safetensors").read_bytes() == expected


def test_a_flipped_bit_in_any_file_is_named(made: Artifact) -> None:
    rng = np.random.default_rng(0)
    made.local()  # What was seen before doesn't count for what changed since.
    for name in made.manifest().files:
        whole = made.folder.read_bytes(name)
        for at in rng.integers(0, len(whole), size=5).tolist():
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(rng.integers(8))
            made.folder.write_bytes(name, bytes(damaged))
            with pytest.raises(DamagedError) as found:
                made.read_bytes(name)
            assert f"{name}: checksum mismatch. Delete {made.uri}" in str(found.value)
            if made.storage.local:
                with pytest.raises(DamagedError, match=name):
                    made.local()
        made.folder.write_bytes(name, whole)
    made.local()


def test_a_damaged_checkpoint_is_never_given_to_a_model(made: Artifact) -> None:
    made.folder.write_bytes("checkpoints/1/model.safetensors", b"\0" * 3000)
    places = {
        checkpoint_index: made.storage.sub(f"{made.path}/checkpoints/{checkpoint_index}").uri
        for checkpoint_index in (0, 1)
    }
    local_ref(ModelRef("path", places[0]))
    for ref in (ModelRef("path", places[1]), ModelRef("hub", "org/base", adapter=places[1])):
        with pytest.raises(DamagedError, match=r"checkpoints/1/model\.safetensors"):
            local_ref(ref)


def test_a_file_that_is_missing_or_cut_off_is_seen_without_reading(made: Artifact) -> None:
    whole = made.folder.read_bytes(CURVE)
    made.folder.write_bytes(CURVE, whole[:-1])
    with pytest.raises(DamagedError, match=f"has {len(whole) - 1} bytes of {len(whole)}"):
        made.is_complete()
    made.folder.delete(CURVE)
    with pytest.raises(DamagedError, match=r"curve\.json: is missing"):
        made.is_complete()


def test_every_byte_of_a_manifest_counts(made: Artifact) -> None:
    whole, rng = made.folder.read_bytes("manifest.json"), np.random.default_rng(0)
    expected = made.manifest()
    for at in rng.integers(0, len(whole), size=100).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        made.folder.write_bytes("manifest.json", bytes(damaged))
        try:
            # A blank between values may change.
            assert made.manifest() == expected
        except DamagedError as error:
            assert "manifest.json" in str(error)
    for left in (b"", b"{}", b"[]", whole[:100], whole[:-1], b"\xff" * 50):
        made.folder.write_bytes("manifest.json", left)
        with pytest.raises(DamagedError, match=r"manifest\.json"):
            made.is_complete()


def test_an_artifact_from_before_manifests_had_digests_is_as_good(made: Artifact) -> None:
    found = json.loads(made.folder.read_bytes("manifest.json"))
    del found["digest"], found["sizes"]
    made.folder.write_bytes("manifest.json", json.dumps(found).encode())
    assert made.is_complete()
    made.local()
    made.folder.write_bytes(CURVE, b"{}")
    with pytest.raises(DamagedError, match=r"curve\.json"):
        made.read_json(CURVE)


def test_a_remote_artifact_s_copy_is_fetched_again_when_it_was_damaged_here(
    tmp_path: Path,
) -> None:
    made = Artifact(Storage(f"fsspec+memory://{tmp_path}/again"), "shard", "", {})
    with made.building() as building:
        building.storage.write_bytes("rows.parquet", b"rows")
    (made.local() / "rows.parquet").write_bytes(b"worn")
    assert (made.local() / "rows.parquet").read_bytes() == b"rows"


def test_a_remote_artifact_that_was_made_anew_is_not_the_copy_of_the_first(tmp_path: Path) -> None:
    made = Artifact(Storage(f"fsspec+memory://{tmp_path}/anew"), "shard", "", {})
    for content in (b"first", b"other"):
        with made.building() as building:
            building.storage.write_bytes("rows.parquet", content)
        assert (made.local() / "rows.parquet").read_bytes() == content


def test_an_artifact_that_this_machine_does_not_see_is_no_riddle(tmp_path: Path) -> None:
    missing = Artifact(Storage(str(tmp_path)), "shard", "", {})
    with pytest.raises(InputError, match=r"isn't visible on .* a shared file system"):
        missing.local()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_failure_s_note_that_is_garbage_holds_nothing_back(
    made: Artifact, content: bytes
) -> None:
    made.storage.write_bytes(f"{made.path}.failed.json", content)
    assert made.failure() is None


def test_what_comes_from_outside_is_told_from_a_model_s_own_failure() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    damaged = DamagedError.of("/runs/x/rows.parquet", MISMATCH, "/runs/x")
    away = OSError("When uploading x: AWS Error NETWORK_CONNECTION during PutObject: curlCode: 56")
    said = {
        "disk full:": full,
        "corrupt artifact:": damaged,
        "storage unreachable:": away,
    }
    for title, error in said.items():
        wrapped = RuntimeError("a worker failed")
        wrapped.__cause__ = error
        text_alone = RuntimeError(f"Traceback ...\nin a process: {error}")
        for found in map(outside_cause, (error, wrapped, text_alone)):
            assert found is not None and found.title == title
            assert len(found.problems) == 1
    as_text = outside_cause(RuntimeError(f"Traceback ...\n{damaged}"))
    assert isinstance(as_text, DamagedError) and str(as_text).strip() == str(damaged).strip()
    assert outside_cause(ValueError("shapes don't fit")) is None
    assert outside_cause(None) is None


def test_errors_of_ours_can_be_sent_to_another_process() -> None:
    damaged = DamagedError.of("/runs/x/rows.parquet", MISMATCH, "/runs/x")
    again = pickle.loads(pickle.dumps(damaged))
    assert type(again) is DamagedError and str(again) == str(damaged)


def test_patience_with_s3_goes_along_to_other_processes() -> None:
    uri = "s3://runs/here?scheme=http&endpoint_override=127.0.0.1:1&region=us-east-1"
    files, root = open_uri(uri)
    again = pickle.loads(pickle.dumps(files))
    assert root == "runs/here" and ATTEMPTS > 3, "pyarrow's own"
    for one in (files, again):
        assert type(one) is PatientS3
        assert one.options["request_timeout"] >= 30 and one.options["allow_delayed_open"]
    assert again == files

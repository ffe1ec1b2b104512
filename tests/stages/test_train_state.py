"""Ray Train's list of checkpoints, as a kill or a full disk leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from distill_ray.runtime.storage import Storage
from distill_ray.stages.train_state import SNAPSHOT, mend

LIST = {"checkpoint_results": [{"checkpoint_dir_name": f"checkpoint_{i}"} for i in range(2)]}


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    made = Storage(str(tmp_path))
    made.write_bytes(SNAPSHOT, json.dumps(LIST).encode())
    for i in range(2):
        made.write_bytes(f"checkpoint_{i}/weights", b"1")
    return made


def test_it_is_the_file_that_this_ray_writes() -> None:
    assert SNAPSHOT == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


def test_a_sound_list_and_none_at_all_are_left_alone(folder: Storage) -> None:
    assert not mend(folder) and folder.exists(SNAPSHOT)
    folder.delete(SNAPSHOT)
    assert not mend(folder)


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
def test_one_that_was_cut_off_is_removed_and_checkpoints_stay(folder: Storage, left: bytes) -> None:
    folder.write_bytes(SNAPSHOT, left)
    assert mend(folder) and not folder.exists(SNAPSHOT)
    assert folder.files() == ["checkpoint_0/weights", "checkpoint_1/weights"]


def test_one_that_names_a_checkpoint_that_is_gone_is_removed(folder: Storage) -> None:
    folder.delete("checkpoint_1")
    assert mend(folder) and not folder.exists(SNAPSHOT)

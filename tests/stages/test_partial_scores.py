"""Parts of a model's scores: stored until all are there, with which process works on which."""

import os
from pathlib import Path

import pytest

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import DamagedError
from distill_ray.runtime.storage import Storage
from distill_ray.stages.scoring.partial import PartialScores
from distill_ray.stages.scoring.parts import PartScores, QuestionRange

SCORES = PartScores(options={"q": [[-1.5]]}, generated={"q": []}, prior=None, text=None, wall_s=0.5)
PARTS = [QuestionRange(0, 3), QuestionRange(3, 6), QuestionRange(6, 7)]


@pytest.fixture(params=["path", "uri"])
def partial(request: pytest.FixtureRequest, tmp_path: Path) -> PartialScores:
    storage = Storage(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")
    return PartialScores.of(Artifact(storage, "kind", "", {}))


def test_what_is_done_is_found_and_read(partial: PartialScores) -> None:
    assert partial.missing(PARTS) == PARTS
    partial.write(PARTS[1], SCORES)
    assert partial.missing(PARTS) == [PARTS[0], PARTS[2]]
    assert partial.read(PARTS[1]) == SCORES
    assert partial.missing([QuestionRange(3, 5)]) == [QuestionRange(3, 5)], (
        "another cut's parts are not these"
    )
    partial.clear()
    assert partial.missing(PARTS) == PARTS


def test_a_part_that_was_damaged_is_done_again(partial: PartialScores) -> None:
    for part in PARTS:
        partial.write(part, SCORES)
    place = f"{partial.path}/done/{PARTS[1].key}.json"
    intact = partial.storage.read_bytes(place)
    for damaged in (intact.replace(b"1.5", b"1.4"), intact[:-1], b"", intact[1:]):
        partial.storage.write_bytes(place, damaged)
        assert partial.missing(PARTS) == [PARTS[1]]
        with pytest.raises(DamagedError, match=PARTS[1].key):
            partial.read(PARTS[1])
    partial.storage.write_bytes(place, intact)
    assert partial.missing(PARTS) == []


def test_crashes_are_leased_parts_that_nobody_can_be_at(partial: PartialScores) -> None:
    assert partial.crashes(PARTS[0]) == 0
    ended = partial.lease(PARTS[0])
    partial.release(ended)
    assert partial.crashes(PARTS[0]) == 0
    partial.lease(PARTS[0])
    assert partial.crashes(PARTS[0]) == 1, "this part comes again, so the one before it died"
    assert partial.crashes(PARTS[1]) == 0, "another actor may be at it"
    partial.lease(PARTS[0])
    assert partial.crashes(PARTS[1]) == 1, "of two, the first one died"
    partial.lease(PARTS[1])
    assert partial.crashes(PARTS[1]) == 2
    assert partial.crashes(PARTS[2]) == 1


def test_a_new_driver_begins_without_crashes(partial: PartialScores) -> None:
    partial.lease(PARTS[0])
    partial.write(PARTS[1], SCORES)
    partial.reset()
    assert partial.crashes(PARTS[0]) == 0
    assert partial.missing(PARTS) == [PARTS[0], PARTS[2]], "what is done stays"


def test_a_lease_names_the_process(partial: PartialScores) -> None:
    lease = partial.lease(PARTS[0])
    assert f'"pid": {os.getpid()}'.encode() in partial.storage.read_bytes(lease)

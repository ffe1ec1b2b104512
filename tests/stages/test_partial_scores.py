"""Parts of a model's scores: kept until all are there, with who has begun which."""

import os
from pathlib import Path

import pytest

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import DamagedError
from distill_ray.runtime.storage import Storage
from distill_ray.stages.scoring.partial import PartialScores
from distill_ray.stages.scoring.parts import QuestionRange

PARTS = [QuestionRange(0, 3), QuestionRange(3, 6), QuestionRange(6, 7)]


@pytest.fixture(params=["path", "uri"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> PartialScores:
    storage = Storage(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")
    return PartialScores.of(Artifact(storage, "kind", "", {}))


def test_what_is_done_is_found_and_read(desk: PartialScores) -> None:
    assert desk.missing(PARTS) == PARTS
    desk.write(PARTS[1], {"options": {"q": [[-1.5]]}})
    assert desk.missing(PARTS) == [PARTS[0], PARTS[2]]
    assert desk.read(PARTS[1]) == {"options": {"q": [[-1.5]]}}
    assert desk.missing([QuestionRange(3, 5)]) == [QuestionRange(3, 5)], (
        "another cut's parts are not these"
    )
    desk.clear()
    assert desk.missing(PARTS) == PARTS


def test_a_part_that_was_damaged_is_done_again(desk: PartialScores) -> None:
    for part in PARTS:
        desk.write(part, {"options": {"q": [[-1.5]]}})
    place = f"{desk.path}/done/{PARTS[1].key}.json"
    whole = desk.storage.read_bytes(place)
    for damaged in (whole.replace(b"1.5", b"1.4"), whole[:-1], b"", whole[1:]):
        desk.storage.write_bytes(place, damaged)
        assert desk.missing(PARTS) == [PARTS[1]]
        with pytest.raises(DamagedError, match=PARTS[1].key):
            desk.read(PARTS[1])
    desk.storage.write_bytes(place, whole)
    assert desk.missing(PARTS) == []


def test_deaths_are_begun_parts_that_nobody_can_be_at(desk: PartialScores) -> None:
    assert desk.deaths(PARTS[0]) == 0
    ended = desk.begin(PARTS[0])
    desk.end(ended)
    assert desk.deaths(PARTS[0]) == 0
    desk.begin(PARTS[0])
    assert desk.deaths(PARTS[0]) == 1, "this part comes again, so the one before it died"
    assert desk.deaths(PARTS[1]) == 0, "another actor may be at it"
    desk.begin(PARTS[0])
    assert desk.deaths(PARTS[1]) == 1, "of two, the first one died"
    desk.begin(PARTS[1])
    assert desk.deaths(PARTS[1]) == 2
    assert desk.deaths(PARTS[2]) == 1


def test_a_new_driver_begins_without_deaths(desk: PartialScores) -> None:
    desk.begin(PARTS[0])
    desk.write(PARTS[1], {})
    desk.sweep()
    assert desk.deaths(PARTS[0]) == 0
    assert desk.missing(PARTS) == [PARTS[0], PARTS[2]], "what is done stays"


def test_a_mark_names_the_process(desk: PartialScores) -> None:
    mark = desk.begin(PARTS[0])
    assert f'"pid": {os.getpid()}'.encode() in desk.storage.read_bytes(mark)

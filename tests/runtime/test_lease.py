"""One run's folder, one process at a time: on a disk and on a real S3 server."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
from lease_process import PACE, SHORT, artifact_at, processes
from s3_server import Bucket

from distill_ray.runtime import lease
from distill_ray.runtime.acquisition import LeaseHeldError
from distill_ray.runtime.claims import FOLDER, HOLDING, Claim, Claims
from distill_ray.runtime.external_errors import outside_cause
from distill_ray.runtime.lease import LeaseLostError, NoLeaseError, acquire
from distill_ray.runtime.storage import Storage

on_both = pytest.mark.parametrize("uri", ["disk", "s3"], indirect=True)
on_s3_slowly = pytest.mark.parametrize(
    "uri", ["disk", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run's folder."""
    if getattr(request, "param", "disk") == "disk":
        return str(tmp_path / "run")
    base, _, query = request.getfixturevalue("store").direct.partition("?")
    return f"{base}/{tmp_path.name}?{query}"


@pytest.fixture(autouse=True)
def _pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PACE", PACE)


def claims_on(uri: str) -> list[str]:
    return [name for name in Storage(uri).children(FOLDER) if name.endswith(".json")]


@on_both
def test_the_second_is_refused_while_the_first_lives(uri: str) -> None:
    with processes(uri, 2) as (first, second):
        assert first.ask("acquire") == []
        message = second.ask("acquire")
        assert message.startswith("LeaseHeldError: run folder in use:\n  name: `")
        for part in (f"(pid {first._process.pid} on {os.uname().nodename}", " UTC)", uri, "--wait"):
            assert part in message
        assert first.ask("build", "a") == "built"
        assert first.ask("release") == "released"
        assert second.ask("acquire") == []
        assert len(claims_on(uri)) == 1
        second.ask("release")
        assert claims_on(uri) == []


@on_s3_slowly
def test_the_second_waits_until_the_first_has_ended(uri: str) -> None:
    with processes(uri, 3) as (first, second, third):
        first.ask("acquire")
        second.tell("acquire", True)
        time.sleep(5 * PACE.interval_s)
        third.tell("acquire", True)
        time.sleep(5 * PACE.interval_s)
        first.ask("release")
        (note,) = second.answer()
        assert note.startswith("waiting for `") and f"(pid {first._process.pid} on" in note
        second.ask("release")
        assert third.answer(), "those who wait go one after another"


@on_both
def test_a_killed_process_s_folder_is_free_at_once(uri: str) -> None:
    with processes(uri, 2) as (first, second):
        first.ask("acquire")
        first.tell("build", "a", 60.0)
        until = time.monotonic() + 10
        while not any("first.json" in file for file in Storage(uri).files()):
            assert time.monotonic() < until
        first.signal(signal.SIGKILL)
        started = time.monotonic()
        (note,) = second.ask("acquire")
        assert time.monotonic() - started < PACE.dead_after_s
        assert "is taken over from `" in note and note.endswith("its process is gone")
        assert not artifact_at(uri, "a").is_complete()
        assert second.ask("build", "a") == "built"
        made = artifact_at(uri, "a")
        assert {made.read_json(name) for name in made.manifest().files} == {second._process.pid}
        assert Storage(uri).children("kind") == [made.uri.partition("?")[0].rpartition("/")[2]]


def test_a_dead_process_of_another_machine_is_known_by_its_silence(uri: str) -> None:
    with processes(uri, 1, SHORT, elsewhere=True) as (first,), processes(uri, 1) as (second,):
        first.ask("acquire")
        first.signal(signal.SIGKILL)
        started = time.monotonic()
        (note,) = second.ask("acquire")
        assert time.monotonic() - started > 0.9 * SHORT.dead_after_s
        assert note.endswith("it no longer answers")


@on_both
def test_a_stopped_process_whose_folder_was_taken_writes_nothing_more(uri: str) -> None:
    with processes(uri, 2, SHORT) as (first, second):
        first.ask("acquire")
        first.tell("build", "a", 0.2)
        first.signal(signal.SIGSTOP)
        (note,) = second.ask("acquire")
        assert note.endswith("it no longer answers")
        assert second.ask("build", "b") == "built"
        files = Storage(uri).files()
        first.signal(signal.SIGCONT)
        message = first.answer()
        assert message.startswith("LeaseLostError: run folder lost:")
        assert "taken over by `" in message and f"(pid {second._process.pid} on" in message
        first.signal(signal.SIGKILL)
        own = {name for name in Storage(uri).files() if "/a-" not in name}
        assert own - {n for n in own if n.startswith(FOLDER)} <= {*files}
        assert not artifact_at(uri, "a").is_complete()
        assert second.ask("build", "c") == "built", "the second one still has it"
        assert len(claims_on(uri)) == 1


@on_s3_slowly
def test_a_stopped_process_whose_folder_nobody_wanted_goes_on(uri: str) -> None:
    with processes(uri, 1, SHORT) as (first,):
        first.ask("acquire")
        first.tell("build", "a", 0.2)
        first.signal(signal.SIGSTOP)
        time.sleep(1.2 * SHORT.dead_after_s)
        first.signal(signal.SIGCONT)
        assert first.answer() == "built"
        assert first.ask("build", "b") == "built"


@on_s3_slowly
def test_of_eight_at_once_exactly_one_wins(uri: str) -> None:
    with processes(uri, 8) as racers:
        for _ in range(20):
            for racer in racers:
                racer.tell("acquire")
            answers = [racer.answer() for racer in racers]
            (winner,) = [racer for racer, answer in zip(racers, answers) if answer == []]
            assert sum("LeaseHeldError" in str(answer) for answer in answers) == 7
            winner.ask("release")
    assert claims_on(uri) == []


@on_s3_slowly
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_a_dead_process_has_one_heir_of_many(uri: str, how: signal.Signals) -> None:
    with processes(uri, 6) as racers:
        for _ in range(5):
            with processes(uri, 1, SHORT) as (holder,):
                holder.ask("acquire")
                holder.signal(how)
                for racer in racers:
                    racer.tell("acquire")
                answers = [racer.answer() for racer in racers]
                winners = [racer for racer, a in zip(racers, answers) if isinstance(a, list)]
                assert len(winners) == 1
                winners[0].ask("release")


@on_s3_slowly
def test_the_same_process_shares_its_lease_until_nothing_refers_to_it(uri: str) -> None:
    one = acquire(Storage(uri), wait=False, notify=print)
    two = acquire(Storage(uri), wait=False, notify=print)
    assert one is two and len(claims_on(uri)) == 1
    del one
    gc.collect()
    two.check()
    assert len(claims_on(uri)) == 1
    del two
    gc.collect()
    assert claims_on(uri) == []


@on_both
def test_a_worker_of_a_run_that_lost_its_folder_commits_nothing(uri: str) -> None:
    with processes(uri, 2) as (first, second):
        first.ask("acquire")
        worker_s = pickle.loads(pickle.dumps(artifact_at(uri, "w", first.ask("lease"))))
        with worker_s.building() as building:
            building.write_json("data.json", 1)
        late = artifact_at(uri, "late", worker_s.lease)
        with pytest.raises(LeaseLostError), late.building() as building:
            building.write_json("data.json", 1)
            first.signal(signal.SIGKILL)
            second.ask("acquire")
        assert worker_s.is_complete() and not late.is_complete()
        with pytest.raises(LeaseLostError):
            late.record_failure("it looked like the model's own")
        with pytest.raises(LeaseLostError), late.building():
            raise AssertionError("not even begun")
        assert late.failure() is None


def test_a_slow_clock_moves_nobody_out(tmp_path: Path) -> None:
    """A claim whose id says that it is the oldest waits like any other."""
    held = acquire(Storage(str(tmp_path)), wait=False, notify=print)
    on_disk = Claims(Storage(str(tmp_path)))
    held_claim = on_disk.get(held.__reduce__()[1][1])
    assert held_claim is not None and held_claim.state == HOLDING
    early = Claim(**{**held_claim.__dict__, "id": "19700101T000000000000-0", "state": "waiting"})
    on_disk.put(early)
    time.sleep(3 * PACE.interval_s)
    held.check()
    with processes(str(tmp_path), 1) as (other,):
        assert "LeaseHeldError" in other.ask("acquire")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 1}', b"\xff"])
def test_a_claim_that_is_garbage_ends_once_nobody_renews_it(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_ray.runtime import claims

    monkeypatch.setattr(claims, "UNREADABLE_S", 0.2)
    Storage(str(tmp_path)).write_bytes(f"{FOLDER}/20000101-x.json", content)
    started, notes = time.monotonic(), []
    acquire(Storage(str(tmp_path)), wait=False, notify=notes.append).check()
    assert time.monotonic() - started >= 0.15 and len(notes) == 1


def test_a_claim_that_somebody_deleted_is_lost(tmp_path: Path) -> None:
    held = acquire(Storage(str(tmp_path)), wait=False, notify=print)
    Storage(str(tmp_path)).delete(FOLDER)
    until = time.monotonic() + 10
    while not held.is_lost:
        assert time.monotonic() < until
        time.sleep(0.02)
    with pytest.raises(LeaseLostError, match="by another process, or by hand"):
        held.check()
    assert claims_on(str(tmp_path)) == [], "it isn't written again"
    acquire(Storage(str(tmp_path)), wait=False, notify=print).check()


@pytest.mark.slow
def test_a_storage_that_is_away_for_a_while_loses_nothing(
    store: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PACE", SHORT)
    base, _, query = store.uri.partition("?")
    uri = f"{base}/away?{query}"
    held = acquire(Storage(uri), wait=False, notify=print)
    store.misbehave("down")
    try:
        time.sleep(1.2 * SHORT.dead_after_s)
        with pytest.raises(OSError, match="AWS Error"):
            held.check()  # Whether another one took it over can't be known.
    finally:
        store.misbehave()
    held.check()
    assert not held.is_lost
    held.release()


def test_what_is_written_of_a_process_has_no_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["/bin/distill-ray", "run", "a.yaml", "--storage", "s3://key:secret@bucket"]
    monkeypatch.setattr("sys.argv", arguments)
    held = acquire(Storage(str(tmp_path)), wait=False, notify=print)
    (name,) = claims_on(str(tmp_path))
    assert json.loads((tmp_path / FOLDER / name).read_text())["command"] == "distill-ray run a.yaml"
    held.release()


def test_an_error_while_it_waits_leaves_no_claim(tmp_path: Path) -> None:
    with processes(str(tmp_path), 1) as (first,):
        first.ask("acquire")

        def stop(_: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            acquire(Storage(str(tmp_path)), wait=True, notify=stop)
        with pytest.raises(LeaseHeldError):
            acquire(Storage(str(tmp_path)), wait=False, notify=print)
        assert len(claims_on(str(tmp_path))) == 1


def test_a_lost_folder_is_no_model_s_failure(tmp_path: Path) -> None:
    lost = LeaseLostError.of(str(tmp_path), "it was taken over.")
    for found in map(outside_cause, (lost, RuntimeError(f"Traceback ...\n{lost}"))):
        assert isinstance(found, LeaseLostError) and str(found).strip() == str(lost).strip()


@pytest.mark.slow
def test_a_server_that_fails_now_and_then_changes_nothing(store: Bucket) -> None:
    base, _, query = store.uri.partition("?")
    uri = f"{base}/faults?{query}"
    store.misbehave("503", "reset", "torn", "lost", "cut", "500", every=4, match="lease")
    try:
        with processes(uri, 3) as racers:
            for _ in range(3):
                answers = [racer.ask("acquire") for racer in racers]
                assert answers[0] == [] and "LeaseHeldError" in answers[1] + answers[2]
                assert racers[0].ask("build", "a") == "built"
                racers[0].ask("release")
        assert len(store.met()) == 6
    finally:
        store.misbehave()
    assert claims_on(uri) == [] and artifact_at(uri, "a").is_complete()


def test_what_only_reads_writes_nothing(tmp_path: Path) -> None:
    reader = artifact_at(str(tmp_path), "a", lease.ReadOnly(Storage(str(tmp_path))))
    with pytest.raises(NoLeaseError), reader.building():
        raise AssertionError("not even begun")
    assert Storage(str(tmp_path)).files() == []

"""A pool of teachers against the teacher in the worker, and against what goes wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch

from distill_ray.config import RunConfig
from distill_ray.config.errors import InputError
from distill_ray.config.serving import HiddenTargets, PoolServing, TopKTargets
from distill_ray.core import sparse
from distill_ray.core.schedule import RankingWeights, Reassessment, Rules
from distill_ray.core.sparse_bytes import encode
from distill_ray.data.batches import Batch
from distill_ray.engine.build import build_session
from distill_ray.engine.job import TeachingSpec, TrainingSpec
from distill_ray.engine.loop import distill
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.teachers.messages import Answer, Request, answer
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.cluster import event_queue
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving import pool as teacher_pool
from distill_ray.stages.serving.pool import THREAD, Pool, PoolError, PoolRefusedError, teacher_pools
from distill_ray.stages.serving.pool_actor import LazyTeacherBank, versions
from distill_ray.stages.serving.pool_client import PoolTeacherSource
from distill_ray.stages.shard import shard
from distill_ray.stages.training.run import train

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]

CPU = torch.device("cpu")
WHOLE = HiddenTargets()
SMALL = {"cpus_per_actor": 0.25}
"""Several pools share the two processors of a test machine."""


class Listener:
    """Keeps a run's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "note"]


@pytest.fixture(scope="module")
def shards(tiny: RunConfig, ray_here: None) -> ShardSet:
    return shard(Run.open(tiny, "tiny.yaml"))


@pytest.fixture(scope="module")
def work(
    tiny: RunConfig, shards: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> TrainingSpec:
    """40 steps on unequal rows: two checkpoints, a best teacher to measure, and a reassessment."""
    folder = tmp_path_factory.mktemp("teachers")

    def ref(hidden: int, seed: int) -> ModelRef:
        source = tiny.teachers[0].model.model_copy(update={"seed": seed})
        made = ModelRef.of(source, shards.counts.tokenizer.model_dump())
        return replace(made, init={**(made.init or {}), "hidden_size": hidden})

    def saved(name: str, hidden: int, seed: int) -> ModelRef:
        load_model(ref(hidden, seed)).save_pretrained(folder / name)
        return ModelRef("path", str(folder / name))

    checkpoints = {"a": [saved("a0", 48, 0), saved("a1", 48, 1)], "b": [saved("b0", 32, 2)]}
    even = {"learnability": 1.0}
    ranking = RankingWeights({"a": even, "b": even}, early=even, late=even)
    return TrainingSpec(
        name="pool",
        student=ref(16, 9),
        training=tiny.distill,
        data=data_spec(shards, 0, 8),
        objective=tiny.distill.objective.model_copy(update={"temperature": 2.0}),
        teaching=TeachingSpec(
            checkpoints,
            "a",
            schedule="equal_periods",
            ranking=ranking,
            rules=Rules(Reassessment()),
        ),
        eval_steps=10,
        backend="plain",
    )


@pytest.fixture(scope="module")
def colocated(tiny: RunConfig, work: TrainingSpec, shards: ShardSet) -> list[dict[str, Any]]:
    """The curve of the same job with its teacher in the worker."""
    training_job = TrainingJob("distill", work, artifact(tiny, "colocated"), shards.artifact, 1000)
    return curve(build_session(training_job.local_spec(), CPU))


def artifact(cfg: RunConfig, key: str) -> Any:
    return Run.open(cfg, "tiny.yaml").artifact("pool", key, {})


def curve(session: Any) -> list[dict[str, Any]]:
    assert len(list(distill(session))) == 40
    return list(session.history)


def ordered(
    cfg: RunConfig, work: TrainingSpec, shards: ShardSet, key: str, **serving: Any
) -> TrainingJob:
    made = artifact(cfg, key)
    return TrainingJob(
        "distill", work, made, shards.artifact, 1000, PoolServing(**{**SMALL, **serving})
    )


def with_cluster(cfg: RunConfig, **changes: Any) -> RunConfig:
    return cfg.model_copy(update={"cluster": cfg.cluster.model_copy(update=changes)})


@contextmanager
def served(cfg: RunConfig, *training_jobs: TrainingJob) -> Iterator[list[Pool]]:
    """The pools of some jobs; this process is their worker."""
    run = Run.open(with_cluster(cfg, num_workers=1, cpus_per_worker=0.5), "tiny.yaml")
    with event_queue(run.progress) as box, teacher_pools(run, training_jobs, box) as made:
        yield [made[training_job.artifact.path] for training_job in training_jobs]


def pooled(training_job: TrainingJob, pool: Pool) -> PoolTeacherSource:
    assert isinstance(training_job.serving, PoolServing)
    return PoolTeacherSource(training_job.serving, training_job.local_spec(), pool, CPU)


def assert_same_curve(
    found: list[dict[str, Any]], expected: list[dict[str, Any]], rel: float
) -> None:
    for name in ("tokens", "teacher", "checkpoint_index"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    for name in ("loss", "grad_norm", "validation.task.ce", "validation.task.kl", "progress"):
        ours, theirs = ([row[name] for row in rows if name in row] for rows in (found, expected))
        assert len(ours) > 2
        assert ours == pytest.approx(theirs, rel=rel, abs=rel), name


def test_a_pool_gives_the_loss_curve_of_the_teacher_in_the_worker(
    tiny: RunConfig, work: TrainingSpec, shards: ShardSet, colocated: list[dict[str, Any]]
) -> None:
    hidden = ordered(tiny, work, shards, "hidden")
    # Every id of the vocabulary: nothing but the encoding is lost.
    top_k = ordered(tiny, work, shards, "top-k", lookahead=1, targets=TopKTargets(k=320))
    assert [row["checkpoint_index"] for row in colocated] == [0] * 20 + [1] * 20
    with served(tiny, hidden, top_k) as (first, second):
        for training_job, pool, rel in ((hidden, first, 1e-5), (top_k, second, 3e-3)):
            session = build_session(training_job.local_spec(), CPU, pooled(training_job, pool))
            assert_same_curve(curve(session), colocated, rel)


class Killer(Listener):
    """Kills a teacher's process after each of the given steps."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.left = list(steps)
        self.killed: list[int] = []

    def emit(self, event: Event) -> None:
        super().emit(event)
        if event.total and self.left and (event.completed or 0) >= self.left[0]:
            self.left.pop(0)
            victim = min(actors(), key=lambda p: p.create_time())  # One that wasn't replaced yet.
            self.killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)


def actors() -> list[psutil.Process]:
    """The processes of teacher pools."""
    there = psutil.Process().children(recursive=True)
    return [p for p in there if any("TeacherActor" in part for part in _command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []  # It has just ended.


@pytest.mark.slow
def test_killed_actors_are_replaced_and_the_curve_stays_and_another_teacher_stops_the_run(
    tiny: RunConfig,
    work: TrainingSpec,
    shards: ShardSet,
    colocated: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = with_cluster(tiny, num_workers=2, cpus_per_worker=0.5)
    work = replace(work, backend="deepspeed")
    killed = ordered(cfg, work, shards, "killed", num_actors=2)
    refused = ordered(cfg, replace(work, name="refused"), shards, "refused")
    start = teacher_pool.start_actors

    def swapped(job: TrainingSpec, serving: PoolServing, nodes: Any = None) -> tuple[Any, ...]:
        return start(with_other_teachers(job) if job is refused.spec else job, serving, nodes)

    monkeypatch.setattr(teacher_pool, "start_actors", swapped)
    killer = Killer(8, 24)
    # In one group of workers: starting them takes longer than all they do.
    with pytest.raises(InputError, match="the same teacher in a worker"):
        train(replace(Run.open(cfg, "tiny.yaml"), progress=killer), [killed, refused])
    assert len(set(killer.killed)) == 2
    assert any("died and was replaced" in text for text in killer.notes)
    assert_same_curve(killed.curve().history, colocated, 1e-4)
    assert not refused.artifact.is_complete()
    _, left = psutil.wait_procs(actors(), timeout=60)
    assert not left, "they end with the run"


def first_batch(training_job: TrainingJob) -> tuple[Batch, SupervisedTokens]:
    batch = build_session(replace(training_job.local_spec(), teaching=None), CPU).source.batch(0, 0)
    return batch, SupervisedTokens.of(batch)


def test_a_pool_of_another_teacher_is_refused_and_one_without_its_files_fails_as_in_a_worker(
    tiny: RunConfig, work: TrainingSpec, shards: ShardSet, tmp_path: Path
) -> None:
    other = with_other_teachers(work)
    refused = ordered(tiny, other, shards, "refused-top-k", targets=TopKTargets(k=8))
    missing = TeachingSpec({"a": [ModelRef("path", str(tmp_path / "gone"))]}, "a")
    gone = ordered(tiny, replace(work, teaching=missing), shards, "gone", num_parity_rows=0)
    with pytest.raises(OSError) as in_worker:
        build_session(replace(gone.local_spec(), teaching=missing), CPU)
    batch = build_session(replace(refused.local_spec(), teaching=None), CPU).source.batch(0, 0)
    with served(tiny, refused, gone) as (different, empty):
        with pytest.raises(PoolRefusedError) as unlike:
            first_answer(pooled(replace(refused, spec=work), different), batch)
        with pytest.raises(OSError) as caught:
            first_answer(pooled(gone, empty), batch)
    for part in ("teacher 'a', checkpoint 1", "actor 0", "nats apart", "num_parity_rows to 0"):
        assert part in str(unlike.value)
    assert type(caught.value) is type(in_worker.value)
    assert str(caught.value) == str(in_worker.value)


def with_other_teachers(work: TrainingSpec) -> TrainingSpec:
    """The same names, for checkpoints in another order."""
    assert work.teaching is not None
    checkpoints = {name: rungs[::-1] for name, rungs in work.teaching.checkpoints.items()}
    return replace(work, teaching=replace(work.teaching, checkpoints=checkpoints))


def first_answer(source: PoolTeacherSource, batch: Batch) -> None:
    source.use("a", 0)
    source.reference(batch, SupervisedTokens.of(batch), temperature=2.0)


def test_workers_and_actors_that_don_t_fit_together_are_refused_at_once(
    tiny: RunConfig, work: TrainingSpec, shards: ShardSet
) -> None:
    training_job = ordered(tiny, work, shards, "many", num_actors=500, cpus_per_actor=1)
    with pytest.raises(InputError) as caught:
        train(Run.open(tiny, "tiny.yaml"), [training_job])
    assert "2 workers x 1 CPU + 500 actors x 1 CPU = 502 CPUs" in str(caught.value)


# The worker's side alone, with an actor that answers when it is told to.


class Gate:
    """Answers with its requests' checkpoint as the likeliest id, once it is open."""

    def __init__(self) -> None:
        self.shut()

    def shut(self) -> None:
        self._open, self._seen, self._expected = threading.Event(), [], []

    def open(self) -> None:
        self._open.set()

    def seen(self) -> list[tuple[int, str]]:
        """Rung and rows of each request."""
        return self._seen

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        self._expected.append((teacher, checkpoint_index))

    def expected(self) -> list[tuple[str, int]]:
        """Checkpoints that it was told of."""
        return self._expected

    def targets(self, request: Request) -> Answer:
        self._seen.append((request.checkpoint_index, *request.row_ids))
        self._open.wait()
        log_p = torch.zeros(len(request.positions), 1)
        nothing = torch.full((len(request.positions),), -torch.inf)
        ids = torch.full((len(request.positions), 1), request.checkpoint_index)
        made = sparse.SparseTargets(ids, log_p, nothing, log_p[:, 0], log_p[:, 0], kind="top_k")
        return Answer(320, sparse=encode(made))

    def describe(self) -> dict[str, str]:
        return {**versions(), "torch": "1.0", "device": "a gate"}


class Dying(Gate):
    """Doesn't survive being asked."""

    def targets(self, request: Request) -> Answer:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def actors_of(kind: type, count: int = 1, **options: Any) -> tuple[Any, ...]:
    made = ray.remote(num_cpus=0, concurrency_groups={THREAD: 1})(kind)
    return tuple(made.options(**options).remote() for _ in range(count))


@pytest.fixture(scope="module")
def two_gates(ray_here: None) -> Iterator[tuple[Any, ...]]:
    made = actors_of(Gate, 2)
    yield made
    for actor in made:
        ray.kill(actor)


@pytest.fixture
def gates(two_gates: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Two that are shut."""
    ray.get([gate.shut.remote() for gate in two_gates])
    yield two_gates
    ray.get([gate.open.remote() for gate in two_gates])


@contextmanager
def heard(*members: Any, timeout_s: float = 60.0) -> Iterator[tuple[Pool, Listener]]:
    """A pool of these actors, and who hears what is said."""
    listener = Listener()
    with event_queue(listener) as box:
        yield Pool(members, box, "distill", timeout_s), listener


def alone(work: TrainingSpec, pool: Pool, **serving: Any) -> PoolTeacherSource:
    source = PoolTeacherSource(
        PoolServing(targets=TopKTargets(k=1), num_parity_rows=0, **serving), work, pool, CPU
    )
    source.use("a", 0)
    return source


def batches(step: int, count: int = 2) -> list[Batch]:
    """The micro-batches of a step."""
    ids, flags = torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)
    positions = torch.arange(4)[None]
    return [
        Batch(ids, positions, flags, flags, flags[:, 0], (f"{step}.{micro}",))
        for micro in range(count)
    ]


def taken(source: PoolTeacherSource, batch: Batch, temperature: float = 2.0) -> int:
    """Which checkpoint has answered."""
    found = source.reference(batch, SupervisedTokens.of(batch), temperature=temperature)
    assert isinstance(found, sparse.SparseTargets) and len(found) == 4
    return int(found.ids.unique())


def test_no_more_steps_are_asked_for_than_the_student_may_be_behind(
    work: TrainingSpec, gates: Any
) -> None:
    steps = [batches(step) for step in range(6)]
    with heard(gates[0]) as (pool, listener):
        source = alone(work, pool, lookahead=2)
        for step in steps:
            source.announce(step)
        assert source.outstanding == 3 * 2
        ray.get(gates[0].open.remote())
        assert taken(source, steps[0][0]) == 0
        assert source.outstanding == 5, "the step isn't over"
        assert taken(source, steps[0][1]) == 0
        assert source.outstanding == 6, "the next step is asked for"
        for step in steps[1:]:
            for batch in step:
                assert taken(source, batch) == 0
        assert source.outstanding == 0
        seen = ray.get(gates[0].seen.remote())
        assert seen == [(0, *b.row_ids) for s in steps for b in s], "once each"
    assert listener.notes == [
        f"actor 0 of the teacher pool has torch 1.0, the worker {torch.__version__}"
    ]


def test_after_a_switch_the_new_checkpoint_answers_and_the_old_one_isn_t_asked_any_more(
    work: TrainingSpec, gates: Any
) -> None:
    (one, two), (three, four) = batches(0), batches(1)
    with heard(gates[0]) as (pool, _):
        source = alone(work, pool)
        source.announce([one, two])
        source.announce([three, four])
        while not ray.get(gates[0].seen.remote()):
            pass  # The first is being answered; the others wait in the queue.
        source.use("a", 0)
        source.use("a", 1)
        assert source.outstanding == 4
        time.sleep(0.5)  # A word of cancelling may come later than a later call.
        ray.get(gates[0].open.remote())
        assert [taken(source, batch) for batch in (one, two, three, four)] == [1] * 4
        seen = ray.get(gates[0].seen.remote())
    old, new = (
        [rows for asked, rows in seen if asked == checkpoint_index] for checkpoint_index in (0, 1)
    )
    assert new == ["0.0", "0.1", "1.0", "1.1"], "once each"
    # On a busy machine even half a second may be too short for one of them.
    assert old[0] == "0.0" and len(old) < 4, "what waited was cancelled"


def test_every_actor_is_told_once_of_each_checkpoint_that_comes(
    work: TrainingSpec, gates: Any
) -> None:
    ray.get([gate.open.remote() for gate in gates])
    with heard(*gates) as (pool, _):
        source = alone(work, pool)
        for checkpoint_index in (
            1,
            1,
            2,
            2,
            1,
        ):  # The schedule says so after every step, or thinks better.
            source.expect("a", checkpoint_index)
        source.use("a", 1)
        source.expect("a", 0)
        source.announce(batches(0))
        for gate in gates:
            # A call of the same thread comes behind what was asked before it.
            ray.get(gate.describe.options(concurrency_group=THREAD).remote())
            assert ray.get(gate.expected.remote()) == [("a", 1), ("a", 2), ("a", 1), ("a", 0)]


def test_a_process_of_the_pool_answers_with_what_it_has_read_ahead(
    work: TrainingSpec, shards: ShardSet, tiny: RunConfig
) -> None:
    here = ordered(tiny, work, shards, "ahead").local_spec()
    teachers = LazyTeacherBank(here, CPU)
    batch = first_batch(ordered(tiny, work, shards, "ahead"))[0]
    kept = SupervisedTokens.of(batch)
    requests = [
        Request.of("a", checkpoint_index, batch, kept, temperature=2.0)
        for checkpoint_index in (0, 1)
    ]
    exact = [
        answer(LazyTeacherBank(here, CPU).bank("a", r.checkpoint_index), r, WHOLE, CPU)
        for r in requests
    ]
    bank = teachers.bank("a", 0)
    answer(bank, requests[0], WHOLE, CPU)
    model = bank._model.model  # type: ignore[union-attr]
    teachers.bank("a", 1).expect("a", 1)
    found = answer(teachers.bank("a", 1), requests[1], WHOLE, CPU)
    assert bank._model.model is model  # type: ignore[union-attr]
    for one, other in zip(found.features, exact[1].features, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found.features[0], exact[0].features[0])


def test_what_was_not_announced_is_asked_when_it_is_wanted(work: TrainingSpec, gates: Any) -> None:
    (one, two) = batches(0)
    ray.get(gates[0].open.remote())
    with heard(gates[0]) as (pool, _):
        source = alone(work, pool)
        source.announce([one])
        assert taken(source, two, temperature=1.0) == 0
        # Another batch of the same name, as validation might have, and another temperature.
        assert taken(source, replace(one), temperature=2.0) == 0
        assert taken(source, one, temperature=1.0) == 0
        assert source.outstanding == 1
        assert taken(source, one) == 0
        assert len(ray.get(gates[0].seen.remote())) == 4


def test_actors_take_turns_and_a_slow_one_is_waited_for(work: TrainingSpec, gates: Any) -> None:
    step = batches(0, count=5)
    with heard(*gates, timeout_s=0.3) as (pool, _):
        source = alone(work, pool)
        source.announce(step)
        for gate in gates:
            threading.Timer(2.0, gate.open.remote).start()
        for batch in step:
            assert taken(source, batch) == 0
        seen = [[rows for _, rows in ray.get(gate.seen.remote())] for gate in gates]
    assert seen == [["0.0", "0.2", "0.4"], ["0.1", "0.3"]]


def test_a_teacher_with_another_vocabulary_is_refused(work: TrainingSpec, gates: Any) -> None:
    (batch,) = batches(0, count=1)
    ray.get(gates[0].open.remote())
    job = replace(work, data=replace(work.data, vocabulary=300))
    wanted = pytest.raises(PoolError, match="320 outcomes, the tokenizer 300")
    with heard(gates[0]) as (pool, _), wanted:
        taken(alone(job, pool), batch)


def test_an_actor_that_dies_at_every_attempt_ends_the_run_with_a_reason(work: TrainingSpec) -> None:
    (batch,) = batches(0, count=1)
    wanted = pytest.raises(PoolError, match=r"actor 0 of the teacher pool died .* memory")
    with heard(*actors_of(Dying)) as (pool, _), wanted:
        taken(alone(work, pool), batch)


def test_an_actor_that_nothing_has_room_for_ends_the_run_with_a_reason(work: TrainingSpec) -> None:
    (batch,) = batches(0, count=1)
    (nowhere,) = actors_of(Gate, num_cpus=1000)
    wanted = pytest.raises(PoolError, match="out of reach for more than 1 s")
    with heard(nowhere, timeout_s=1.0) as (pool, _), wanted:
        taken(alone(work, pool), batch)
    ray.kill(nowhere)


def test_a_worker_with_a_pool_fetches_no_teacher(
    tiny: RunConfig, work: TrainingSpec, shards: ShardSet
) -> None:
    teaching = TeachingSpec({"a": [ModelRef("path", "s3://nowhere/teacher")]}, "a")
    training_job = ordered(tiny, replace(work, teaching=teaching), shards, "remote")
    assert training_job.local_spec().teaching == teaching

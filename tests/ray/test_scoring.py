"""The pool that scores models: the same as scoring here, whatever fails or is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as small
import torch
from tiny_run import tiny_model

from distill_ray.config import InputError, RunConfig
from distill_ray.config.models import TeacherConfig
from distill_ray.models.load import load_frozen, load_model
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.audit import audit
from distill_ray.stages.results.audit_table import INITIAL
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.model_scores import ModelToScore, ScoresRecord, ScoringResult
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet, Weights
from distill_ray.stages.scoring.metrics import task_metrics
from distill_ray.stages.scoring.partial import PartialScores
from distill_ray.stages.scoring.parts import (
    PartScores,
    QuestionRange,
    ScoringInputs,
    merge,
    parts_of,
    score_part,
)
from distill_ray.stages.scoring.run import VERSION, score_models
from distill_ray.stages.scoring.worker import Pool
from distill_ray.stages.shard import shard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]

GENERATE, TEXT_ROWS, ATTEMPTS = 5, 3, 2
DONE_BEFORE = 1.5
"""A log-likelihood that no model gives."""


class Notes:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "progress"]


@pytest.fixture(scope="module")
def run(tiny: RunConfig, ray_here: None) -> Run:
    """Small parts, so that two actors share a model."""
    audit = {"num_generated": GENERATE, "questions_per_chunk": 20, "max_attempts": ATTEMPTS}
    cfg = tiny.model_copy(update={"audit": tiny.audit.model_copy(update=audit)})
    return Run.open(cfg, "tiny.yaml")


@pytest.fixture(scope="module")
def shards(run: Run) -> ShardSet:
    return shard(run)


def subject(name: str, seed: int, shards: ShardSet, **changes: Any) -> ModelToScore:
    ids = shards.counts.tokenizer.model_dump()
    init = {**small.init(max_position_embeddings=128), **ids, **changes}
    return ModelToScore(name, ModelRef("init", init=init, seed=seed), f"weights {seed} {changes}")


def broken(folder: Path, shards: ShardSet) -> ModelToScore:
    """A folder whose weights were cut off in the middle."""
    load_model(subject("x", 3, shards).ref).save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return ModelToScore("truncated", ModelRef("path", str(folder)), "truncated weights")


def candidate(who: ModelToScore) -> Teacher:
    """An untrained teacher."""
    return Teacher(
        who.name, Weights(who.ref, who.fingerprint), [who.ref], [None], 0, who.fingerprint
    )


def leave_parts(run: Run, shards: ShardSet, who: ModelToScore) -> QuestionRange:
    """Store a part of a model's scores, as a run that was killed leaves it."""
    weights = Weights(who.ref, who.fingerprint)
    artifact = Artifact(
        run.storage,
        "pool-scores",
        "",
        identity(run, shards, weights) | {"num_text_rows": TEXT_ROWS},
    )
    (asked,) = held_out_questions(shards, "validation")
    part = parts_of([asked], run.cfg.audit.questions_per_chunk)[1]
    options = [[DONE_BEFORE] * len(asked.options)] * (part.stop - part.start)
    scores = PartScores(
        options={"organ": options}, generated={"organ": []}, prior=None, text=None, wall_s=0.0
    )
    PartialScores.of(artifact).write(part, scores)
    return part


def identity(run: Run, shards: ShardSet, weights: Weights) -> dict[str, Any]:
    """What identifies a model's scores in the audit."""
    return {
        "version": VERSION,
        "shard": shards.artifact.fingerprint,
        "model": weights.fingerprint,
        "teacher": "",
        "split": "validation",
        "num_text_rows": run.cfg.audit.num_text_rows,
        "generate": run.cfg.audit.num_generated,
        "max_examples": [task.max_examples for task in run.cfg.tasks],
    }


def scored_here(run: Run, shards: ShardSet, who: ModelToScore) -> ScoresRecord:
    """The scores of a model, in this process and in one part."""
    questions = held_out_questions(shards, "validation")
    scoring = ScoringInputs(
        questions=questions,
        shards=shards.artifact,
        split="validation",
        data=data_spec(shards, run.cfg.seed, TEXT_ROWS),
        num_generated=GENERATE,
        device="cpu",
    )
    model = load_frozen(who.ref, device=torch.device("cpu"))
    (part,) = parts_of(questions, 10**6)
    return merge(questions, [score_part(model, who.teacher, scoring, part)])


def score(run: Run, shards: ShardSet, stage: str, *subjects: ModelToScore) -> ScoringResult:
    return score_models(run, shards, stage, "validation", subjects, TEXT_ROWS)


class Assassin(threading.Thread):
    """Kills every process that begins a part of a model."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(daemon=True)
        self._leases = Path(artifact.storage.uri) / ".state" / artifact.path / "leased"
        self.killed: set[int] = set()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            for mark in self._leases.glob("*.json"):
                with suppress(FileNotFoundError, ProcessLookupError):  # Ended since.
                    self._kill(json.loads(mark.read_text())["pid"])

    def _kill(self, pid: int) -> None:
        if pid not in self.killed:
            self.killed.add(pid)
            os.kill(pid, signal.SIGKILL)


def test_a_pool_of_two_scores_as_this_process_does(run: Run, shards: ShardSet) -> None:
    teacher = subject("", 7, shards)
    plain = subject("plain", 1, shards)
    pupil = replace(subject("pupil", 2, shards), teacher=teacher.ref, teacher_fingerprint="teacher")
    twin = replace(plain, name="twin")
    killed = subject("killed", 8, shards)
    left = leave_parts(run, shards, killed)
    notes = Notes()
    scored = score(replace(run, progress=notes), shards, "pool", plain, pupil, twin, killed)
    assert scored.failed == {} and set(scored.scores) == {"plain", "pupil", "twin", "killed"}
    assert scored.scores["twin"].artifact == scored.scores["plain"].artifact
    assert sorted(notes.texts) == ["scored killed", "scored plain", "scored pupil"]
    assert not (Path(run.storage.uri) / ".state" / "pool-scores").exists() or not any(
        (Path(run.storage.uri) / ".state" / "pool-scores").iterdir()
    )
    for who in (plain, pupil):
        expected = scored_here(run, shards, who)
        found = scored.scores[who.name].record
        assert len(found.answer_index["organ"]) > 2 * 20, "there are several parts"
        for exact in (
            "answer_index",
            "groups",
            "lengths",
            "answers",
            "end",
            "generated",
            "parameters",
        ):
            assert getattr(found, exact) == getattr(expected, exact)
        for close in ("options", "prior"):
            pair = (getattr(record, close)["organ"] for record in (found, expected))
            np.testing.assert_allclose(*pair, atol=2e-5)
        assert found.text == pytest.approx(expected.text)
        assert found.full_ece == pytest.approx(expected.full_ece)
        assert found.divergence == pytest.approx(expected.divergence)
    resumed = scored.scores["killed"].scores("organ")
    assert (resumed[left.start : left.stop] == DONE_BEFORE).all(), "what was done is not done again"
    assert (np.delete(resumed, slice(left.start, left.stop), axis=0) < 0).all()
    assert set(scored.scores["pupil"].divergence) == {"text.kl", "task.kl"}
    model = scored.scores["plain"]
    assert len(model.generated("organ")) == GENERATE
    assert model.text.keys() == {"findings"}
    assert set(model.full_ece) == {"findings", "organ.labelled"}
    assert model.capacity.context == 128 and model.capacity.seconds_per_token > 0
    losses, tokens = model.row_losses("findings")
    assert len(losses) == TEXT_ROWS
    assert losses.sum() / tokens.sum() == pytest.approx(model.text["findings"])
    metrics = task_metrics(model, "organ", bins=15, resamples=50, confidence=0.9)
    assert metrics.generated == GENERATE and metrics.valid is not None

    again = Notes()
    assert score(replace(run, progress=again), shards, "pool", twin).scores["twin"] == model
    assert [event.kind for event in again.events] == ["reused"]


@pytest.mark.slow
def test_teachers_that_fail_or_kill_their_process_are_named_and_the_others_audited(
    run: Run, shards: ShardSet, tmp_path: Path
) -> None:
    deadly, fine = subject("deadly", 4, shards), subject("fine", 5, shards)
    gone = ModelToScore("gone", ModelRef("path", str(tmp_path / "nothing here")), "nothing")
    candidates = [deadly, broken(tmp_path / "cut", shards), fine, gone]
    teachers = TeacherSet(
        student=Weights(subject("", 6, shards).ref, "initial"),
        teachers={who.name: candidate(who) for who in candidates},
        curves={},
        artifacts=[],
        failed={"diverged": "its training failed"},
    )
    named = [{"name": who.name, "model": tiny_model(16, 0)} for who in candidates]
    cfg = run.cfg.model_copy(
        update={
            "teachers": tuple(TeacherConfig.model_validate(item) for item in named),
            "audit": run.cfg.audit.model_copy(
                update={"num_text_rows": TEXT_ROWS, "num_bootstrap": 50}
            ),
        }
    )
    notes = Notes()
    run = replace(run, cfg=cfg, progress=notes)
    doomed = Artifact(
        run.storage, "audit-scores", "", identity(run, shards, candidate(deadly).serving)
    )
    assassin = Assassin(doomed)
    assassin.start()
    try:
        audited = audit(run, shards, teachers)
    finally:
        assassin.done.set()
        assassin.join()
    assert set(audited.rows) == {INITIAL, "fine"}
    failed = audited.failed
    assert set(failed) == {"deadly", "truncated", "gone", "diverged"}
    assert failed["deadly"] == f"the process that scored it died {ATTEMPTS} times"
    assert ATTEMPTS <= len(assassin.killed) <= 2 * ATTEMPTS
    assert "SafetensorError" in failed["truncated"]
    assert "nothing here" in failed["gone"]
    assert all("\n" not in reason for reason in failed.values())
    assert f"gone can't be scored: {failed['gone']}" in notes.texts
    row = audited.rows["fine"]
    assert row.size_ratio == 1 and row.chat_template is None
    assert set(row.tasks) == {"organ"} and row.shifted == row.drops == {}
    assert row.tasks["organ"].scaled is not None and row.tasks["organ"].scaled.nll.value > 0
    assert row.text["findings"] == pytest.approx(row.text_nll.kinds["domain"].value)
    assert audited.temperatures["fine"] == row.temperature > 0

    notes = Notes()
    assert audit(replace(run, progress=notes), shards, teachers).artifact == audited.artifact
    assert [event.kind for event in notes.events] == ["reused"]

    again = audit(replace(run, retry_failed=True), shards, teachers)
    assert set(again.rows) == {INITIAL, "fine", "deadly"}, "nobody kills it any more"
    unlucky = replace(teachers, student=teachers.teachers["gone"].base_model)
    with pytest.raises(RuntimeError, match=f"{INITIAL} can't be scored: .*nothing here"):
        audit(run, shards, unlucky)


def test_a_pool_is_the_cluster_s_unless_the_config_says_more_or_less(run: Run) -> None:
    audit = run.cfg.audit.model_copy(update={"max_actors": 5, "cpus_per_actor": 0.25})
    assert Pool.of(run.cfg.cluster, audit, run.progress) == Pool(1, 5, 0.25, 0.0, ATTEMPTS)
    assert Pool.of(run.cfg.cluster, run.cfg.audit, run.progress) == Pool(1, 2, 1.0, 0.0, ATTEMPTS)
    many = run.cfg.audit.model_copy(update={"min_actors": 999})
    with pytest.raises(InputError, match=r"999 actors with 1 CPUs each.*Lower audit.min_actors"):
        Pool.of(run.cfg.cluster, many, run.progress)


def test_parts_cover_every_question_once() -> None:
    class Asked:
        def __init__(self, count: int) -> None:
            self.answer_index = [0] * count

    sets: Any = [Asked(5), Asked(0), Asked(4)]
    parts = parts_of(sets, 3)
    assert parts == [QuestionRange(0, 3), QuestionRange(3, 6), QuestionRange(6, 9)]
    slices = [[(start, stop) for _, start, stop in part.slices(sets)] for part in parts]
    assert slices == [[(0, 3), (0, 0), (0, 0)], [(3, 5), (0, 0), (0, 1)], [(5, 5), (0, 0), (1, 4)]]
    assert parts_of([], 3) == [QuestionRange(0, 0)]

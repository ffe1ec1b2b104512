"""Distillation steps that read cached teacher targets, and what they are compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distill_ray.bench.arms.engine import Rows, session_of
from distill_ray.bench.arms.inputs import Pair, load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import StepWork
from distill_ray.core.head_loss import TeacherOutput
from distill_ray.data.batches import Batch
from distill_ray.engine.loop import train_step
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.session import Session
from distill_ray.engine.teachers.cached import Cached
from distill_ray.engine.teachers.targets import TargetSpec, file_of, sparse_targets, targets_of
from distill_ray.models.teachers import TeacherBank

SPEC = TargetSpec("top_k", 64)


def step(turns: ArmClient, *, work: StepWork) -> None:
    """Take steps that read the teacher's likeliest tokens from a file, written off the clock."""
    pair = load_pair(work, turns.device)
    with tempfile.TemporaryDirectory() as folder:
        bytes_per_token = _write_targets(pair, work, turns, Path(folder))
        turns.tell(**pair.facts, bytes_per_token=bytes_per_token)
        pair.teacher.to("meta")  # Not needed any more: its memory isn't part of this arm.
        session = session_of(pair, work, turns.device, turns.total)
        assert session.teaching is not None
        session.teaching.source = Cached({("teacher", 0): Path(folder)}, turns.device)
        _take(turns, session)


def truncated(turns: ArmClient, *, work: StepWork) -> None:
    """Take steps with the teacher in this process, cut to the same likeliest tokens."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    session = session_of(pair, work, turns.device, turns.total)
    assert session.teaching is not None
    session.teaching.source = Truncated(TeacherBank.of(pair.teacher, pair.vocabulary))
    _take(turns, session)


class Truncated:
    """A teacher in this process whose outputs are cut to what a cache would hold."""

    lookahead = 0

    def __init__(self, bank: TeacherBank) -> None:
        self._bank = bank

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Do nothing: there is one checkpoint."""

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Do nothing: no other checkpoint follows."""

    def announce(self, batches: object) -> None:
        """Do nothing: no target is computed ahead."""

    def forget(self) -> None:
        """Do nothing: no batch was announced."""

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> TeacherOutput:
        """The teacher's likeliest tokens, as sparse targets."""
        head = self._bank.head(batch.input_ids, batch.position_ids, supervised.positions)
        return sparse_targets(head, supervised.next_tokens, SPEC)


def _take(turns: ArmClient, session: Session) -> None:
    for _ in turns:
        loss, *_ = train_step(session)
        session.step += 1
        turns.done([loss])


def _write_targets(pair: Pair, work: StepWork, turns: ArmClient, folder: Path) -> float:
    """Write one file with the targets of all steps; return its bytes per token."""
    bank = TeacherBank.of(pair.teacher, pair.vocabulary)
    source = Rows(work, pair.vocabulary)
    rows = [
        row
        for step in range(turns.total)
        for row in targets_of(bank, source.batch(step, 0).to(turns.device), SPEC)
    ]
    payload, counts = file_of(rows, SPEC)
    (folder / "targets.parquet").write_bytes(payload)
    return round(len(payload) / counts.tokens, 1)

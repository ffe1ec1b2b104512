"""When a training is saved, and from what it goes on: the newest checkpoint that is whole."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ray.train

from distill_ray.config.cluster import ClusterConfig
from distill_ray.engine import checkpoint, comm
from distill_ray.engine.checksums import UnsoundError, seal, verify
from distill_ray.engine.loop import Step
from distill_ray.engine.session import Session
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.training_job import TrainingJob

NUM_TO_KEEP = 2
"""Checkpoints of a training that stay: should the newest one be torn, there is another."""
NOTICE_S = 5.0
"""Between two looks at whether a node is about to go; clouds tell it 30 to 120 s before."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""What Ray Train itself would go on from. A driver that is killed may leave half of it."""


@dataclass
class CheckpointPolicy:
    """What decides whether a step is saved: its number, the time, and nodes that are about to go.

    Ranks decide alike, since rank 0 decides.
    """

    every: int
    """Steps between saves."""
    every_s: float | None
    """Seconds between saves, so about this much work is lost at most; None for any number."""
    watched: bool = False
    """Whether anything tells of nodes that go."""
    _saved: float = field(default_factory=time.monotonic)
    _looked: float = field(default_factory=time.monotonic)
    _leaving: bool = False

    @classmethod
    def of(cls, training_job: TrainingJob, cfg: ClusterConfig) -> CheckpointPolicy:
        """Make the policy of a job on this cluster."""
        watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
        return cls(training_job.save_steps, cfg.save_interval_s, watched)

    def should_save(self, number: int) -> bool:
        """Whether to save after this many steps. Every rank asks after every step."""
        late = self.every_s is not None and time.monotonic() - self._saved >= self.every_s
        look = self.watched and time.monotonic() - self._looked >= NOTICE_S
        due, look = comm.from_rank_zero((number % self.every == 0 or late, look))
        due = (look and self._noticed()) or due
        if due:
            self._saved = time.monotonic()
        return due

    def _noticed(self) -> bool:
        """Whether a node is about to go that wasn't when it was last asked."""
        self._looked = time.monotonic()
        before, self._leaving = self._leaving, ray.train.get_preemption_info() is not None
        return self._leaving and not before


def save(session: Session, training_job: TrainingJob, step: Step) -> None:
    """Write a checkpoint, and have it uploaded while training goes on. Every rank calls it."""
    folder = Path(tempfile.mkdtemp(prefix="distill-ray-"))
    try:
        checkpoint.save(session, folder, job=training_job.artifact.path)
        seal(folder, comm.rank(), comm.world())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ray.train.report(
        {"step": step.number, "loss": step.loss},
        checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def resume(session: Session, training_job: TrainingJob, state: Storage) -> list[str]:
    """Go on from the newest whole checkpoint of a job, if there is one. Every rank calls it.

    Args:
        session: freshly built.
        training_job: what is trained.
        state: the folder of its training's checkpoints.

    Returns:
        What is worth telling of it, a line each.
    """
    lines: list[str] = []
    own = training_job.artifact.path
    saved = [(*read, name) for name in _checkpoints(state) if (read := _read(state, name))]
    newest_first = [name for step, job, name in sorted(saved, reverse=True) if job == own]
    for name in comm.from_rank_zero(newest_first):
        place = state.sub(name).place
        saved_checkpoint = ray.train.Checkpoint(
            place["storage_path"], place.get("storage_filesystem")
        )
        with saved_checkpoint.as_directory() as folder:
            problem = _unsound_reason(Path(folder))
            if not problem:
                checkpoint.restore(session, Path(folder), job=own)
                workers = f"{comm.world()} worker{'s' * (comm.world() > 1)}"
                return [*lines, f"goes on after step {session.step}, with {workers}"]
        lines.append(f"{name} is passed over: {problem}")
    return lines


def _checkpoints(state: Storage) -> Iterator[str]:
    return (name for name in state.children("") if name.startswith("checkpoint_"))


def _read(state: Storage, name: str) -> tuple[int, str] | None:
    """A checkpoint's step and job; None where it says neither."""
    try:
        saved = json.loads(state.read_bytes(f"{name}/{checkpoint.STATE}"))
        return int(saved["step"]), str(saved["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unsound_reason(folder: Path) -> str:
    """Why a checkpoint can't be loaded, on any rank; nothing where it can."""
    reason = ""
    if os.environ.get("LOCAL_RANK", "0") == "0":  # Of those that share the files, one reads them.
        try:
            verify(folder)
        except UnsoundError as error:
            reason = str(error)
    return next((text for text in comm.of_all_ranks(reason) if text), "")


def prune(state: Storage) -> None:
    """Leave each job its newest checkpoints before a training; Ray finds none to go on from."""
    state.delete(SNAPSHOT)
    jobs: dict[str, list[tuple[int, str]]] = {}
    for name in _checkpoints(state):
        read = _read(state, name)
        if read is None:
            state.delete(name)
        else:
            jobs.setdefault(read[1], []).append((read[0], name))
    for names in jobs.values():
        for _, name in sorted(names, reverse=True)[NUM_TO_KEEP:]:
            state.delete(name)

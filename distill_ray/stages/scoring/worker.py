"""The Ray side of scoring: a pool of actors, each with one model at a time."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from numpy.typing import NDArray

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import Problem
from distill_ray.config.selection import AuditConfig
from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.cluster import require_capacity, silence_logger, teacher_nodes
from distill_ray.runtime.external_errors import outside_cause
from distill_ray.runtime.progress import Progress
from distill_ray.stages.results.local_files import local_ref
from distill_ray.stages.scoring.partial import PartialScores
from distill_ray.stages.scoring.parts import QuestionRange, ScoringInputs, score_part


@dataclass(frozen=True)
class ScoringTask:
    """A model to be scored, and the parts that it still lacks."""

    ref: ModelRef
    teacher: ModelRef | None
    artifact: Artifact
    parts: list[QuestionRange]


@dataclass(frozen=True)
class Pool:
    """How many actors score, and what each has."""

    smallest: int
    largest: int
    cpus: float
    gpus: float
    attempts: int
    nodes: dict[str, str] | None = None
    """Labels of the nodes that actors may be on."""

    @classmethod
    def of(cls, cluster: ClusterConfig, audit: AuditConfig, progress: Progress) -> Pool:
        """The pool of a config.

        Raises:
            InputError: the cluster can't hold the pool at its smallest.
        """
        cpus, gpus = audit.cpus_per_actor, audit.gpus_per_actor
        pool = cls(
            smallest=audit.min_actors,
            largest=max(audit.min_actors, audit.max_actors or cluster.num_workers),
            cpus=cluster.cpus_per_worker if cpus is None else cpus,
            gpus=cluster.gpus_per_worker if gpus is None else gpus,
            attempts=audit.max_attempts,
            nodes=teacher_nodes(cluster),
        )
        each = {kind: n for kind, n in (("CPU", pool.cpus), ("GPU", pool.gpus)) if n}
        problems = list(pool._problems(ray.cluster_resources()))
        require_capacity(problems, [each] * pool.smallest, pool.nodes, progress)
        return pool

    @property
    def device(self) -> str:
        """Where an actor computes."""
        return "cuda" if self.gpus else "cpu"

    def _problems(self, resources: Mapping[str, float]) -> Iterator[Problem]:
        for kind, each in (("CPU", self.cpus), ("GPU", self.gpus)):
            total = resources.get(kind, 0)
            if self.smallest * each > total:
                what = f"{self.smallest} actors with {each:g} {kind}s each, of {total:g}."
                fix = f"Lower audit.min_actors or audit.{kind.lower()}s_per_actor."
                yield Problem("audit.min_actors", what, fix)


def score_in_pool(
    pool: Pool, tasks: Sequence[ScoringTask], scoring: ScoringInputs
) -> Iterator[ScoringTask]:
    """Score every task's parts; yields tasks as they end, scored or failed."""
    yield from (task for task in tasks if not task.parts)
    # A row for each part of each task; a model's parts are neighbours.
    items = [{"task": i, "part": n} for i, task in enumerate(tasks) for n in range(len(task.parts))]
    if not items:
        return
    silence_logger("ray.data")
    largest = min(pool.largest, len(items))
    # Blocks of its own for each item, which are in memory: no read task waits for a CPU.
    data = ray.data.from_items(items, override_num_blocks=len(items))
    data.context.enable_progress_bars = False
    data.context.execution_options.preserve_order = False
    data.context.max_consecutive_actor_init_deaths = pool.attempts
    scored = data.map_batches(
        _Scorer,
        fn_constructor_args=[[ray.put((tasks, scoring, pool.attempts))]],
        compute=ray.data.ActorPoolStrategy(
            min_size=min(pool.smallest, largest),
            max_size=largest,
            initial_size=largest,
            max_tasks_in_flight_per_actor=1,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        label_selector=pool.nodes,
        batch_size=1,
    )
    num_missing = [len(task.parts) for task in tasks]
    for row in scored.iter_rows():
        num_missing[row["task"]] -= 1
        if not num_missing[row["task"]]:
            yield tasks[row["task"]]


class _Scorer:
    """Scores parts of models; loads a model when a part of another one comes."""

    def __init__(self, shared: list[Any]) -> None:
        self._tasks, self._scoring, self._attempts = ray.get(shared[0])
        self._loaded_path, self._model = "", None

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        for index, part in zip(batch["task"], batch["part"]):
            task = self._tasks[index]
            self._score(task, task.parts[part])
        return batch

    def _score(self, task: ScoringTask, part: QuestionRange) -> None:
        """Store a part's scores, or record why the model has none."""
        partial = PartialScores.of(task.artifact)
        if task.artifact.failure() is not None:
            return
        if (crashes := partial.crashes(part)) >= self._attempts:
            task.artifact.record_failure(f"the process that scored it died {crashes} times")
            return
        lease, started = partial.lease(part), time.monotonic()
        try:
            scores = score_part(self._model_of(task), task.teacher, self._scoring, part)
        except Exception as error:
            if outside_cause(error) is not None:
                raise
            self._unload()
            first_line = next(iter(str(error).strip().splitlines()), "")[:300]
            task.artifact.record_failure(f"{type(error).__name__}: {first_line}".rstrip(": "))
            partial.release(lease)
            if isinstance(error, torch.AcceleratorError):
                os._exit(1)  # The device refuses this process from now on; Ray starts another.
        else:
            wall_s = time.monotonic() - started
            partial.write(part, scores.model_copy(update={"wall_s": wall_s}))
            partial.release(lease)

    def _model_of(self, task: ScoringTask) -> Any:
        if self._loaded_path != task.artifact.path:
            self._unload()
            device = torch.device(self._scoring.device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            self._model = load_frozen(local_ref(task.ref), device=device)
            self._loaded_path = task.artifact.path
        return self._model

    def _unload(self) -> None:
        """Free the model: two at once may not fit."""
        self._loaded_path, self._model = "", None
        gc.collect()
        if self._scoring.device == "cuda":
            torch.cuda.empty_cache()

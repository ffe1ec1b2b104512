"""A teacher pool: its start and end, and calls to its actors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from distill_ray.config.serving import PoolServing
from distill_ray.engine.job import TrainingSpec
from distill_ray.runtime.cluster import check_capacity, teacher_nodes
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.pool_actor import TeacherActor

THREAD = "teacher"
"""A thread of each actor that computes. On its main thread, calls in the queue could not be
cancelled, and none could ask whether it is still there."""
RETRIES = 3
"""How often a call is made again when its actor dies: a batch that kills every actor must end."""
PING_S = 60.0
"""How long an actor may take to say that it is there."""


class PoolError(RuntimeError):
    """The pool can't serve: it is out of reach, or keeps dying."""


class PoolRefusedError(PoolError):
    """The pool isn't the teacher that it should be. Raised by every rank at the same place."""


@dataclass(frozen=True)
class Call:
    """Something asked of one actor."""

    actor: int
    ref: Any


@dataclass(frozen=True)
class Pool:
    """The actors that serve one job, as its workers see them."""

    actors: tuple[Any, ...]
    mailbox: Any
    """Where a worker leaves what is worth saying."""
    stage: str
    timeout_s: float
    """How long an actor may be out of reach."""

    def call(self, actor: int, method: str, *what: Any) -> Call:
        """Ask one actor; returns at once."""
        remote_method = getattr(self.actors[actor], method).options(concurrency_group=THREAD)
        return Call(actor, remote_method.remote(*what))

    def cancel(self, call: Call) -> None:
        """Take a call out of its actor's queue; one that the actor is busy with goes on."""
        ray.cancel(call.ref)

    def wait(self, call: Call) -> Any:
        """Wait for what a call returns.

        Raises:
            PoolError: its actor is out of reach, or died in every attempt.
            Exception: whatever was raised there.
        """
        while not ray.wait([call.ref], timeout=self.timeout_s)[0]:
            self._require_reachable(call.actor)
        try:
            return ray.get(call.ref)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            raise PoolError(
                f"actor {call.actor} of the teacher pool died {RETRIES + 1} times at the same "
                "call, most likely for want of memory: lower micro_batch_size, or give it more."
            ) from error

    def describe(self) -> list[dict[str, str]]:
        """Versions and device of every actor."""
        calls = [Call(i, actor.describe.remote()) for i, actor in enumerate(self.actors)]
        return [self.wait(call) for call in calls]

    def end(self) -> None:
        """End the actors, whose resources become free."""
        for actor in self.actors:
            ray.kill(actor)

    def say(self, text: str) -> None:
        """Add a note to the run's progress."""
        self.mailbox.push.remote(Event("note", self.stage, text))

    def _require_reachable(self, actor: int) -> None:
        """A slow actor answers this at once; one whose machine has gone doesn't."""
        ping = self.actors[actor].describe.remote()
        if not ray.wait([ping], timeout=min(PING_S, self.timeout_s))[0]:
            raise PoolError(
                f"actor {actor} of the teacher pool has been out of reach for more than "
                f"{self.timeout_s:g} s: its machine may be gone, and no other has room for it. "
                "Add one, or raise cluster.worker_timeout_s."
            )


@contextmanager
def teacher_pools(
    run: Run, training_jobs: Sequence[TrainingJob], mailbox: Any
) -> Iterator[Mapping[str, Pool]]:
    """Start a pool for each job that needs one, by artifact path; the actors end with the block.

    Raises:
        InputError: workers and actors together don't fit.
    """
    needs_pool = {
        job.artifact.path: (job, job.serving)
        for job in training_jobs
        if isinstance(job.serving, PoolServing)
        and job.spec.teaching
        and not job.artifact.is_complete()
    }
    servings = [serving for _, serving in needs_pool.values()]
    check_capacity(run.cfg.cluster, servings, run.progress)
    timeout_s = run.cfg.cluster.worker_timeout_s
    pools: dict[str, Pool] = {}
    try:
        for path, (job, serving) in needs_pool.items():
            actors = start_actors(job.spec, serving, teacher_nodes(run.cfg.cluster))
            pools[path] = Pool(actors, mailbox, job.stage, timeout_s)
        yield pools
    finally:
        for pool in pools.values():
            pool.end()


def start_actors(
    training_spec: TrainingSpec, serving: PoolServing, nodes: Mapping[str, str] | None = None
) -> tuple[Any, ...]:
    """Start a pool's actors in the background, on nodes with such labels."""
    actor_class = ray.remote(
        num_cpus=serving.cpus_per_actor,
        num_gpus=serving.gpus_per_actor,
        max_restarts=-1,
        max_task_retries=RETRIES,
        concurrency_groups={THREAD: 1},
        label_selector=dict(nodes) if nodes else None,
    )(TeacherActor)
    return tuple(actor_class.remote(training_spec, serving) for _ in range(serving.num_actors))

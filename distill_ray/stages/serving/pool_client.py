"""A worker's side of a teacher pool: asks ahead, and hands over what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from distill_ray.config.serving import PoolServing
from distill_ray.core.head import Head
from distill_ray.core.head_loss import OneTeacher
from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.job import TrainingSpec
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.teachers.messages import Answer, Request, reference
from distill_ray.engine.teachers.parity import sample_of
from distill_ray.stages.serving.pool import Call, Pool, PoolError, PoolRefusedError
from distill_ray.stages.serving.pool_check import difference, say_versions


@dataclass(eq=False)
class _PendingBatch:
    """A micro-batch that was announced."""

    batch: Batch
    step: int
    call: Call | None = None
    """None until it is asked for."""


class PoolTeacherSource:
    """The teacher is in a pool of actors. See `engine.teacher.TeacherSource`.

    Requests of at most `lookahead` + 1 steps are out at a time: beyond them the pool waits.
    """

    def __init__(
        self, serving: PoolServing, training_spec: TrainingSpec, pool: Pool, device: torch.device
    ) -> None:
        self.lookahead = serving.lookahead
        self._serving, self._pool, self._device = serving, pool, device
        self._training_spec = training_spec
        objective = training_spec.objective
        self._temperature = objective.temperature if objective else 1.0
        self._checkpoint: tuple[str, int] | None = None
        self._expected: tuple[str, int] | None = None
        self._announced: deque[_PendingBatch] = deque()
        self._steps = 0
        self._output: Call | None = None
        self._head: Head | None = None
        self._is_checked = False
        # Several workers begin with different actors.
        count = len(pool.actors)
        self._turns = islice(cycle(range(count)), comm.rank() % count, None)

    @property
    def outstanding(self) -> int:
        """Announced micro-batches that were asked for and not used yet."""
        return sum(pending.call is not None for pending in self._announced)

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Answer for this checkpoint from now on; what was announced is asked of it anew."""
        if self._checkpoint == (teacher, checkpoint_index):
            return
        for call in (self._output, *(pending.call for pending in self._announced)):
            if call is not None:
                self._pool.cancel(call)
        for pending in self._announced:
            pending.call = None
        self._checkpoint, self._output, self._head = (teacher, checkpoint_index), None, None
        self._expected = None
        if self._serving.is_exact:
            self._output = self._pool.call(next(self._turns), "output", teacher, checkpoint_index)
        self._ask_due()

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Tell every actor once; it reads the weights while it answers for another checkpoint."""
        if self._expected == (teacher, checkpoint_index):
            return
        self._expected = (teacher, checkpoint_index)
        for actor in range(len(self._pool.actors)):
            self._pool.call(actor, "expect", teacher, checkpoint_index)

    def forget(self) -> None:
        """Drop what was announced."""
        for pending in self._announced:
            if pending.call is not None:
                self._pool.cancel(pending.call)
        self._announced.clear()

    def announce(self, batches: Sequence[Batch]) -> None:
        """Ask for the micro-batches of a later step, without waiting."""
        self._steps += 1
        self._announced += [_PendingBatch(batch, self._steps) for batch in batches]
        self._ask_due()

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> OneTeacher:
        """Wait for the answer to a batch, announced or not."""
        self._check_once(batch)
        call = self._take(batch, temperature) or self._ask(batch, supervised, temperature)
        self._ask_due()
        answer: Answer = self._pool.wait(call)
        if answer.by_new_process:
            self._pool.say(f"actor {call.actor} of the teacher pool died and was replaced")
        return self._reference(answer)

    def _ask_due(self) -> None:
        for pending in self._announced:
            if pending.call is None and pending.step <= self._announced[0].step + self.lookahead:
                pending.call = self._ask(
                    pending.batch, SupervisedTokens.of(pending.batch), self._temperature
                )

    def _ask(self, batch: Batch, supervised: SupervisedTokens, temperature: float) -> Call:
        request = self._request(batch, supervised, temperature)
        return self._pool.call(next(self._turns), "targets", request)

    def _request(self, batch: Batch, supervised: SupervisedTokens, temperature: float) -> Request:
        if self._checkpoint is None:
            raise RuntimeError("no teacher in use: call use() first")
        return Request.of(*self._checkpoint, batch, supervised, temperature=temperature)

    def _take(self, batch: Batch, temperature: float) -> Call | None:
        """Take an announced batch off the list, and return its call; None for another batch."""
        # The very object: rows of validation may bear the same names.
        pending = next((pending for pending in self._announced if pending.batch is batch), None)
        if pending is None or temperature != self._temperature:
            return None
        self._announced.remove(pending)
        return pending.call

    def _reference(self, answer: Answer) -> OneTeacher:
        known = self._training_spec.data.vocabulary
        if known not in (None, answer.vocabulary):
            what = f"the teacher's head has {answer.vocabulary} outcomes, the tokenizer {known}"
            raise PoolError(what)
        if self._output is not None:
            self._head = self._pool.wait(self._output).head(self._device)
            self._output = None  # Let go: Ray keeps what a call gave as long as it is known.
        return reference(answer, self._head, self._device)

    def _check_once(self, batch: Batch) -> None:
        """Before the first answer is used, rank 0 looks at every actor. Collective."""
        if self._is_checked:
            return
        self._is_checked = True
        problem = comm.from_rank_zero(self._problem(batch) if comm.rank() == 0 else None)
        if problem is not None:
            raise PoolRefusedError(problem)

    def _problem(self, batch: Batch) -> str | None:
        say_versions(self._pool)
        if not self._serving.num_parity_rows:
            return None
        part, supervised = sample_of(batch, self._serving.num_parity_rows)
        request = self._request(part, supervised, self._temperature)
        return difference(self._pool, self._training_spec, request, self._reference, self._device)

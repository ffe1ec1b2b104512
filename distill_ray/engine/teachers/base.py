"""Sources of the teacher's output. The loop doesn't know where the teacher runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from distill_ray.core.head_loss import TeacherOutput
from distill_ray.core.matching import States
from distill_ray.data.batches import Batch
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.models.teachers import TeacherBank


class TeacherSource(Protocol):
    """Gives the output of the teacher checkpoint in use."""

    lookahead: int
    """Number of steps to announce ahead of the current one; 0 where nothing works ahead."""

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Switch to this checkpoint; batches announced for another one are forgotten."""

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Prefetch this checkpoint, which will probably be used soon."""

    def announce(self, batches: Sequence[Batch]) -> None:
        """Announce the micro-batches of a coming step, in order, so that work can start early."""

    def forget(self) -> None:
        """Drop all announced batches."""

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> TeacherOutput:
        """Get the teacher's output for a batch's supervised predictions, on the batch's device.

        Args:
            batch: announced before, or not.
            supervised: the batch's supervised predictions.
            temperature: τ that sparse targets are made at.
        """


class Colocated:
    """The teacher runs in this process."""

    lookahead = 0

    def __init__(self, bank: TeacherBank) -> None:
        self._bank = bank

    def answer(
        self, batch: Batch, supervised: SupervisedTokens, layers: Mapping[str, Sequence[int]]
    ) -> tuple[TeacherOutput, States]:
        """Get the reference, and the states of some layers, from one forward pass."""
        return self._bank.answer(batch.input_ids, batch.position_ids, supervised.positions, layers)

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Load this checkpoint, unless it is the one in use."""
        self._bank.use(teacher, checkpoint_index)

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read a checkpoint's weights into the main memory while training goes on."""
        self._bank.expect(teacher, checkpoint_index)

    def announce(self, batches: Sequence[Batch]) -> None:
        """Do nothing: nothing works ahead here."""

    def forget(self) -> None:
        """Do nothing: nothing is announced."""

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> TeacherOutput:
        """Get the hidden states of a forward pass, with the output weights."""
        return self._bank.head(batch.input_ids, batch.position_ids, supervised.positions)

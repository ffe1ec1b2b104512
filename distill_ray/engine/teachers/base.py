"""Where the teacher's side of a batch comes from; the loop doesn't know where it lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from distill_ray.core.head_loss import TeacherOutput
from distill_ray.core.matching import States
from distill_ray.data.batches import Batch
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.models.teachers import TeacherBank


class TeacherSource(Protocol):
    """Answers for the teacher checkpoint in use."""

    lookahead: int
    """Steps beyond the current one that are worth announcing; 0 where nothing works ahead."""

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Answer for this checkpoint from now on; what was announced to another is forgotten."""

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """This checkpoint will probably be used soon: read what can be read of it meanwhile."""

    def announce(self, batches: Sequence[Batch]) -> None:
        """The micro-batches of a coming step, in order: references to them will be wanted."""

    def forget(self) -> None:
        """What was announced won't be wanted, or will be announced again."""

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> TeacherOutput:
        """The teacher's side of a batch's kept predictions, on the batch's device.

        Args:
            batch: announced before, or not.
            supervised: its kept predictions.
            temperature: τ that sparse targets are made at.
        """


class Colocated:
    """The teacher is in this process."""

    lookahead = 0

    def __init__(self, bank: TeacherBank) -> None:
        self._bank = bank

    def answer(
        self, batch: Batch, supervised: SupervisedTokens, layers: Mapping[str, Sequence[int]]
    ) -> tuple[TeacherOutput, States]:
        """The reference, and the states of some layers, from one forward pass."""
        return self._bank.answer(batch.input_ids, batch.position_ids, supervised.positions, layers)

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Load this checkpoint, unless it is the one in use."""
        self._bank.use(teacher, checkpoint_index)

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read its weights into the main memory while training goes on."""
        self._bank.expect(teacher, checkpoint_index)

    def announce(self, batches: Sequence[Batch]) -> None:
        """Nothing works ahead here."""

    def forget(self) -> None:
        """Nothing was."""

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> TeacherOutput:
        """Hidden states of a forward pass, with the output weights."""
        return self._bank.head(batch.input_ids, batch.position_ids, supervised.positions)

"""A training run as plain data, which any worker can build a session from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LoraConfig, TrainingConfig
from distill_ray.core.schedule import RankingWeights, Rules, Switch
from distill_ray.models.ref import ModelRef

FROZEN_STUDENT = "frozen-student"
"""Name of the frozen student among the teachers."""


@dataclass(frozen=True)
class OnSwitch:
    """Changes to the optimiser when the teacher checkpoint switches."""

    reset: bool = False
    """Whether to reset AdamW's moments and step counts, as SCD does."""
    warmup_steps: int = 0
    """Steps of linear learning-rate warm-up after a switch; 0 for none."""

    def factor(self, step: int, switches: Sequence[Switch]) -> float:
        """Give the factor of a step's learning rate.

        Args:
            step: counted from 0.
            switches: switches so far.
        """
        past = [s.step for s in switches if 0 < s.step <= step]
        if not past or not self.warmup_steps:
            return 1.0
        return min(1.0, (step - past[-1] + 1) / self.warmup_steps)


@dataclass(frozen=True)
class EnsembleSpec:
    """How several teachers are combined."""

    strategy: str
    options: Mapping[str, Any]
    """Keyword options of the strategy."""


@dataclass(frozen=True)
class DataSpec:
    """Where packed rows are, and how they are drawn."""

    folder: Path
    """Local folder of a shard set, with `packed/<stream>/<split>/`."""
    cache: Path
    """Where memory maps are kept."""
    kinds: Mapping[str, str]
    """Stream → `text` or `task`, for every stream."""
    sequence_length: int
    seed: int
    num_validation_rows: int
    vocabulary: int | None = None
    """Number of token ids that the tokenizer has."""


@dataclass(frozen=True)
class TeachingSpec:
    """Which teachers, and when they change."""

    checkpoints: Mapping[str, list[ModelRef]]
    """Teacher → its checkpoints, the best one last."""
    first_teacher: str
    """The first teacher; `ENSEMBLE` where all teach at once."""
    schedule: str = "fixed"
    options: Mapping[str, Any] = field(default_factory=dict)
    ranking: RankingWeights | None = None
    """The ranking that a reassessment uses."""
    rules: Rules = field(default_factory=Rules)
    ensemble: EnsembleSpec | None = None
    """How all teachers are combined; None for one teacher at a time."""


@dataclass(frozen=True)
class TrainingSpec:
    """One training run: student, data, objective and teachers."""

    name: str
    student: ModelRef
    training: TrainingConfig
    data: DataSpec
    objective: ObjectiveConfig | None = None
    """What the teachers add to the loss; None trains on the data alone."""
    teaching: TeachingSpec | None = None
    on_switch: OnSwitch = field(default_factory=OnSwitch)
    frozen_student: ModelRef | None = None
    """The student fine-tuned without a teacher, whose losses weight the samples."""
    lora: LoraConfig | None = None
    """Train adapters on top of the student instead of its weights."""
    num_checkpoints: int = 1
    """Checkpoints that are kept, at equal token spacing; the last is the end of training."""
    patience: int | None = None
    """Checkpoints in a row without a lower validation loss, after which training stops early."""
    eval_steps: int | None = None
    """Steps between validations, beside those at each checkpoint."""
    backend: str = "deepspeed"
    """`deepspeed` or `plain`."""

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.training.num_steps(self.data.sequence_length)

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps after which a checkpoint is kept."""
        return [
            round((i + 1) * self.steps / self.num_checkpoints) for i in range(self.num_checkpoints)
        ]

    def validation_due(self, step: int) -> bool:
        """Decide whether held-out rows are measured after this many steps."""
        every = self.eval_steps
        return step in self.checkpoint_steps or (every is not None and step % every == 0)

    def with_refs(self, change: Any) -> TrainingSpec:
        """Apply `change` to every model ref."""
        teaching = self.teaching
        if teaching is not None:
            checkpoints = {
                name: [change(ref) for ref in refs] for name, refs in teaching.checkpoints.items()
            }
            teaching = replace(teaching, checkpoints=checkpoints)
        return replace(
            self,
            student=change(self.student),
            teaching=teaching,
            frozen_student=self.frozen_student and change(self.frozen_student),
        )

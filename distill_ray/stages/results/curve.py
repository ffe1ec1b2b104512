"""What a training writes about itself: its curve, and its switches of teacher. Knows no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import field_validator

from distill_ray.core.schedule import ScheduleState, Switch
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.record import Record

if TYPE_CHECKING:
    from typing_extensions import Self

CURVE = "curve.json"
SWITCHES = "switches.json"
"""Beside the curve of a training that had a teacher."""

HistoryRow = dict[str, int | float | str]
"""Name of a metric → its value, as `engine.loop.Step.metrics`; `step` is always there."""


class StreamRead(Record):
    """What a training read of one stream, padding excluded."""

    rows: int
    tokens: int


class Curve(Record):
    """`curve.json`: the course of a training."""

    history: list[HistoryRow]
    """One row for each recorded step."""
    initial_loss: float | None
    """Validation loss before the first step."""
    switches: list[Switch]
    """Changes of teacher or checkpoint; empty without a teacher."""
    schedule: ScheduleState | None
    """The schedule's last state; None without a teacher."""
    tokens_by_teacher: dict[str, float]
    """Teacher → tokens that the student learned from it."""
    skipped_steps: int
    """Steps without a finite loss or gradient, which changed no weight."""
    best: int
    """Index of the checkpoint with the lowest validation loss."""
    streams: dict[str, StreamRead]
    """Stream → what was read of it."""

    @field_validator("history")
    @classmethod
    def _has_steps(cls, history: list[HistoryRow]) -> list[HistoryRow]:
        for number, row in enumerate(history):
            if not isinstance(row.get("step"), int):
                raise ValueError(f"row {number} has no step")
        return history

    @classmethod
    def of(cls, artifact: Artifact | Storage) -> Self:
        """The curve of a training job, by its artifact or its artifact's folder."""
        folder = artifact.folder if isinstance(artifact, Artifact) else artifact
        return cls.read_from(folder, CURVE)


class ServedCheckpoint(Record):
    """A teacher's checkpoint."""

    teacher: str
    checkpoint: int
    """Counted from 1."""


class SwitchEntry(Record):
    """A switch of teacher or checkpoint, or an assessment that changed neither."""

    step: int
    """The first step that sees the new checkpoint, counted from 0."""
    before: ServedCheckpoint
    after: ServedCheckpoint
    changes: bool
    reason: str
    numbers: dict[str, float]
    """What the reason rests on."""
    stall_s: float | None
    """How long the step waited for the new checkpoint; None where nothing changed."""


class SwitchLog(Record):
    """`switches.json`."""

    entries: list[SwitchEntry]

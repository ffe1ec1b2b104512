"""Plan which rows each teacher checkpoint supervises, before training begins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from distill_ray.core.schedule import static_plan
from distill_ray.engine.build import first_state, held_out_streams, mixed_rows
from distill_ray.engine.job import TrainingSpec

Checkpoint = tuple[str, int]
"""A teacher and its checkpoint."""
Rows = Mapping[str, Mapping[str, NDArray[np.int64]]]
"""Split → stream → numbers of rows, ascending."""


def rows_needed(spec: TrainingSpec) -> dict[Checkpoint, Rows]:
    """Checkpoint → the rows whose targets a job reads, in the order in which they teach.

    The order of the rows is a pure function, and so is a schedule that reads step numbers alone:
    what each checkpoint will teach is exactly known. Those that validation asks come with them.

    Args:
        spec: with its rows on this machine; without a plateau schedule or a reassessment.
    """
    assert spec.teaching is not None
    by_step = static_plan(*first_state(spec.teaching, spec.steps))
    steps: dict[Checkpoint, list[int]] = defaultdict(list)
    for step, checkpoint in enumerate(by_step):
        steps[checkpoint].append(step)
    source = mixed_rows(spec)
    held_out = {name: np.arange(len(s.rows)) for name, s in held_out_streams(spec).items()}
    measured = dict.fromkeys(_measured(spec, by_step))
    return {
        checkpoint: {
            "train": source.rows_of(steps[checkpoint]) if checkpoint in steps else {},
            "validation": held_out if checkpoint in measured else {},
        }
        for checkpoint in [*steps, *(c for c in measured if c not in steps)]
    }


def _measured(spec: TrainingSpec, by_step: list[Checkpoint]) -> Iterator[Checkpoint]:
    """Checkpoints that serve when held-out rows are measured, and those of the best teacher."""
    teaching = spec.teaching
    assert teaching is not None
    yield by_step[0]
    # A measurement after n steps comes before the switch for step n.
    yield from (by_step[n - 1] for n in range(1, spec.steps + 1) if spec.validation_due(n))
    if teaching.rules.reassessment is not None:
        # Progress counts towards the best of all teachers.
        yield from ((name, len(refs) - 1) for name, refs in teaching.checkpoints.items())

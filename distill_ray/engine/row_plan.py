"""Plan which rows each teacher checkpoint supervises, before training begins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

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
    """List the rows whose targets a run reads, by checkpoint, in the order in which they teach.

    The order of the rows is a pure function, and so is a schedule that reads step numbers alone:
    the rows of each checkpoint are exactly known. Validation rows come with them.

    Args:
        spec: with its rows on this machine; without a plateau schedule or a reassessment.
    """
    assert spec.teaching is not None
    by_step = static_plan(*first_state(spec.teaching, spec.steps))
    steps: dict[Checkpoint, list[int]] = defaultdict(list)
    for step, checkpoint in enumerate(by_step):
        steps[checkpoint].append(step)
    source = mixed_rows(spec)
    held_out = {name: s.rows.numbers for name, s in held_out_streams(spec).items()}
    # Checkpoints that serve at a validation, and those of the best teacher. A validation after n
    # steps comes before the switch for step n.
    measured = [by_step[0]]
    measured += [by_step[n - 1] for n in range(1, spec.steps + 1) if spec.validation_due(n)]
    if spec.teaching.rules.reassessment is not None:
        # Progress counts towards the best of all teachers.
        measured += [(name, len(refs) - 1) for name, refs in spec.teaching.checkpoints.items()]
    return {
        checkpoint: {
            "train": source.rows_of(steps[checkpoint]) if checkpoint in steps else {},
            "validation": held_out if checkpoint in measured else {},
        }
        for checkpoint in [*steps, *(c for c in dict.fromkeys(measured) if c not in steps)]
    }

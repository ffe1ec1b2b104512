"""Steps with a non-finite loss or gradient are skipped, their batches quarantined and counted."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.session import SkippedSteps

log = logging.getLogger(__name__)


class TooManySkippedStepsError(FloatingPointError):
    """Too many steps in a row were skipped: the run, not the data, is at fault."""


def judge(
    skipped: SkippedSteps,
    step: int,
    loss: float,
    norm: float,
    batches: Sequence[Batch],
    sums: Tensor,
) -> bool:
    """Check a step: if it isn't finite, count it and quarantine its batches.

    Args:
        skipped: the count so far.
        step: number of the step, from 1.
        loss, norm: the loss and the gradient's norm, over all ranks.
        batches: this rank's micro-batches.
        sums: [M, terms] this rank's sums of each micro-batch, of terms that have a share in the
            loss.

    Returns:
        Whether the step was skipped.

    Raises:
        TooManySkippedStepsError: the limit of steps in a row is reached.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        skipped.in_a_row = 0
        return False
    skipped.total, skipped.in_a_row = skipped.total + 1, skipped.in_a_row + 1
    # Micro-batches with a bad loss. If no rank has one, only the gradient is bad: all are suspect.
    suspects = (~sums.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if comm.sum_over_ranks(torch.tensor(float(len(suspects)), device=sums.device)) == 0:
        suspects = list(range(len(sums)))
    rows = []
    for micro in suspects:
        batch = batches[micro]
        rows += batch.row_ids
        if skipped.quarantine is not None:
            # The batch as plain values: enough to run it again.
            fields = ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task")
            content = {
                "step": step,
                "loss": str(loss),
                "norm": str(norm),
                "row_ids": list(batch.row_ids),
                **{name: getattr(batch, name).tolist() for name in fields},
            }
            skipped.quarantine(f"step-{step:06d}-rank-{comm.rank()}-micro-{micro}", content)
    what = f"loss {loss}, gradient norm {norm}" + (f", rows {', '.join(rows)}" if rows else "")
    log.warning("step %d left out (%s)", step, what)
    if skipped.in_a_row >= skipped.limit:
        raise TooManySkippedStepsError(
            f"{skipped.in_a_row} steps in a row, the last one step {step}, had a loss or gradient "
            f"that isn't finite ({what})"
        )
    return True

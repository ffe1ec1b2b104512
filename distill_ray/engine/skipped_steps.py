"""Steps with a non-finite loss or gradient are skipped, their batches quarantined and counted."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

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
        loss, norm: over all ranks.
        batches: this rank's micro-batches.
        sums: [M, terms] this rank's sums of each micro-batch, of terms that have a share in the
            loss.

    Raises:
        TooManySkippedStepsError: the limit of steps in a row is reached.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        skipped.in_a_row = 0
        return False
    skipped.total, skipped.in_a_row = skipped.total + 1, skipped.in_a_row + 1
    numbers = {"step": step, "loss": str(loss), "norm": str(norm)}
    rows = [
        row for micro in _suspects(sums) for row in _keep(skipped, numbers, micro, batches[micro])
    ]
    what = f"loss {loss}, gradient norm {norm}" + (f", rows {', '.join(rows)}" if rows else "")
    log.warning("step %d left out (%s)", step, what)
    if skipped.in_a_row >= skipped.limit:
        raise TooManySkippedStepsError(
            f"{skipped.in_a_row} steps in a row, the last one step {step}, had a loss or gradient "
            f"that isn't finite ({what})"
        )
    return True


def _suspects(sums: Tensor) -> list[int]:
    """This rank's micro-batches with a bad loss; all of them if no rank saw one (then only the
    gradient was bad), none if another rank did."""
    suspects = (~sums.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    anywhere = comm.sum_over_ranks(torch.tensor(float(len(suspects)), device=sums.device))
    return suspects if anywhere > 0 else list(range(len(sums)))


def _keep(
    skipped: SkippedSteps, numbers: dict[str, Any], micro: int, batch: Batch
) -> tuple[str, ...]:
    """Quarantine a micro-batch; returns its row ids."""
    if skipped.quarantine is not None:
        name = f"step-{numbers['step']:06d}-rank-{comm.rank()}-micro-{micro}"
        # The batch as plain values: enough to run it again.
        fields = ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task")
        content = {"row_ids": list(batch.row_ids)}
        content |= {field: getattr(batch, field).tolist() for field in fields}
        skipped.quarantine(name, numbers | content)
    return batch.row_ids

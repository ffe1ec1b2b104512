"""Steps whose loss or gradient isn't finite: left out, their batches set aside, counted."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.session import BadSteps

log = logging.getLogger(__name__)


class TooManyBadStepsError(FloatingPointError):
    """Too many steps in a row had to be left out: the run, not the data, is at fault."""


def judge(
    bad: BadSteps,
    step: int,
    loss: float,
    norm: float,
    batches: Sequence[Batch],
    sums: Tensor,
) -> bool:
    """Count a step, set its batches aside if it was bad, and say whether it was.

    Args:
        bad: the count so far.
        step: number of the step, from 1.
        loss, norm: over all ranks.
        batches: this rank's micro-batches.
        sums: [M, 4] this rank's sums of each micro-batch.

    Raises:
        TooManyBadStepsError: the limit of steps in a row is reached.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        bad.in_a_row = 0
        return False
    bad.total, bad.in_a_row = bad.total + 1, bad.in_a_row + 1
    for micro in _suspects(sums):
        name = f"step-{step:06d}-rank-{comm.rank()}-micro-{micro}"
        rows = ", ".join(batches[micro].row_ids)
        log.warning("step %d left out (loss %s, gradient %s): rows %s", step, loss, norm, rows)
        if bad.keep is not None:
            bad.keep(
                name,
                {"step": step, "loss": str(loss), "norm": str(norm)} | _content(batches[micro]),
            )
    if bad.in_a_row >= bad.limit:
        raise TooManyBadStepsError(
            f"{bad.in_a_row} steps in a row, up to step {step}, had a loss or gradient that isn't "
            f"finite (last loss {loss}, gradient norm {norm}): lower the learning rate, or look "
            "at the rows that were set aside"
        )
    return True


def _suspects(sums: Tensor) -> list[int]:
    """This rank's micro-batches with a bad loss; all of them if no rank saw one (then only the
    gradient was bad), none if another rank did."""
    mine = (~sums.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    anywhere = comm.sum_over_ranks(torch.tensor(float(len(mine)), device=sums.device))
    return mine if anywhere > 0 else list(range(len(sums)))


def _content(batch: Batch) -> dict[str, Any]:
    """A batch as plain values: enough to run it again."""
    names = ("input_ids", "position_ids", "gold", "distill", "is_task")
    return {"row_ids": list(batch.row_ids)} | {n: getattr(batch, n).tolist() for n in names}

"""Faster collectives for gloo, from its broadcasts and sends. W ranks, n numbers of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

PIECE = 4_000_000
"""Numbers that are sent at a time: what they are received into is small enough to be used again."""


class WorkGroup:
    """Several pending operations, awaited as one."""

    def __init__(self, works: Sequence[dist.Work | None]) -> None:
        self._works = works

    def wait(self) -> None:
        """Wait until all are done."""
        for work in self._works:
            if work is not None:
                work.wait()


def all_gather(
    output_tensor: Tensor,
    input_tensor: Tensor,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
) -> WorkGroup | None:
    """Gather every rank's part in one tensor, as `torch.distributed.all_gather_into_tensor`.

    Each rank broadcasts its own part. Gloo's own gather fills fresh memory first, and copies: 255
    MB on two ranks take it .23 s, and the broadcasts .07 (docs/results/performance.md).

    Args:
        output_tensor: [W · n], filled.
        input_tensor: [n], this rank's; it may be its place in the output.
        group: the ranks; all of them by default.
        async_op: give something to wait for, rather than wait.
    """
    parts = output_tensor.view(dist.get_world_size(group), -1)
    own_part = parts[dist.get_rank(group)]
    if own_part.data_ptr() != input_tensor.data_ptr():
        own_part.copy_(input_tensor.view(-1))
    sent = [
        dist.broadcast(part, group=group, group_src=rank, async_op=True)
        for rank, part in enumerate(parts)
    ]
    works = WorkGroup(sent)
    if async_op:
        return works
    works.wait()
    return None


def reduce_scatter(
    output_tensor: Tensor,
    input_tensor: Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
) -> dist.Work | None:
    """Compute this rank's part of the sum, as `torch.distributed.reduce_scatter_tensor`.

    Each rank sends every other its part, and adds up its own: own numbers first, then the others'
    by rank. Gloo's own function reduces all parts on all ranks: 113 MB on two ranks take it .14 s,
    and this .04. Gloo's own does whatever isn't a sum, or isn't waited for.

    Args:
        output_tensor: [n], filled; it may be this rank's place in the input.
        input_tensor: [W · n], of which the other places are as they were.
        op: how to reduce.
        group: the ranks; all of them by default.
        async_op: give something to wait for, rather than wait.
    """
    if async_op or op != dist.ReduceOp.SUM:
        work: dist.Work | None = dist.reduce_scatter_tensor(
            output_tensor, input_tensor, op, group, async_op
        )
        return work
    rank, parts = dist.get_rank(group), input_tensor.view(dist.get_world_size(group), -1)
    total, peers = output_tensor.view(-1), [r for r in range(len(parts)) if r != rank]
    if parts[rank].data_ptr() != total.data_ptr():
        total.copy_(parts[rank])
    buffers = [torch.empty_like(total[:PIECE]) for _ in peers]
    for start in range(0, len(total), PIECE):
        piece = slice(start, min(start + PIECE, len(total)))
        received = [buffer[: piece.stop - start] for buffer in buffers]
        sending = [dist.isend(parts[r, piece], group=group, group_dst=r) for r in peers]
        receiving = [dist.irecv(x, group=group, group_src=r) for r, x in zip(peers, received)]
        WorkGroup([*sending, *receiving]).wait()
        for part in received:
            total[piece].add_(part)
    return None

"""DeepSpeed over several processes at the work of one."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
import torch.distributed as dist

from distill_ray.bench.arms.engine import one_step, session_of
from distill_ray.bench.arms.inputs import Pair, batch, load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import StepWork
from distill_ray.config.training import OffloadConfig
from distill_ray.data.batches import Batch
from distill_ray.engine.backends.deepspeed import DeepSpeedBackend
from distill_ray.engine.backends.optim import OptimSpec
from distill_ray.engine.backends.student import Student
from distill_ray.engine.session import Session


class Share:
    """This rank's rows of the benchmark's batches."""

    def __init__(self, work: StepWork, vocabulary: int, rank: int, ranks: int) -> None:
        self._work, self._vocabulary = work, vocabulary
        size = work.rows // ranks
        self._mine = slice(rank * size, (rank + 1) * size)

    def batch(self, step: int, micro: int) -> Batch:
        """Micro-batch `micro` of a step."""
        full_batch = batch(self._work, step, self._vocabulary)
        names = ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task", "row_ids")
        return Batch(**{name: getattr(full_batch, name)[self._mine] for name in names})


def step(turns: ArmClient, *, work: StepWork, zero_stage: int) -> None:
    """Distillation steps of the loop, the batch shared out over the ranks."""
    _join(turns)
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    session = _session(pair, work, turns, zero_stage)
    for _ in turns:
        turns.done([one_step(session)])
    dist.destroy_process_group()


def _join(turns: ArmClient) -> None:
    os.environ.setdefault("LOCAL_RANK", str(turns.rank))
    backend = "nccl" if turns.device.type == "cuda" else "gloo"
    place = f"file://{turns.rendezvous}"
    dist.init_process_group(backend, init_method=place, rank=turns.rank, world_size=turns.ranks)


def _session(pair: Pair, work: StepWork, turns: ArmClient, zero_stage: int) -> Session:
    plain = session_of(pair, work, turns.device, turns.total)
    spec: OptimSpec = plain.optim
    backend = DeepSpeedBackend(
        Student(pair.student, pair.vocabulary),
        spec,
        torch.device(turns.device),
        zero_stage=zero_stage,
        offload=OffloadConfig(),
        precision=work.precision,
        micro_batch_size=work.rows // turns.ranks,
        num_micro=1,
    )
    share = Share(work, pair.vocabulary, turns.rank, turns.ranks)
    return replace(plain, backend=backend, source=share)

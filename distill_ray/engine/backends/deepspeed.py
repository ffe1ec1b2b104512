"""The DeepSpeed backend: ZeRO stages 0-3. The only module that imports deepspeed."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from distill_ray.config.training import OffloadConfig
from distill_ray.core.head_loss import LossTargets
from distill_ray.core.matching import MatchTargets
from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.backends import gloo
from distill_ray.engine.backends.optim import OptimSpec, adamw
from distill_ray.engine.backends.snapshot import Snapshot, forget
from distill_ray.engine.backends.student import Student
from distill_ray.engine.objective import Losses

TESTED = "0.19"
WEIGHTS = "weights"
"""What DeepSpeed calls a checkpoint's tag: its folder."""
CPU_ZERO = {
    "reduce_bucket_size": 8_000_000,
    "reduce_scatter": False,
    "contiguous_gradients": False,
}
"""ZeRO on a CPU. Gloo adds up small pieces fastest, and scatters by adding up everything;
a heap needs no gradients copied into one piece against fragmentation."""

COUNTS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
"""Counters of an engine that a snapshot restores."""


@dataclass(frozen=True)
class ZeroSpec:
    """How DeepSpeed shards a training, and how many rows a step has on each rank."""

    stage: int
    """0 to 3."""
    precision: str
    """`float32` or `bfloat16`."""
    micro_batch_size: int
    num_micro: int
    """Micro-batches of a step on each rank."""
    offload: OffloadConfig = field(default_factory=OffloadConfig)

    def config(self, optim: OptimSpec, device: torch.device) -> dict[str, Any]:
        """Build DeepSpeed's own configuration."""
        zero: dict[str, Any] = {"stage": self.stage, **(CPU_ZERO if device.type == "cpu" else {})}
        if self.offload.optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if self.offload.parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        bfloat16 = self.stage > 0 and self.precision == "bfloat16"
        # Gradients of micro-batches are added up in float32 where that works: with the optimiser
        # offloaded, DeepSpeed keeps a skipped step's float32 sums for the next one.
        sums_in = "bf16" if bfloat16 and self.offload.optimizer else "fp32"
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch_size,
            "gradient_accumulation_steps": self.num_micro,
            "gradient_clipping": optim.max_grad_norm if self.stage else 0.0,
            "zero_optimization": zero,
            # The optimiser is torch's AdamW: DeepSpeed's own compiles a kernel on the first step.
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": bfloat16},
            "data_types": {"grad_accum_dtype": sums_in},
            "wall_clock_breakdown": False,
            "steps_per_print": 10**9,
        }


class DeepSpeedBackend:
    """The student inside a DeepSpeed engine.

    In bfloat16, stages 1 to 3 keep a float32 copy of the weights in their optimiser's shards. Stage
    0 has no shards: its weights are float32, and it computes under autocast, as the plain backend.

    Raises:
        RuntimeError: there is no process group; Ray Train makes one.
    """

    def __init__(
        self, student: Student, optim: OptimSpec, device: torch.device, zero: ZeroSpec
    ) -> None:
        deepspeed = import_deepspeed(device)
        self.device = device
        self._scale = comm.world() * zero.num_micro
        self._optim, self._stage = optim, zero.stage
        self._autocast = zero.stage == 0 and zero.precision == "bfloat16"
        student = student.to(device)
        self._engine, _, _, _ = deepspeed.initialize(
            model=student, optimizer=adamw(student, optim), config=zero.config(optim, device)
        )
        self._zero = deepspeed.zero

    def losses(
        self,
        batch: Batch,
        positions: Tensor,
        targets: LossTargets,
        match_targets: MatchTargets | None = None,
    ) -> Losses:
        """Compute the losses of a batch's supervised predictions [K]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            ids, places = batch.input_ids, batch.position_ids
            return Losses(*self._engine(ids, places, positions, targets, match_targets))

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""
        # DeepSpeed averages over ranks and micro-batches; the loss is a share of a sum.
        self._engine.backward(loss * self._scale)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._clip() if self._stage == 0 else None
        # Stages 1 to 3 see for themselves that a gradient isn't finite, and skip the step.
        self._engine.step()
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    def _clip(self) -> float:
        """Clip for stage 0, which does it without returning the norm, even if that isn't finite."""
        trained = [p for p in self._engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if math.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(trained, self._optim.max_grad_norm, norm)
        else:  # AdamW leaves a parameter without a gradient as it is, its moments too.
            self._engine.module.zero_grad(set_to_none=True)
        return float(norm)

    def forget(self) -> None:
        """Reset the optimiser's moments and step counts."""
        forget(self._torch_optimizer())

    def snapshot(self) -> Snapshot:
        """Copy all that a step changes on this rank to main memory."""
        counts = {name: getattr(self._engine, name) for name in COUNTS}
        # Stage 3 lends its optimiser one copy at a time; its groups are empty between two steps.
        optimizer = self._engine.optimizer
        copies = optimizer.fp32_partitioned_groups_flat if self._stage == 3 else ()
        return Snapshot.of(
            self._engine.module, self._torch_optimizer(), copies, self._engine, counts
        )

    def _torch_optimizer(self) -> Any:
        """The optimiser inside DeepSpeed's; stage 0 has no other."""
        return self._engine.optimizer if self._stage == 0 else self._engine.optimizer.optimizer

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode."""
        self._engine.train(mode)

    def save(self, folder: Path) -> None:
        """Write this rank's shard; shards are named by rank and merge in storage."""
        self._engine.save_checkpoint(str(folder), tag=WEIGHTS)

    def load(self, folder: Path, world: int) -> None:
        """Read what `save` wrote on `world` ranks.

        On another number of ranks, it is converted to DeepSpeed's universal checkpoint (arXiv
        2406.18820), in which each parameter is whole.
        """
        if self._stage == 0 or world == comm.world():
            self._load(folder, WEIGHTS)
            return
        optimizer = self._torch_optimizer()
        with _universal_checkpoint(folder) as converted, _load_repaired(optimizer):
            self._engine._config.load_universal_checkpoint = True
            try:
                self._load(converted, WEIGHTS)
            finally:
                self._engine._config.load_universal_checkpoint = False

    def _load(self, folder: Path, tag: str) -> None:
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if path is None:  # DeepSpeed says so by a None, not by an error.
            raise FileNotFoundError(f"{folder} holds no DeepSpeed checkpoint")

    @contextmanager
    def unsharded(self) -> Iterator[Any]:
        """Gather the student's parameters for the block."""
        model = self._engine.module.model
        if self._stage < 3:
            yield model
            return
        with self._zero.GatheredParameters(list(model.parameters())):
            yield model


@contextmanager
def _universal_checkpoint(folder: Path) -> Iterator[Path]:
    """Convert a checkpoint for any number of ranks; once on each node, and for the block only."""
    converted = Path(tempfile.gettempdir()) / f"distill-ray-{comm.from_rank_zero(uuid4().hex)}"
    arguments = Namespace(
        input_folder=str(folder / WEIGHTS),
        output_folder=str(converted / WEIGHTS),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        if first_here:
            from deepspeed.checkpoint import ds_to_universal

            (converted / WEIGHTS).mkdir(parents=True)
            with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
                ds_to_universal.main(arguments)
        comm.barrier()
        yield converted
        comm.barrier()
    finally:
        if first_here:
            shutil.rmtree(converted, ignore_errors=True)


@contextmanager
def _load_repaired(optimiser: torch.optim.Optimizer) -> Iterator[None]:
    """Repair what stage 3 gets wrong when it loads a universal checkpoint in the block.

    It gives all groups the weight decay of the first one, and all parameters one tensor as their
    number of steps, which each of them would then count.
    """
    options = [{k: v for k, v in g.items() if k != "params"} for g in optimiser.param_groups]
    yield
    for group, before in zip(optimiser.param_groups, options, strict=True):
        group.update(before)
    for state in optimiser.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed so that nothing is compiled at run time, and with its log quiet."""
    if not torch.distributed.is_initialized():
        raise RuntimeError("DeepSpeed needs a process group: run under Ray Train")
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu" and deepspeed.__version__.startswith(TESTED):
        # Without this, the gloo backend builds a shared-memory extension with a compiler.
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if device.type == "cpu":
        # Norms in float32, as the plain backend's: in float64 every gradient is copied first.
        deepspeed.accelerator.get_accelerator().is_fp64_supported = lambda: False
    backend = "gloo" if device.type == "cpu" else "nccl"
    deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(minutes=10), verbose=False)
    if device.type == "cpu":  # It has looked these functions up in torch.
        deepspeed.comm.comm.cdb.all_gather_function = gloo.all_gather
        deepspeed.comm.comm.cdb.reduce_scatter_function = gloo.reduce_scatter
    return deepspeed

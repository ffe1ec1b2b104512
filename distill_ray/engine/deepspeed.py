"""The DeepSpeed backend: ZeRO stages 0-3. The only module that imports deepspeed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_ray.engine import comm
from distill_ray.engine.optim import OptimSpec, adamw

TESTED = "0.19"


class DeepSpeedBackend:
    """The student inside a DeepSpeed engine.

    Raises:
        RuntimeError: no process group is there yet; Ray Train makes one.
    """

    def __init__(
        self,
        module: Any,
        spec: OptimSpec,
        device: torch.device,
        *,
        zero_stage: int,
        precision: str,
        micro_rows: int,
        num_micro: int,
    ) -> None:
        deepspeed = import_deepspeed(device)
        self.device = device
        self._scale = comm.world() * num_micro
        config = _config(spec, zero_stage, precision, micro_rows, num_micro)
        self._engine, _, _, _ = deepspeed.initialize(
            model=module.to(device), optimizer=adamw(module, spec), config=config
        )
        self._zero = deepspeed.zero
        self._stage = zero_stage

    def logits(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """[B, T, V]."""
        output = self._engine(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        return output.logits  # type: ignore[no-any-return]

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
        # In float32, stage 0 clips without telling the norm; its gradients are whole here.
        before = self._whole_norm() if self._stage == 0 else float("nan")
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return before if norm is None else float(norm)

    def _whole_norm(self) -> float:
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""
        self._engine.train(mode)

    def save(self, folder: Path) -> None:
        """Write this rank's shard; shards are named by rank and merge in storage."""
        self._engine.save_checkpoint(str(folder), tag="weights")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        path, _ = self._engine.load_checkpoint(str(folder), tag="weights")
        if path is None:  # DeepSpeed says so by a None, not by an error.
            raise FileNotFoundError(f"{folder} holds no DeepSpeed checkpoint")

    @contextmanager
    def whole(self) -> Iterator[Any]:
        """The student with whole parameters; sharded ones are gathered meanwhile."""
        model = self._engine.module
        if self._stage < 3:
            yield model
            return
        with self._zero.GatheredParameters(list(model.parameters())):
            yield model


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
    backend = "gloo" if device.type == "cpu" else "nccl"
    deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(minutes=10), verbose=False)
    return deepspeed


def _config(
    spec: OptimSpec, zero_stage: int, precision: str, micro_rows: int, num_micro: int
) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": num_micro,
        "gradient_clipping": spec.clip,
        "zero_optimization": {"stage": zero_stage},
        # Ours is torch's AdamW: DeepSpeed's own would compile a kernel on the first step.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bfloat16"},
        "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }

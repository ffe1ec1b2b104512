"""How a loaded model computes: precision, attention kernels, compilation, checkpointing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from distill_ray.models.causal import bare


@dataclass(frozen=True)
class Execution:
    """Settings that don't change a model's outputs, beyond rounding."""

    precision: str = "float32"
    """`float32` or `bfloat16`."""
    attention: str = "sdpa"
    """An attention implementation of transformers."""
    compiled: bool = False
    """`torch.compile` the backbone."""

    def prepare(self, model: Any) -> Any:
        """Apply the settings to a loaded model; return it.

        Raises:
            ValueError, ImportError: transformers doesn't have this attention for this model.
        """
        inner = bare(model)
        inner.set_attn_implementation(self.attention)
        if self.compiled:
            backbone = inner.base_model
            # Numbers of supervised tokens vary in the head only, so the backbone has few shapes.
            backbone.forward = torch.compile(backbone.forward, dynamic=True)
        return model


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in the backward pass, layer by layer (arXiv 1604.06174)."""
    bare(model).gradient_checkpointing_enable({"use_reentrant": False})

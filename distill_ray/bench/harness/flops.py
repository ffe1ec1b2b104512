"""Model FLOPs of a training step, and what a device could do at best. Imports no torch.

A multiplication and an addition count as two. Recomputation does not count, so that utilisation
tells how much of the device went into the model (Chowdhery et al. 2022, arXiv 2204.02311, app. B).
"""

from __future__ import annotations

from dataclasses import dataclass

BF16_PEAK = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Part of a device's name → dense bfloat16 FLOP/s, by the vendor's data sheet."""


@dataclass(frozen=True)
class Decoder:
    """A transformer, as far as its FLOPs go."""

    weights: int
    """Parameters of all matrix products: embeddings count only where they are the output too."""
    layers: int
    attention: int
    """Heads times their size."""

    def forward(self, rows: int, length: int) -> float:
        """FLOPs of a forward pass; causal attention sees half of the positions."""
        products = 2.0 * self.weights
        attention = 2.0 * self.layers * self.attention * length
        return rows * length * (products + attention)


def distillation_step(teacher: Decoder, student: Decoder, rows: int, length: int) -> float:
    """FLOPs of a step: one pass of the teacher, three of the student (backward is twice)."""
    return teacher.forward(rows, length) + 3 * student.forward(rows, length)


def peak(device: str) -> float | None:
    """FLOP/s in bfloat16 of the device of that name, if it is known."""
    return next((flops for name, flops in BF16_PEAK.items() if name in device), None)

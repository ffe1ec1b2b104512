"""Model FLOPs of a training step, and a device's peak FLOP/s. Imports no torch.

A multiplication and an addition count as two. Recomputation does not count, so that utilisation
is the share of the device that went into the model (Chowdhery et al. 2022, arXiv 2204.02311,
app. B).
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
    """A transformer's sizes, as far as they decide its FLOPs."""

    weights: int
    """Parameters in matrix products; embeddings count only where the output layer shares them."""
    layers: int
    attention: int
    """Number of heads times their size."""

    def forward(self, rows: int, length: int) -> float:
        """Count the FLOPs of a forward pass; causal attention covers half of the positions."""
        products = 2.0 * self.weights
        attention = 2.0 * self.layers * self.attention * length
        return rows * length * (products + attention)


def distillation_step(teacher: Decoder, student: Decoder, rows: int, length: int) -> float:
    """Count a step's FLOPs: one pass of the teacher, three of the student (backward is two)."""
    return teacher.forward(rows, length) + 3 * student.forward(rows, length)


def peak(device: str) -> float | None:
    """Look up the bfloat16 FLOP/s of a device by its name; None where it is unknown."""
    return next((flops for name, flops in BF16_PEAK.items() if name in device), None)

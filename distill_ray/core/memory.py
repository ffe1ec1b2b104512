"""How much memory a training worker needs, before any is taken. All sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
RUNTIME = int(0.75 * GIB)
"""Python with torch, transformers, DeepSpeed and Ray, measured on Linux without an accelerator."""


@dataclass(frozen=True)
class Sizes:
    """A transformer, as far as memory goes."""

    parameters: int
    hidden: int
    layers: int
    vocabulary: int


@dataclass(frozen=True)
class Need:
    """One worker's memory by use."""

    parameters: int
    gradients: int
    optimiser: int
    activations: int
    logits: int
    teacher: int
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.parameters
            + self.gradients
            + self.optimiser
            + self.activations
            + self.logits
            + self.teacher
            + self.runtime
        )


def training_need(
    student: Sizes,
    *,
    rows: int,
    length: int,
    workers: int,
    zero_stage: int,
    width: int,
    trained: float = 1.0,
    teacher: Sizes | None = None,
) -> Need:
    """Memory of one worker that trains with AdamW.

    Weights, gradients and optimiser states follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054):
    stage 1 shards the states, 2 the gradients too, 3 the weights too. Activations follow
    Korthikanti et al. 2022 (arXiv 2205.05198, eq. 2) without its attention matrix, which SDPA
    doesn't keep: 34 bytes a token, layer and hidden unit at 2 bytes a number.

    Args:
        student: the trained model.
        rows: rows of one forward pass.
        length: tokens of a row.
        workers: data-parallel workers.
        zero_stage: 0 to 3.
        width: bytes of a number, 2 or 4.
        trained: share of the parameters that is trained (adapters train few).
        teacher: the frozen model beside it.
    """
    count, tokens = student.parameters, rows * length

    def shared(size: float, from_stage: int) -> int:
        return int(size / workers if zero_stage >= from_stage else size)

    # Two moments in float32, and a float32 copy of the weights when those are narrower.
    state = (8 + (4 if width == 2 else 0)) * trained * count
    logits = tokens * student.vocabulary * (width + 2 * 4)  # output, log-softmax, gradient
    beside = 0
    if teacher is not None:
        beside = teacher.parameters * width
        logits += tokens * teacher.vocabulary * (width + 4)
    return Need(
        parameters=shared(count * width, 3),
        gradients=shared(trained * count * width, 2),
        optimiser=shared(state, 1),
        activations=int(17 * width * tokens * student.hidden * student.layers),
        logits=logits,
        teacher=beside,
    )

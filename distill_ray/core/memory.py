"""Estimates of a worker's memory before it starts. All sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
RUNTIME = int(0.75 * GIB)
"""Python with torch, transformers, DeepSpeed and Ray, measured on Linux without an accelerator."""


CHUNK_BYTES = {"cpu": 33 * 2**20, "cuda": 2**28}
"""Size of one [n, V] float32 matrix of the loss, by device; 33 MiB: 176 rows of 49152 ids."""
CHUNKS = {"cpu": 2, "cuda": 5}
"""Number of such matrices that exist at a time: a CPU goes through two in small blocks."""
MIXING = {"cpu": 1, "cuda": 2}
"""Number of such matrices that a mixture of several teachers adds."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a transformer that determine its memory."""

    parameters: int
    hidden: int
    layers: int
    vocabulary: int


@dataclass(frozen=True)
class MemoryEstimate:
    """One worker's memory by use."""

    parameters: int
    gradients: int
    optimiser: int
    activations: int
    loss: int
    """Chunks of logits, and the gradient of the output weights."""
    teacher: int
    snapshot: int = 0
    """The student as it was, while probes from it run: copies in the main memory."""
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        """Sum of all uses."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class _Held:
    """What one worker holds of a student that AdamW trains."""

    weights: int
    gradients: int
    states: int
    """AdamW's moments, and the float32 weights that the optimiser's shards work on."""

    @classmethod
    def of(
        cls, parameters: int, trained: float, bytes_per_param: int, zero_stage: int, workers: int
    ) -> _Held:
        """Divide over the workers what ZeRO's stage shards."""

        def shared(size: float, from_stage: int) -> int:
            return int(size / workers if zero_stage >= from_stage else size)

        moves = trained * parameters
        if zero_stage == 0:  # Weights in float32, and autocast's narrow copies of them.
            cast = bytes_per_param * moves if bytes_per_param < 4 else 0.0
            return cls(int(4 * parameters + cast), int(4 * moves), int(8 * moves))
        return cls(
            shared(bytes_per_param * parameters, 3),
            shared(bytes_per_param * moves, 2),
            shared((8 + 4) * moves, 1),
        )


@dataclass(frozen=True)
class TrainingSetup:
    """What determines a training worker's memory, beside the student."""

    rows: int
    """Rows of one forward pass."""
    length: int
    """Tokens of a row."""
    workers: int
    """Data-parallel workers."""
    zero_stage: int
    """0 to 3."""
    bytes_per_param: int
    """2 for bfloat16, 4 for float32."""
    trained: float = 1.0
    """Share of the parameters that is trained; adapters train few."""
    teacher: ModelShape | None = None
    """The frozen model beside the student, or all of them together."""
    mixed: bool = False
    """Whether several teachers teach at once."""
    probing: bool = False
    """Whether the schedule runs probe steps that are undone afterwards."""
    checkpointing: bool = False
    """Whether activations are recomputed in the backward pass."""
    offload: tuple[bool, bool] = (False, False)
    """Whether (optimiser states, weights) are offloaded."""
    device: str = "cpu"
    """`cpu` or `cuda`."""


def training_need(student: ModelShape, setup: TrainingSetup) -> MemoryEstimate:
    """Estimate the memory of one worker that trains with AdamW.

    Weights, gradients and optimiser states follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054):
    stage 1 shards the states, 2 the gradients too, 3 the weights too. Stages 1 to 3 keep a float32
    copy of the trained weights with the states, in float32 too; stage 0 has float32 weights and
    gradients, and autocast's narrow copies. Activations follow Korthikanti et al. 2022 (arXiv
    2205.05198, eq. 2) without its attention matrix, which SDPA doesn't keep: 34 bytes a token,
    layer and hidden unit at 2 bytes a number; with checkpointing, each layer's input and one
    layer's activations. Logits exist a chunk at a time.

    Args:
        student: the trained model.
        setup: how it is trained.
    """
    held = _Held.of(
        student.parameters, setup.trained, setup.bytes_per_param, setup.zero_stage, setup.workers
    )
    matrix = min(4 * setup.rows * setup.length * student.vocabulary, CHUNK_BYTES[setup.device])
    chunks = CHUNKS[setup.device] + (MIXING[setup.device] if setup.mixed else 0)
    inputs_of_layer = setup.bytes_per_param * setup.rows * setup.length * student.hidden
    activations = 17 * inputs_of_layer * student.layers
    if setup.checkpointing:
        activations = 17 * inputs_of_layer + inputs_of_layer * student.layers
    snapshot = 0
    if setup.probing and setup.device == "cpu":
        # On a GPU it isn't in the memory that training takes.
        snapshot = snapshot_bytes(
            int(setup.trained * student.parameters),
            workers=setup.workers,
            zero_stage=setup.zero_stage,
            bytes_per_param=setup.bytes_per_param,
        )
    return MemoryEstimate(
        parameters=0 if setup.offload[1] else held.weights,
        gradients=held.gradients,
        optimiser=0 if setup.offload[0] else held.states,
        activations=activations,
        loss=chunks * matrix + 4 * student.vocabulary * student.hidden,
        teacher=0 if setup.teacher is None else setup.teacher.parameters * setup.bytes_per_param,
        snapshot=snapshot,
    )


def snapshot_bytes(trained: int, *, workers: int, zero_stage: int, bytes_per_param: int) -> int:
    """Estimate a copy of one worker's trained weights and their optimiser's states.

    Args:
        trained: number of trained parameters.
        workers: data-parallel workers.
        zero_stage: 0 to 3; at 3 DeepSpeed keeps small weights whole, which this leaves out.
        bytes_per_param: 2 for bfloat16, 4 for float32; stage 0 has float32 weights.
    """
    held = _Held.of(trained, 1.0, 4 if zero_stage == 0 else bytes_per_param, zero_stage, workers)
    return held.weights + held.states


def serving_need(
    teacher: ModelShape,
    *,
    rows: int,
    length: int,
    bytes_per_param: int,
    is_sparse: bool,
    device: str = "cpu",
) -> MemoryEstimate:
    """Estimate the memory of a process that only answers for a teacher.

    One layer's activations exist at a time.

    Args:
        teacher: the frozen model.
        rows: rows of one forward pass.
        length: tokens of a row.
        bytes_per_param: 2 for bfloat16, 4 for float32.
        is_sparse: whether it makes logits, for sparse targets.
        device: `cpu` or `cuda`.
    """
    tokens = rows * length
    matrix = min(4 * tokens * teacher.vocabulary, CHUNK_BYTES[device])
    return MemoryEstimate(
        parameters=0,
        gradients=0,
        optimiser=0,
        activations=17 * bytes_per_param * tokens * teacher.hidden,
        loss=CHUNKS[device] * matrix if is_sparse else 0,
        teacher=teacher.parameters * bytes_per_param,
    )


TARGET_ENTRY_BYTES, TARGET_TOKEN_BYTES = 2.9, 12
"""What sparse targets take on disk, for each entry and beside them: 198 bytes a token at k = 64.
An upper estimate: `core.sparse` comes to near 165 for a trained teacher, and to this for one whose
likeliest ids have nothing in common, in vocabularies of 320 to 128256."""


def targets_bytes(tokens: int, k: int) -> int:
    """Estimate the disk that sparse targets of k entries, or draws, take at most."""
    return int(tokens * (TARGET_ENTRY_BYTES * k + TARGET_TOKEN_BYTES))

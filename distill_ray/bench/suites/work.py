"""The work that arms are compared on, as plain data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.models.ref import ModelRef


@dataclass(frozen=True)
class StepWork:
    """Optimiser steps of a distillation; the loss is the forward KL at temperature 1.

    AdamW with the betas (0.9, 0.95), weight decay 0.01 on matrices, clipping at norm 1, and a
    constant learning rate. The teacher's weights have the precision; the student's are float32,
    and bfloat16 means autocast for the student.
    """

    teacher: ModelRef
    student: ModelRef
    rows: int = 4
    length: int = 256
    """Tokens of a row; the teacher supervises all predictions but the last token's."""
    precision: str = "float32"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens in a step."""
        return self.rows * self.length


@dataclass(frozen=True)
class SamplesWork:
    """Optimiser steps on short samples of unequal lengths, running text of random ids."""

    step: StepWork
    """Models and precision; `rows` and `length` are of a packed micro-batch."""
    samples: int = 32
    """Samples of a step."""
    batch: int = 16
    """Samples of a padded micro-batch."""
    shortest: int = 20
    longest: int = 200
    """Bounds of the length in tokens; lengths are log-uniform between them."""
    group: int = 8
    """Samples of a micro-batch that is grouped by length."""


@dataclass(frozen=True)
class LossWork:
    """The loss alone, from hidden states and output matrices, with its gradients."""

    vocabulary: int = 49152
    tokens: int = 2048
    hidden: int = 576
    """Hidden size of student and teacher."""
    precision: str = "float32"
    seed: int = 0


@dataclass(frozen=True)
class ShardWork:
    """JSON Lines to read, free of exact duplicates, split, tokenize, pack and write as Parquet."""

    files: tuple[str, ...]
    """JSON Lines with a `text` in every row."""
    size_bytes: int
    """Of all files together."""
    tokenizer: str
    """Folder of a fast tokenizer."""
    length: int = 1024
    """Tokens of a packed row; longer texts are cut."""
    validation: float = 0.05
    test: float = 0.05
    """Shares of the splits, by the hash of a row's content key."""
    processes: int = 2
    """CPUs of Ray, or `num_proc`; all processes of an arm share as many cores."""


@dataclass(frozen=True)
class Preset:
    """Models of a known shape with random weights, and how many rows each step has."""

    teacher: dict[str, Any]
    student_layers: int
    rows: int
    length: int

    def step(self, precision: str) -> StepWork:
        """Build the step benchmark's work on these models."""
        student = {**self.teacher, "num_hidden_layers": self.student_layers}
        return StepWork(
            ModelRef("init", init=self.teacher, seed=0),
            ModelRef("init", init=student, seed=1),
            self.rows,
            self.length,
            precision,
        )


SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
LLAMA_1B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
TINY: dict[str, Any] = {
    **SMOLLM2_135M,
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
PRESETS = {
    "smollm2-135m": Preset(SMOLLM2_135M, student_layers=10, rows=4, length=256),
    "llama-1b": Preset(LLAMA_1B, student_layers=16, rows=32, length=1024),
    "small": Preset(TINY, student_layers=1, rows=2, length=16),
}
"""Name → preset. The first two have the shapes of published models; `small` is for tests."""

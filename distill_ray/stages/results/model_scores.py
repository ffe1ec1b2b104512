"""One model's answers to held-out questions and its losses on held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distill_ray.data.examples import up_to
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.stages.results.record import Record

MODEL_SCORES = "model_scores.json"


class RowLosses(Record):
    """A model's losses on a stream's packed rows. R rows, the same for every model."""

    nll: list[float]
    """[R] sum of the token NLL of each row, nats."""
    tokens: list[int]
    """[R] supervised tokens of each row."""


class TextScores(Record):
    """What a model makes of held-out rows, and what it costs to run."""

    rows: dict[str, RowLosses]
    """Stream → losses of its rows."""
    text: dict[str, float]
    """Corpus → mean token NLL, nats."""
    full_ece: dict[str, float | None]
    """Stream → token-level calibration error over the whole vocabulary."""
    divergence: dict[str, float]
    """`text.kl`, `task.kl`: mean KL(teacher ‖ this model); empty without a teacher."""
    parameters: int
    bytes: int
    """Bytes of the weights in memory."""
    context: int | None
    """Tokens that the model can read, if its config says."""
    seconds_per_token: float | None
    """Seconds of a forward pass; None without text."""
    peak_bytes: int | None
    """Most memory in use on the device; None on a CPU."""


class ScoresRecord(TextScores):
    """`model_scores.json`: everything that a model's metrics are computed from.

    Maps have question sets as keys. n questions, K options.
    """

    options: dict[str, list[list[float]]]
    """[n, K] log-likelihood of each option."""
    generated: dict[str, list[list[int]]]
    """Token ids of the model's own answers to the first questions, with the end if it came."""
    prior: dict[str, list[float]]
    """[K] log-likelihood of each option after the prompt without a text."""
    answer_index: dict[str, list[int]]
    """[n] index of the right option."""
    groups: dict[str, list[str]]
    """[n] questions of one group are resampled together."""
    lengths: dict[str, list[int]]
    """[K] tokens of each option."""
    answers: dict[str, list[list[int]]]
    """[K] token ids of each option, without an end."""
    end: dict[str, int | None]
    """Token that ends an answer; None where nothing does."""


@dataclass(frozen=True)
class Capacity:
    """What serving a model takes."""

    bytes: int
    context: int | None
    seconds_per_token: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class ModelScores:
    """One model's answers: what every metric is computed from. n questions, K options."""

    artifact: Artifact

    def scores(self, question_set: str) -> NDArray[np.float64]:
        """[n, K] log-likelihood of each option."""
        return np.asarray(self.record.options[question_set], dtype=np.float64)

    def lengths(self, question_set: str) -> NDArray[np.int64]:
        """[K] tokens of each option."""
        return np.asarray(self.record.lengths[question_set], dtype=np.int64)

    def prior(self, question_set: str) -> NDArray[np.float64]:
        """[K] log-likelihood of each option after the prompt without a text."""
        return np.asarray(self.record.prior[question_set], dtype=np.float64)

    def answer_index(self, question_set: str) -> NDArray[np.int64]:
        """[n] index of the right option."""
        return np.asarray(self.record.answer_index[question_set], dtype=np.int64)

    def groups(self, question_set: str) -> list[str]:
        """[n] the group of each question."""
        return self.record.groups[question_set]

    def generated(self, question_set: str) -> list[list[int]]:
        """Token ids of the model's own answers to the first questions, with the end if it came."""
        return self.record.generated[question_set]

    def generated_index(self, question_set: str) -> NDArray[np.int64]:
        """Which option each generated answer is, -1 where it is none of them or never ended."""
        end = self.record.end[question_set]
        option_of = {tuple(ids): k for k, ids in enumerate(self.record.answers[question_set])}
        indices = [
            option_of.get(tuple(up_to(ids, end)), -1) if end in ids else -1
            for ids in self.generated(question_set)
        ]
        return np.asarray(indices, dtype=np.int64)

    @property
    def sets(self) -> list[str]:
        """Question sets that have questions."""
        return [name for name, indices in self.record.answer_index.items() if indices]

    @property
    def text(self) -> dict[str, float]:
        """Corpus → mean token NLL, nats."""
        return self.record.text

    def row_losses(self, stream: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of token NLL of each packed row, and its supervised tokens."""
        rows = self.record.rows[stream]
        return np.asarray(rows.nll, dtype=np.float64), np.asarray(rows.tokens, dtype=np.float64)

    @property
    def full_ece(self) -> dict[str, float | None]:
        """Stream → token-level calibration error over the whole vocabulary."""
        return self.record.full_ece

    @property
    def divergence(self) -> dict[str, float]:
        """`text.kl`, `task.kl`: mean KL(teacher ‖ this model), if a teacher was given."""
        return self.record.divergence

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return self.record.parameters

    @property
    def capacity(self) -> Capacity:
        """What serving the model takes."""
        record = self.record
        return Capacity(record.bytes, record.context, record.seconds_per_token, record.peak_bytes)

    @cached_property
    def record(self) -> ScoresRecord:
        """The file, read once."""
        return ScoresRecord.read(self.artifact, MODEL_SCORES)


@dataclass(frozen=True)
class ModelToScore:
    """A model to be scored."""

    name: str
    ref: ModelRef
    fingerprint: str
    """Identity of its weights."""
    teacher: ModelRef | None = None
    """KL from this one is measured as well."""
    teacher_fingerprint: str = ""


@dataclass(frozen=True)
class ScoringResult:
    """Scores of some models, and those that have none."""

    scores: dict[str, ModelScores]
    """Model → its scores; models of equal weights share an artifact."""
    failed: dict[str, str]
    """Model that couldn't be scored → why, in a line."""

    def require(self, *names: str) -> None:
        """Insist on some models.

        Raises:
            RuntimeError: one of them couldn't be scored.
        """
        for name in names:
            if name in self.failed:
                raise RuntimeError(f"{name} can't be scored: {self.failed[name]}")

"""One model's answers to held-out questions and its losses on held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.data.examples import up_to
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact


@dataclass(frozen=True)
class ModelScores:
    """One model's answers: what every metric is computed from. n questions, K options."""

    artifact: Artifact

    def scores(self, question_set: str) -> NDArray[np.float64]:
        """[n, K] log-likelihood of each option."""
        return np.asarray(self._data["options"][question_set], dtype=np.float64)

    def lengths(self, question_set: str) -> NDArray[np.int64]:
        """[K] tokens of each option."""
        return np.asarray(self._data["lengths"][question_set], dtype=np.int64)

    def prior(self, question_set: str) -> NDArray[np.float64]:
        """[K] log-likelihood of each option after the prompt without a text."""
        return np.asarray(self._data["prior"][question_set], dtype=np.float64)

    def gold(self, question_set: str) -> NDArray[np.int64]:
        """[n] index of the right option."""
        return np.asarray(self._data["gold"][question_set], dtype=np.int64)

    def groups(self, question_set: str) -> list[str]:
        """[n] the group of each question."""
        return list(self._data["groups"][question_set])

    def generated(self, question_set: str) -> list[list[int]]:
        """Token ids of the model's own answers to the first questions, with the end if it came."""
        return [list(ids) for ids in self._data["generated"][question_set]]

    def written(self, question_set: str) -> NDArray[np.int64]:
        """Which option each generated answer is, -1 where it is none of them or never ended."""
        options, end = self._data["answers"][question_set], self._data["end"][question_set]
        places = {tuple(option): k for k, option in enumerate(options)}
        found = [
            places.get(tuple(up_to(ids, end)), -1) if end in ids else -1
            for ids in self.generated(question_set)
        ]
        return np.asarray(found, dtype=np.int64)

    @property
    def sets(self) -> list[str]:
        """Question sets that have questions."""
        return [name for name, gold in self._data["gold"].items() if gold]

    @property
    def text(self) -> dict[str, float]:
        """Corpus → mean token NLL, nats."""
        return dict(self._data["text"])

    def row_losses(self, stream: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of token NLL of each packed row, and its supervised tokens; rows as in any sheet."""
        rows = self._data["rows"][stream]
        return np.asarray(rows["nll"], dtype=np.float64), np.asarray(rows["tokens"], np.float64)

    @property
    def full_ece(self) -> dict[str, float]:
        """Stream → token-level calibration error over the whole vocabulary."""
        return dict(self._data["full_ece"])

    @property
    def divergence(self) -> dict[str, float]:
        """`text.kl`, `task.kl`: mean KL(teacher ‖ this model), if a teacher was given."""
        return dict(self._data["divergence"])

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return int(self._data["parameters"])

    @property
    def capacity(self) -> dict[str, Any]:
        """`bytes`, `context`, `seconds_per_token` of a forward pass, `peak_bytes` on a device."""
        names = ("bytes", "context", "seconds_per_token", "peak_bytes")
        return {name: self._data[name] for name in names}

    @cached_property
    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("sheet.json"))


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
    """What came of scoring some subjects."""

    sheets: dict[str, ModelScores]
    """Subject → its sheet; subjects of equal weights share one."""
    failed: dict[str, str]
    """Subject that couldn't be scored → why, in a line."""

    def require(self, *names: str) -> None:
        """Insist on some subjects.

        Raises:
            RuntimeError: one of them couldn't be scored.
        """
        for name in names:
            if name in self.failed:
                raise RuntimeError(f"{name} can't be scored: {self.failed[name]}")

"""Which questions the student does better, and which another model: SFS and TFS of a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.core.weighting import sides
from distill_ray.data.examples import Questions

Floats = NDArray[np.float64]
WIDEST = 3
"""Questions that are shown of each side."""


def sides_of(student: Floats, other: Floats) -> dict[str, float]:
    """As `core.weighting.Sides`.

    Args:
        student: [n] NLL of the right option, nats.
        other: [n] the other model's.
    """
    return asdict(sides(student, other))


def widest(
    asked: Questions, texts: Mapping[str, str], student: Floats, other: Floats
) -> dict[str, list[dict[str, Any]]]:
    """The questions on which each side is farthest ahead: `student` and `teacher` → rows.

    Args:
        asked: the questions, in the order of the losses.
        texts: row id → what is asked about.
        student: [n] NLL of the right option, nats.
        other: [n] the teacher's.

    Returns:
        Each row with `row_id`, `text`, `answer`, and the NLL of `student` and `teacher`.
    """
    apart = other - student
    order = np.argsort(-apart, kind="stable")
    ahead = {"student": order[:WIDEST], "teacher": order[::-1][:WIDEST]}

    def rows(places: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {
                "row_id": asked.row_ids[i],
                "text": texts[asked.row_ids[i]],
                "answer": asked.labels[asked.gold[i]],
                "student": float(student[i]),
                "teacher": float(other[i]),
            }
            for i in places
        ]

    kept = {"student": [i for i in ahead["student"] if apart[i] > 0]}
    kept["teacher"] = [i for i in ahead["teacher"] if apart[i] < 0]
    return {side: rows([int(i) for i in places]) for side, places in kept.items()}

"""A part of a model's questions: its scores, and how many of them it answers freely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch

from distill_ray.data.examples import Questions
from distill_ray.engine.job import DataSpec
from distill_ray.models.load import load_frozen
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.scoring.parts import QuestionRange, ScoringInputs, score_part


def questions(name: str, count: int, seed: int) -> Questions:
    rng = np.random.default_rng(seed)
    return Questions(
        name=name,
        row_ids=[f"{name}{i}" for i in range(count)],
        prompts=[rng.integers(1, tiny.VOCAB, size=4).tolist() for _ in range(count)],
        options=[[2], [3, 4]],
        labels=["no", "yes"],
        answer_index=[i % 2 for i in range(count)],
        groups=[f"g{i}" for i in range(count)],
        empty=[1],
        end=0,
    )


@pytest.mark.parametrize(
    ("part", "generated"),
    [
        # The first 3 questions of each set are answered freely, whichever part they are in.
        (QuestionRange(1, 5), {"a": 2, "b": 0}),
        (QuestionRange(2, 8), {"a": 1, "b": 2}),
        (QuestionRange(4, 6), {"a": 0, "b": 0}),
        (QuestionRange(8, 10), {"a": 0, "b": 1}),
    ],
)
def test_the_parts_of_a_set_share_its_generated_answers(
    tmp_path: Path, part: QuestionRange, generated: dict[str, int]
) -> None:
    asked = [questions("a", 6, 0), questions("b", 5, 1)]
    shards = Artifact(Storage(str(tmp_path)), "shard", "", {})
    data = DataSpec(tmp_path, tmp_path, {}, 16, 0, 4)
    scoring = ScoringInputs(asked, shards, "test", data, 3, "cpu")
    model = load_frozen(tiny.ref(0, num_hidden_layers=1), device=torch.device("cpu"))
    found = score_part(model, None, scoring, part)
    assert {name: len(answers) for name, answers in found.generated.items()} == generated
    sizes = {name: len(scores) for name, scores in found.options.items()}
    assert sum(sizes.values()) == part.stop - part.start

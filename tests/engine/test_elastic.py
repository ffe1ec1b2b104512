"""Two workers, then one, then two again: the steps of a run that wasn't disturbed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
from gloo_ranks import together, train_part
from pyarrow.parquet import read_table

from distill_ray.config.training import LoraConfig
from distill_ray.engine import checkpoint
from distill_ray.engine.job import DataSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 9
PARTS = ((2, 3), (1, 6), (2, 9))
"""Workers, and the step that they stop after."""
# Beyond DeepSpeed's threshold for parameters that stage 3 keeps whole, 100 000 numbers.
STUDENT = tiny.ref(0, vocab_size=3400, intermediate_size=3200, num_hidden_layers=1)


@dataclass(frozen=True)
class Case:
    """A stage of ZeRO and what goes with it, and what the loss may differ by, relative."""

    stage: int
    changes: dict[str, Any] = field(default_factory=dict)
    lora: LoraConfig | None = None
    loss: float = 1e-5
    weight: float = 1e-4


BF16 = {"precision": "bfloat16"}
CASES = {
    **{f"stage {stage}": Case(stage) for stage in range(4)},
    **{f"lora, stage {stage}": Case(stage, lora=LoraConfig(rank=4)) for stage in (1, 3)},
    **{f"bf16, stage {stage}": Case(stage, BF16, loss=2e-3, weight=2e-2) for stage in (1, 3)},
}


def row_ids(data: DataSpec, stream: str) -> list[str]:
    return read_table(data.folder / "packed" / stream / "train")["row_id"].to_pylist()


@pytest.mark.parametrize("name", CASES)
def test_more_or_fewer_workers_go_on_with_the_same_steps(builder, tmp_path: Path, name) -> None:
    case = CASES[name]
    work = builder.job(
        steps=STEPS, micro_batch_size=2, zero_stage=case.stage, student=STUDENT, **case.changes
    )
    work = replace(work, backend="deepspeed", lora=case.lora)
    straight = together(2, tmp_path / "straight", train_part, work, None, STEPS, None)
    losses, rows, start, parts = [], Counter[str](), None, []
    for world, until in PARTS:
        end = tmp_path / f"after-{until}"
        parts = together(world, tmp_path / f"part-{until}", train_part, work, start, until, end)
        assert json.loads((end / checkpoint.STATE).read_text())["world_size"] == world
        losses += parts[0]["loss"]
        rows.update(row for part in parts for row in part["rows"])
        start = end
    np.testing.assert_allclose(losses, straight[0]["loss"], rtol=case.loss)
    assert rows == Counter(row for rank in straight for row in rank["rows"])
    assert sum(rows.values()) == STEPS * work.training.global_batch_size
    for stream in work.training.mix:
        seen = [rows[row] for row in row_ids(work.data, stream)]
        rounds = sum(seen) / len(seen)
        assert set(seen) <= {floor(rounds), ceil(rounds)}, "each row once an epoch"
    assert all(rows[row] for row in row_ids(work.data, "notes")), "a whole epoch, and more"
    for key, weight in straight[0]["weights"].items():
        np.testing.assert_allclose(parts[0]["weights"][key], weight, atol=case.weight, err_msg=key)
    assert parts[0]["moments"] == (
        straight[0]["moments"][0], pytest.approx(straight[0]["moments"][1], rel=0.05)
    )  # fmt: skip

"""Where the teacher's memory is, told before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, training

from distill_ray.config import RunConfig
from distill_ray.stages.preflight.check import find_problems
from distill_ray.stages.preflight.plan import Plan, Work, plan


def planned(folder: Path, **serving: Any) -> Plan:
    return plan(configured(folder, **serving))


def configured(folder: Path, **serving: Any) -> RunConfig:
    mix = {"organ.labelled": 1, "organ.prompts": 2, "findings": 1}
    distill = training(mix=mix, serving=serving or {"kind": "colocated"})
    return RunConfig.model_validate(config(folder, distill=distill))


def distilling(made: Plan) -> list[Work]:
    return [work for work in made.work if work.stage == "distill"]


@pytest.mark.parametrize("targets", [{"kind": "hidden"}, {"kind": "top_k", "k": 8}])
def test_a_pool_takes_the_teacher_s_memory_from_the_worker(
    tmp_path: Path, targets: dict[str, Any]
) -> None:
    student, control = distilling(planned(tmp_path))
    pool, pooled, same = distilling(planned(tmp_path, kind="pool", num_actors=3, targets=targets))
    assert pool.what == f"teacher pool: 3 actors beside the workers, {targets['kind']} targets"
    assert student.need and pool.need and pooled.need
    assert pool.need.teacher == student.need.teacher
    # Exact answers need the output weights, of 320 ids and width 48; sparse ones nothing.
    assert pooled.need.teacher == (4 * 320 * 48 if targets["kind"] == "hidden" else 0)
    assert (pool.need.loss > 0) == (targets["kind"] == "top_k"), "who makes logits"
    assert same == control


def test_workers_that_share_a_teacher_hold_its_output_weights_and_a_part_of_the_rest(
    tmp_path: Path,
) -> None:
    (whole, _), (part, _) = (
        distilling(planned(tmp_path, kind="colocated", shard=shard)) for shard in (False, True)
    )
    assert whole.need and part.need
    head = 4 * 320 * 48
    assert part.need.teacher == head + (whole.need.teacher - head) // 2


def test_workers_and_actors_share_the_machine_s_memory(tmp_path: Path) -> None:
    alone, beside = planned(tmp_path), planned(tmp_path, kind="pool", num_actors=2)
    on_gpus = planned(tmp_path, kind="pool", num_actors=2, gpus_per_actor=1)
    assert alone.available_bytes is not None and beside.available_bytes is not None
    assert beside.available_bytes == pytest.approx(alone.available_bytes / 2, abs=2)
    assert on_gpus.available_bytes == alone.available_bytes


def test_a_pool_that_doesn_t_fit_is_a_problem_of_the_config(tmp_path: Path) -> None:
    found = find_problems(configured(tmp_path, kind="pool", num_actors=5000), "tiny.yaml")
    assert any("5000 actors x 1 CPU" in str(problem) for problem in found)


def test_a_plan_tells_the_tokens_of_each_stream(tmp_path: Path) -> None:
    mix = {"organ.labelled": 1, "organ.prompts": 3}
    mixing = {"changes": [{"at": 0.5, "mix": {"findings": 1, "organ.prompts": 1}}]}
    given = config(tmp_path, distill=training(mix=mix, mixing=mixing))
    student, control = distilling(plan(RunConfig.model_validate(given)))
    # 40 steps of 8 x 64 tokens, half of them with either mix.
    parts = {"findings": 1 / 4, "organ.labelled": 1 / 8, "organ.prompts": 5 / 8}
    assert student.tokens == control.tokens == 20480
    assert student.streams == {name: part * 20480 for name, part in parts.items()}
    assert control.streams == {"findings": 10240, "organ.labelled": 10240}


def test_a_plan_counts_the_probes_of_a_ranked_schedule(tmp_path: Path) -> None:
    def student(**schedule: Any) -> Work:
        distill = training(mix={"organ.labelled": 1, "organ.prompts": 2}, schedule=schedule)
        return distilling(plan(RunConfig.model_validate(config(tmp_path, distill=distill))))[0]

    fixed, ranked = student(kind="fixed"), student(kind="ranked", interval=0.25, probe_steps=8)
    assert fixed.need and ranked.need
    assert (fixed.undone_steps, fixed.need.snapshot) == (None, 0)
    # After 10, 20 and 30 of 40 steps, with the best checkpoint of each of the two teachers.
    assert ranked.undone_steps == 3 * 2 * 8
    assert "at most 48 more steps in its probes" in ranked.what
    assert ranked.need.total - fixed.need.total == ranked.need.snapshot > 0
    assert student(kind="ranked", interval=40).undone_steps is None

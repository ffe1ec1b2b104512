"""What the arms of a study of schedules leave behind, written down instead of trained.

n questions, K options.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stage_results import answers, run_of, trial, write_scores

from distill_ray.config.study import ScheduleStudy
from distill_ray.config.training import DistillConfig
from distill_ray.data.examples import Questions
from distill_ray.engine.job import TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.trial import ANSWERS, Trial
from distill_ray.study.schedule.arms import CONTROL, Arm
from distill_ray.study.schedule.compare import DomainResult, ScheduleCost, compared

N, OPTIONS = 60, 4
COST = ScheduleCost(busy_s=300.0, worker_s=500.0, tokens=1000)
CFG = ScheduleStudy(name="when", run={}, domains={"a": {}}, seeds=(0, 1), num_bootstrap=300)
RIGHT = {
    CONTROL: (0.50, 0.52),
    "big 1": (0.60, 0.62),
    "big 2": (0.72, 0.70),
    "most_accurate": (0.72, 0.70),
    "scd": (0.74, 0.76),
    "ranked": (0.66, 0.70),
}
"""Arm → share of right answers on test with each seed."""
VALIDATION = {"big 1": 0.8, "big 2": 0.7}


def arm_of(name: str) -> Arm:
    cfg = DistillConfig(token_budget=1000, mix={"organ.labelled": 1})
    if name == CONTROL:
        return Arm(name, cfg)
    schedule = name if name in ("scd", "ranked") else "fixed"
    options = {"probe_steps": 8} if name == "ranked" else {}
    static = ("big", int(name[-1]) - 1) if name.startswith("big") else None
    return Arm(name, cfg, TeachingSpec({}, "big", schedule, options), static)


def questions() -> Questions:
    asked = answers(N, OPTIONS, 0, right=0.5)
    groups = [f"g{i // 2}" for i in range(N)]
    ids, options = [f"q{i}" for i in range(N)], [[k] for k in range(OPTIONS)]
    return Questions("organ", ids, [[1]] * N, options, list("abcd"), list(asked.gold), groups)


def assessed(step: int, candidates: int) -> dict[str, Any]:
    numbers = {f"c{i}": 0.1 for i in range(candidates)}
    names = ("from_teacher", "to_teacher", "from_checkpoint", "to_checkpoint", "reason")
    where = dict(zip(names, ("big", "big", 0, 0, "still the best")))
    return {"step": step, **where, "numbers": numbers, "changes": False}


def ended(run: Run, name: str, seed: int, share: float, last: str, **how: Any) -> Trial:
    log = [assessed(10, 3), assessed(95, 2)] if name == "ranked" else []
    validation = {"accuracy": VALIDATION.get(name, 0.6), "nll": 1.0}
    served = (
        {}
        if name == CONTROL
        else {"schedule": {"teacher": last, "checkpoint_index": 1, "log": log}}
    )
    counts = {"steps": 100, "skipped_steps": 0, "training_s": 10.0, **how}
    made = trial(run, "arm", name, seed, {**validation, **served}, **counts)
    asked = answers(N, OPTIONS, 0, right=share)
    file = io.BytesIO()
    np.savez(file, **{"test/organ": np.asarray(asked.scores)})
    made.artifact.storage.write_bytes(f"{made.artifact.path}/{ANSWERS}", file.getvalue())
    return made


def teacher_scores(run: Run, **shares: float) -> dict[str, Any]:
    return {
        name: write_scores(
            run.artifact("evaluate-scores", "", {"of": name}),
            {"organ": answers(N, OPTIONS, 0, right=share)},
        )
        for name, share in shares.items()
    }


def taught(
    folder: Path,
    right: dict[str, Sequence[float]] | None = None,
    *,
    last: dict[str, Sequence[str]] | None = None,
    without: tuple[str, int] | None = None,
    domain: str = "a",
    **how: Any,
) -> DomainResult:
    run = run_of(folder, "big", "small")
    shares = right or RIGHT
    trials: dict[str, dict[int, Trial]] = {}
    for name, values in shares.items():
        served = (last or {}).get(name, ("big", "big"))
        trials[name] = {
            seed: ended(run, name, seed, value, served[seed], **how.get(name, {}))
            for seed, value in enumerate(values)
            if (name, seed) != without
        }
    if without is not None:
        trials[without[0]][without[1]] = trial(run, "arm", *without, "diverged")
    scores = teacher_scores(run, big=0.70, small=0.40)
    arms = {name: arm_of(name) for name in shares}
    return compared(CFG, domain, arms, trials, scores, [questions()], "big", COST)

"""What audits, probes and trainings leave behind, written down instead of computed. No Ray.

n questions, K options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tiny_run import config, tiny_model

from distill_ray.config import RunConfig
from distill_ray.core.calibration import Reliability, normalise
from distill_ray.core.intervals import Interval
from distill_ray.engine.job import DataSpec, TrainingSpec
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import (
    AUDIT,
    INITIAL,
    AuditedModel,
    AuditRecord,
    AuditTable,
    TextNll,
)
from distill_ray.stages.results.curve import Curve
from distill_ray.stages.results.model_scores import (
    MODEL_SCORES,
    Capacity,
    ModelScores,
    ScoresRecord,
)
from distill_ray.stages.results.probe_table import (
    CONTROL,
    ESTIMATES,
    EstimatesRecord,
    EstimateTable,
    ProbeTable,
)
from distill_ray.stages.results.question_metrics import AuditedMetrics
from distill_ray.stages.results.trial import OUTCOME, Trial, TrialOutcome, Trials

DRAWS = 2000


def run_of(folder: Path, *teachers: str, tasks: Sequence[str] = ("organ",), **changes: Any) -> Run:
    """A run of untrained teachers, on tasks that differ in their names alone."""
    folder.mkdir(exist_ok=True)
    data = config(folder)
    data["teachers"] = [
        {"name": name, "model": tiny_model(32, 2 + i)} for i, name in enumerate(teachers)
    ]
    data["tasks"] = [{**data["tasks"][0], "name": name} for name in tasks]
    labelled = f"{tasks[0]}.labelled"
    for training in ("probe", "distill"):
        data[training]["mix"] = {labelled: 1, f"{tasks[0]}.prompts": 2}
    data["adapt"]["recipes"]["full"]["mix"] = data["adapt"]["recipes"]["lora"]["mix"] = {
        labelled: 1
    }
    data["rank"] = {"num_draws": DRAWS}
    for section, change in changes.items():
        together = isinstance(change, dict) and section in data
        data[section] = {**data[section], **change} if together else change
    return Run.open(RunConfig.model_validate(data), "tiny.yaml")


def shard_counts(**changes: Any) -> dict[str, Any]:
    """The counts of a shard set's manifest."""
    tables = ("rows", "packed", "tokens", "streams", "answers")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    tokenizer = {"vocab_size": 300, **ids}
    return {**{name: {} for name in tables}, "tokenizer": tokenizer, "notes": [], **changes}


@dataclass(frozen=True)
class Asked:
    """A model's answers to a task's questions."""

    scores: Any
    """[n, K] log-likelihoods, over everything that could be said."""
    gold: Sequence[int]
    groups: Sequence[str] = ()
    """By default every question is a group of its own."""


def answers(n: int, options: int, seed: int, *, right: float, inside: float = 0.9) -> Asked:
    """Answers that are mostly sure; every model asked with the same seed has the same questions.

    Args:
        n: questions.
        options: K.
        seed: of the right options, and of what else is said.
        right: share of questions that are answered right.
        inside: probability on the options together.
    """
    gold = np.random.default_rng(seed).integers(0, options, size=n)
    rng = np.random.default_rng([seed, round(1000 * right)])
    hit = rng.permutation(n) < round(right * n)
    said = np.where(hit, gold, (gold + 1) % options)
    p = rng.dirichlet(np.ones(options), size=n) * 0.3
    p[np.arange(n), said] += 0.7
    return Asked(np.log(inside * p), gold.tolist())


def write_scores(artifact: Artifact, asked: Mapping[str, Asked], **changes: Any) -> ModelScores:
    """Fill a model's scores."""
    widths = {name: np.shape(a.scores)[1] for name, a in asked.items()}
    columns: dict[str, Any] = {
        "options": {name: np.asarray(a.scores).tolist() for name, a in asked.items()},
        "answer_index": {name: [*a.gold] for name, a in asked.items()},
        "groups": {
            name: [*a.groups] or [f"g{i}" for i in range(len(a.gold))] for name, a in asked.items()
        },
        "lengths": {name: [1] * k for name, k in widths.items()},
        "prior": {name: [0.0] * k for name, k in widths.items()},
        "answers": {name: [[10 + i] for i in range(k)] for name, k in widths.items()},
        "generated": {name: [] for name in asked},
        "end": dict.fromkeys(asked, 0),
    }
    with artifact.building() as building:
        scores_record(**{**columns, **changes}).write(building, MODEL_SCORES)
    return ModelScores(artifact)


def scores_record(**changes: Any) -> ScoresRecord:
    """The scores of a model without text."""
    names = ("options", "answer_index", "groups", "lengths", "prior", "answers", "generated", "end")
    maps: dict[str, Any] = {name: {} for name in (*names, "rows", "text", "full_ece", "divergence")}
    capacity = {"bytes": 4000, "context": 128, "seconds_per_token": 1e-6, "peak_bytes": None}
    return ScoresRecord(**{**maps, "parameters": 1000, **capacity, **changes})


@dataclass(frozen=True)
class Candidate:
    """What was found of a teacher."""

    asked: Mapping[str, Asked]
    moved: Sequence[float | None] = (1.0, 1.1)
    """Nats of KL that went in the probe of each seed; None for one that failed."""
    text: Mapping[str, float] = field(default_factory=dict)
    """Corpus → NLL."""
    size_ratio: float = 4.0
    valid: float | None = None
    temperature: float = 1.0
    seeds: Sequence[int] = ()
    """Seeds of the probes; 0, 1 … by default."""


def audit_row(found: Candidate) -> AuditedModel:
    """A model's row of the audit; what neither the ranking nor the study reads is made up."""
    tasks = {}
    for name, asked in found.asked.items():
        p, gold = normalise(np.asarray(asked.scores)), np.array(asked.gold)
        right = float((p.argmax(axis=1) == gold).mean())
        nll = float(-np.log(p[np.arange(len(gold)), gold]).mean())
        tasks[name] = audited_metrics(
            accuracy=spread(right),
            nll=spread(nll),
            ece=spread(1 - right),
            ece_floor=0.01,
            valid=None if found.valid is None else spread(found.valid),
        )
    return AuditedModel(
        parameters=int(1000 * found.size_ratio),
        size_ratio=found.size_ratio,
        capacity=Capacity(4000, 128, 1e-6, None),
        vocabulary_fit=1.0,
        chat_template=None,
        text=dict(found.text),
        text_nll=TextNll(corpora={}, kinds={}),
        full_ece={},
        temperature=found.temperature,
        tasks=tasks,
        shifted={},
        drops={},
    )


def curve(**changes: Any) -> Curve:
    """The curve of a training without a teacher."""
    return Curve(
        **{
            "history": [],
            "initial_loss": None,
            "switches": [],
            "schedule": None,
            "tokens_by_teacher": {},
            "skipped_steps": 0,
            "best": 0,
            "streams": {},
            **changes,
        }
    )


def audited_metrics(**changes: Any) -> AuditedMetrics:
    """Metrics of a model on a question set."""
    intervals = ("accuracy", "accuracy_by_length", "accuracy_by_prior", "nll", "ece", "brier")
    errors = ("adaptive_ece", "classwise_ece")
    return AuditedMetrics(
        **{
            "questions": 60,
            "majority": 0.25,
            **{name: spread(0.5) for name in (*intervals, *errors)},
            **{f"{name}_floor": 0.01 for name in ("ece", *errors)},
            "auroc": None,
            "reliability": Reliability([0.5], [0.5], [60]),
            "generated": 0,
            "exact_match": None,
            "valid": None,
            "scaled": None,
            **changes,
        }
    )


def spread(value: float) -> Interval:
    """An interval around a value."""
    return Interval(value, value - 0.1, value + 0.1)


def audited(
    run: Run,
    candidates: Mapping[str, Candidate],
    *,
    student: Candidate | None = None,
    failed: Mapping[str, str] | None = None,
) -> AuditTable:
    """What the audit found; the student answers by chance unless it is given."""
    first = next(iter(candidates.values()))
    models = {INITIAL: student or untaught(first), **candidates}
    scores = {
        name: write_scores(run.artifact("audit-scores", "", {"of": name}), model.asked)
        for name, model in models.items()
    }
    artifact = run.artifact("audit", "", {"scores": {n: s.artifact.uri for n, s in scores.items()}})
    rows = {name: audit_row(model) for name, model in models.items()}
    with artifact.building() as building:
        AuditRecord(rows=rows, failed=dict(failed or {})).write(building, AUDIT)
    return AuditTable(artifact, scores)


def untaught(like: Candidate) -> Candidate:
    """A student that knows nothing of the same questions and corpora."""
    asked = {
        name: Asked(np.full(np.shape(a.scores), -3.0), a.gold, a.groups)
        for name, a in like.asked.items()
    }
    return Candidate(asked, text=dict.fromkeys(like.text, 4.0), size_ratio=1.0)


def student_metrics(**changes: Any) -> dict[str, Any]:
    """Held-out metrics of a student."""
    return {"validation": {}, "nll": 2.0, "accuracy": 0.2, "tasks": {}, **changes}


def curve_point(**changes: Any) -> dict[str, Any]:
    """Metrics of a student at a checkpoint."""
    moved = {"tokens": 1000, "kl_moved": 1.0, "kl_removed": 0.5, "gain": 0.3}
    return {**student_metrics(), **moved, **changes}


def probe_outcome(moved: float, **changes: Any) -> dict[str, Any]:
    """The fields of a trial's outcome."""
    figures = {"kl_moved": moved, "kl_removed": 0.5, "gain": 0.3, "nll": 1.0, "accuracy": 0.6}
    absent = dict.fromkeys(("streams", "options", "schedule"))
    return {**figures, "tasks": {}, "before": student_metrics(), "curve": [], **absent, **changes}


def trial(
    run: Run, kind: str, teacher: str, seed: int, result: Mapping[str, Any] | str, **counts: Any
) -> Trial:
    """A trial that came to a result, or that failed for a reason.

    Args:
        run: the run.
        kind: of the artifact.
        teacher: its teacher.
        seed: its seed.
        result: fields of its outcome, or the reason.
        counts: `tokens`, `training_s` and `wall_s` of its manifest.
    """
    data = DataSpec(Path(), Path(), run.cfg.streams(), 64, seed, 4)
    job = TrainingSpec(f"{teacher}, seed {seed}", ModelRef("init"), run.cfg.probe, data)
    artifact = run.artifact(kind, f"{teacher}-s{seed}", {"teacher": teacher, "seed": seed})
    if isinstance(result, str):
        artifact.record_failure(result)
    else:
        with artifact.building() as building:
            TrialOutcome(**{**probe_outcome(1.0), **result}).write(building, OUTCOME)
            building.counts |= {"tokens": 1000, "training_s": 1.0, **counts}
            building.started -= counts.get("wall_s", 100.0)
    return Trial(teacher, seed, job, artifact, run.artifact("shard", "", {}))


def probed(
    run: Run,
    candidates: Mapping[str, Candidate],
    *,
    control_logprobs: Mapping[str, Any] | None = None,
    estimates: Mapping[str, Any] | None = None,
    **counts: Any,
) -> ProbeTable:
    """What the probes found.

    Args:
        run: the run.
        candidates: teacher → what its probes found.
        control_logprobs: task → [n, K] log-likelihoods of the control; None for one that failed.
        estimates: teacher → its estimates.
        counts: of every trial's manifest.
    """
    trials = [
        trial(
            run, "probe", name, seed,
            f"out of luck at seed {seed}" if moved is None else probe_outcome(moved), **counts,
        )
        for name, found in candidates.items()
        for seed, moved in zip(found.seeds or range(len(found.moved)), found.moved)
    ]  # fmt: skip
    said = {name: np.asarray(scores).tolist() for name, scores in (control_logprobs or {}).items()}
    result = "out of luck" if control_logprobs is None else probe_outcome(0.0, options=said)
    control = trial(run, "probe", CONTROL, 0, result, **counts)
    table = None
    if estimates is not None:
        counts_of_answers = {"samples": 4, "tokens": 40}
        teachers = {
            name: {**counts_of_answers, **values} if isinstance(values, Mapping) else values
            for name, values in estimates.items()
        }
        table = EstimateTable(run.artifact("estimates", "", {"of": dict(estimates)}))
        with table.artifact.building() as building:
            EstimatesRecord(teachers=teachers).write(building, ESTIMATES)
    return ProbeTable(trials, control=control, estimated=table)


def finished(
    run: Run,
    outcomes: Mapping[str, Sequence[float | None]],
    *,
    nll: bool = False,
    share_soon: Mapping[str, float] | None = None,
    **counts: Any,
) -> Trials:
    """Full distillations.

    Args:
        run: the run.
        outcomes: teacher → final accuracy with each seed, None for one that failed.
        nll: whether the outcomes are NLLs.
        share_soon: teacher → share of it at the first of two checkpoints; half of it.
        counts: of every trial's manifest.
    """
    figure = "nll" if nll else "accuracy"
    made = []
    for name, values in outcomes.items():
        for seed, value in enumerate(values):
            if value is None:
                made.append(trial(run, "full", name, seed, "diverged", **counts))
                continue
            soon = value * (share_soon or {}).get(name, 0.5)
            points = [curve_point(**{figure: soon}), curve_point(**{"tokens": 2000, figure: value})]
            before = student_metrics(**{figure: 0.1})
            result = {figure: value, "before": before, "curve": points}
            made.append(trial(run, "full", name, seed, result, **{"tokens": 10_000, **counts}))
    return Trials(made)

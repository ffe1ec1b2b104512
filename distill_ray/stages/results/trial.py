"""Trainings on one worker each, side by side: probes, and the full runs of a study."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LoraConfig, TrainingConfig
from distill_ray.engine.job import OnSwitch, TeachingSpec, TrainingSpec
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import Weights

OUTCOME = "outcome.json"
ANSWERS = "answers.npz"
WEIGHTS = "checkpoints/0"
Answers = dict[str, NDArray[np.float64]]
"""Task → [n, K] log-likelihood of each option."""


@dataclass(frozen=True)
class SaveOptions:
    """What stays of a trained student, beside the outcome."""

    weights: bool = False
    answers: bool = False
    """To each question that it is asked at the end."""


@dataclass(frozen=True)
class Trial:
    """A teacher (or what else a trial is of) and a seed, and the artifact that they fill."""

    teacher: str
    seed: int
    job: TrainingSpec
    artifact: Artifact
    shards: Artifact
    keep: SaveOptions = SaveOptions()

    def row(self) -> dict[str, Any]:
        """`teacher`, `seed`, and its `outcome`."""
        return {"teacher": self.teacher, "seed": self.seed, **self.artifact.read_json(OUTCOME)}

    @property
    def weights(self) -> Weights:
        """The trained student, where it is kept."""
        folder = self.artifact.storage.sub(f"{self.artifact.path}/{WEIGHTS}").uri
        lora = self.job.lora is not None
        ref = self.job.student.with_adapter(folder) if lora else ModelRef("path", folder)
        return Weights(ref, self.artifact.fingerprint)

    def answers(self, split: str) -> Answers:
        """The trained student's answers, where they are kept."""
        with np.load(io.BytesIO(self.artifact.read_bytes(ANSWERS))) as stored:
            names = [name for name in stored.files if name.startswith(f"{split}/")]
            return {n.removeprefix(f"{split}/"): stored[n].astype(np.float64) for n in names}


@dataclass(frozen=True)
class TrialSpec:
    """What makes a trial one of its kind."""

    kind: str
    """Of its artifact."""
    training: TrainingConfig
    num_validation_rows: int
    rungs: int
    order: int
    """Seed of the order of the rows: the same for every teacher."""
    identity: Mapping[str, Any]
    """What decides the outcome beside student, rows and seed."""
    objective: ObjectiveConfig | None = None
    teaching: TeachingSpec | None = None
    lora: LoraConfig | None = None
    on_switch: OnSwitch = field(default_factory=OnSwitch)
    frozen_student: Weights | None = None
    """The frozen student that samples are weighted by."""
    eval_steps: int | None = None
    """Steps between measurements of the student's progress, for schedules that read it; it is
    measured at each checkpoint in any case."""
    keep: SaveOptions = SaveOptions()

    def beside(self) -> dict[str, Any]:
        """What decides the outcome where it isn't as usual."""
        found: dict[str, Any] = {}
        if self.on_switch != OnSwitch():
            found["on_switch"] = asdict(self.on_switch)
        if self.frozen_student is not None:
            found["frozen_student"] = self.frozen_student.fingerprint
        if self.eval_steps is not None:
            found["eval_steps"] = self.eval_steps
        if self.keep != SaveOptions():
            found["keep"] = asdict(self.keep)
        return found


def trial(
    run: Run, shards: ShardSet, student: Weights, name: str, seed: int, plan: TrialSpec
) -> Trial:
    """A student's distillation, or its training without a teacher, on one worker.

    Args:
        run: the run.
        shards: its rows.
        student: as it begins.
        name: the teacher's, or of what else the trial is.
        seed: told apart by; the order of the rows is the plan's.
        plan: what is done.
    """
    cfg = run.cfg
    identity = {
        "student": student.fingerprint,
        "shard": shards.artifact.fingerprint,
        "max_examples": [task.max_examples for task in cfg.tasks],
        "seed": [cfg.seed, seed],
        **plan.identity,
        **plan.beside(),
    }
    job = TrainingSpec(
        name=f"{name}, seed {seed}",
        student=student.ref,
        training=plan.training,
        data=data_spec(shards, plan.order, plan.num_validation_rows),
        objective=plan.objective,
        teaching=plan.teaching,
        on_switch=plan.on_switch,
        frozen_student=plan.frozen_student.ref if plan.frozen_student is not None else None,
        lora=plan.lora,
        num_checkpoints=plan.rungs,
        eval_steps=plan.eval_steps,
        backend="plain",
    )
    artifact = run.artifact(plan.kind, f"{name}-s{seed}", identity)
    return Trial(name, seed, job, artifact, shards.artifact, plan.keep)


@dataclass(frozen=True)
class Trials:
    """What became of some trials."""

    trials: list[Trial] = field(default_factory=list)

    @property
    def ended(self) -> list[Trial]:
        """Those that came to their end."""
        return [trial for trial in self.trials if trial.artifact.is_complete()]

    @property
    def artifacts(self) -> list[Artifact]:
        """What they left."""
        return [trial.artifact for trial in self.ended]

    def fingerprints(self) -> list[str]:
        """Identity of everything that it left."""
        return [artifact.fingerprint for artifact in self.artifacts]

    def rows(self) -> list[dict[str, Any]]:
        """`Trial.row` of every trial that ended."""
        return [trial.row() for trial in self.ended]

    def cost(self) -> dict[str, float]:
        """`tokens` that were trained on, `training_s` and `wall_s` of the workers, added up."""
        every = [artifact.manifest() for artifact in self.artifacts]
        manifests = [m for m in every if "training_s" in m.counts]
        return {
            "tokens": sum(m.counts["tokens"] for m in manifests),
            "training_s": sum(m.counts["training_s"] for m in manifests),
            "wall_s": sum(m.wall_s for m in manifests),
        }

    def seeds(self) -> dict[str, set[int]]:
        """Teacher → seeds of its trials, failed ones too."""
        found: dict[str, set[int]] = {}
        for trial in self.trials:
            found.setdefault(trial.teacher, set()).add(trial.seed)
        return found

    @property
    def failed(self) -> list[dict[str, Any]]:
        """`teacher`, `seed` and `reason` of every trial that didn't."""
        reasons = [(trial, trial.artifact.failure()) for trial in self.trials]
        return [
            {"teacher": trial.teacher, "seed": trial.seed, "reason": reason}
            for trial, reason in reasons
            if reason is not None
        ]


def outcome(before: Mapping[str, Any], rungs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a trial showed.

    Args:
        before: held-out figures of the initial student: the validation's terms, and `nll`,
            `accuracy` and `tasks` of its answers.
        checkpoints: the same at each checkpoint, with `tokens`.

    Returns:
        `kl_moved`: fall of the KL to the teacher on the tasks' answers (on text, where there are
        none), nats per token; `kl_removed`: share of the initial KL that is gone, over all kinds
        of row;
        `gain`: fall of the gold answers' NLL over the options, nats per question; `nll` and
        `accuracy` at the end; `before`; and `curve`: all of them at each point. Without a teacher
        there is no KL to remove, and `kl_removed` is 0.
    """
    curve = [
        {
            **checkpoint_index,
            "kl_moved": _moved(before, checkpoint_index),
            "kl_removed": _removed(before, checkpoint_index),
            "gain": before["nll"] - checkpoint_index["nll"],
        }
        for checkpoint_index in rungs
    ]
    kept = ("kl_moved", "kl_removed", "gain", "nll", "accuracy", "tasks")
    return {**{k: curve[-1][k] for k in kept}, "before": dict(before), "curve": curve}


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    term = "task.kl" if "task.kl" in before else "text.kl"
    return float(before.get(term, 0.0) - after.get(term, 0.0))


def _removed(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """Tasks and text count alike: each kind's share, averaged."""
    shares = [1 - after[t] / before[t] for t in ("task.kl", "text.kl") if before.get(t, 0) > 0]
    return sum(shares) / len(shares) if shares else 0.0

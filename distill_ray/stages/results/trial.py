"""Trials: trainings on one worker each, such as probes and the full runs of a study."""

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
from distill_ray.stages.results.curve import StreamRead
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.record import Record
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import Weights

OUTCOME = "outcome.json"
ANSWERS = "answers.npz"
WEIGHTS = "checkpoints/0"
Identity = Mapping[str, Any]
"""Plain values that a fingerprint is taken of."""
Answers = dict[str, NDArray[np.float64]]
"""Task → [n, K] log-likelihood of each option."""


class AnswerMetrics(Record):
    """How a student answers a task's held-out questions."""

    nll: float
    """-log p(right option), normalised over the options, nats a question."""
    accuracy: float


class StudentMetrics(Record):
    """Held-out metrics of a student at one point of its training."""

    validation: dict[str, float]
    """`task.ce`, `task.kl`, `text.ce`, `text.kl` → mean over the held-out rows, nats per token;
    `kl` only with a teacher."""
    nll: float
    """Mean of the tasks' NLL."""
    accuracy: float
    """Mean of the tasks' accuracy."""
    tasks: dict[str, AnswerMetrics]


class CheckpointMetrics(StudentMetrics):
    """Held-out metrics of a student at a checkpoint."""

    tokens: int
    """Tokens that the student has been trained on."""


class CurvePoint(CheckpointMetrics):
    """Held-out metrics at a checkpoint, and what has changed since the student began."""

    kl_moved: float
    kl_removed: float
    gain: float


class TrialSwitch(Record):
    """A change of teacher or checkpoint, or an assessment that left both as they were."""

    step: int
    """The first step that sees the new checkpoint."""
    from_teacher: str
    from_checkpoint: int
    to_teacher: str
    to_checkpoint: int
    reason: str
    numbers: dict[str, float]
    """What the reason rests on."""
    changes: bool


class TrialSchedule(Record):
    """Who taught in a trial."""

    teacher: str
    """Teacher of the last step."""
    checkpoint_index: int
    """Checkpoint of the last step."""
    log: list[TrialSwitch]


class TrialOutcome(Record):
    """`outcome.json`: the result of a trial."""

    kl_moved: float
    """Fall of the KL to the teacher on the tasks' answers (on text, where there are none), nats
    per token; 0 without a teacher."""
    kl_removed: float
    """Share of the initial KL that is gone, over all kinds of row; 0 without a teacher."""
    gain: float
    """Fall of the right answers' NLL over the options, nats a question."""
    nll: float
    accuracy: float
    tasks: dict[str, AnswerMetrics]
    before: StudentMetrics
    """Metrics of the initial student."""
    curve: list[CurvePoint]
    """Metrics at each checkpoint; the last ones are the outcome."""
    streams: dict[str, StreamRead] | None
    """Stream → what was read of it; None where the rows aren't mixed."""
    options: dict[str, list[list[float]]] | None
    """Task → [n, K] log-likelihood of each option; of a student without a teacher alone."""
    schedule: TrialSchedule | None
    """Who taught; None without a teacher."""


class TrialResult(TrialOutcome):
    """A trial's outcome, and which trial it is of."""

    teacher: str
    seed: int


@dataclass(frozen=True)
class FailedTrial:
    """A trial without an outcome."""

    teacher: str
    seed: int
    reason: str


@dataclass(frozen=True)
class TrialCost:
    """The cost of some trials together."""

    tokens: float
    """Tokens that were trained on."""
    training_s: float
    """Seconds of training, without measuring."""
    wall_s: float
    """Seconds of the workers."""


@dataclass(frozen=True)
class SaveOptions:
    """What is stored of a trained student beside the outcome."""

    weights: bool = False
    answers: bool = False
    """Whether its answers to the questions at the end are stored."""


@dataclass(frozen=True)
class Trial:
    """A training with a teacher (or what else the trial is of) and a seed, and its artifact."""

    teacher: str
    seed: int
    training_spec: TrainingSpec
    artifact: Artifact
    shards: Artifact
    save: SaveOptions = SaveOptions()

    def outcome(self) -> TrialOutcome:
        """The result of the trial."""
        return TrialOutcome.read(self.artifact, OUTCOME)

    def result(self) -> TrialResult:
        """The outcome with the teacher and the seed."""
        return TrialResult(teacher=self.teacher, seed=self.seed, **dict(self.outcome()))

    @property
    def weights(self) -> Weights:
        """The trained student, where its weights are stored."""
        folder = self.artifact.storage.sub(f"{self.artifact.path}/{WEIGHTS}").uri
        lora = self.training_spec.lora is not None
        ref = self.training_spec.student.with_adapter(folder) if lora else ModelRef("path", folder)
        return Weights(ref, self.artifact.fingerprint)

    def answers(self, split: str) -> Answers:
        """The trained student's answers, where they are stored."""
        with np.load(io.BytesIO(self.artifact.read_bytes(ANSWERS))) as arrays:
            names = [name for name in arrays.files if name.startswith(f"{split}/")]
            return {n.removeprefix(f"{split}/"): arrays[n].astype(np.float64) for n in names}


@dataclass(frozen=True)
class TrialSpec:
    """What makes a trial one of its kind."""

    kind: str
    """Kind of its artifact."""
    training: TrainingConfig
    num_validation_rows: int
    num_checkpoints: int
    """Points of its curve."""
    data_seed: int
    """Seed of the order of the rows: the same for every teacher."""
    identity: Identity
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
    save: SaveOptions = SaveOptions()

    def non_default(self) -> Identity:
        """What decides the outcome where it isn't at its default."""
        identity: dict[str, object] = {}
        if self.on_switch != OnSwitch():
            identity["on_switch"] = asdict(self.on_switch)
        if self.frozen_student is not None:
            identity["frozen_student"] = self.frozen_student.fingerprint
        if self.eval_steps is not None:
            identity["eval_steps"] = self.eval_steps
        if self.save != SaveOptions():
            identity["save"] = asdict(self.save)
        return identity


def trial(
    run: Run, shards: ShardSet, student: Weights, name: str, seed: int, spec: TrialSpec
) -> Trial:
    """A student's distillation, or its training without a teacher, on one worker.

    Args:
        run: the run.
        shards: its rows.
        student: the initial student.
        name: the teacher's, or of what else the trial is.
        seed: tells trials of one teacher apart; the order of the rows is the spec's.
        spec: what is done.
    """
    cfg = run.cfg
    identity = {
        "student": student.fingerprint,
        "shard": shards.artifact.fingerprint,
        "max_examples": [task.max_examples for task in cfg.tasks],
        "seed": [cfg.seed, seed],
        **spec.identity,
        **spec.non_default(),
    }
    training_spec = TrainingSpec(
        name=f"{name}, seed {seed}",
        student=student.ref,
        training=spec.training,
        data=data_spec(shards, spec.data_seed, spec.num_validation_rows),
        objective=spec.objective,
        teaching=spec.teaching,
        on_switch=spec.on_switch,
        frozen_student=spec.frozen_student.ref if spec.frozen_student is not None else None,
        lora=spec.lora,
        num_checkpoints=spec.num_checkpoints,
        eval_steps=spec.eval_steps,
        backend="plain",
    )
    artifact = run.artifact(spec.kind, f"{name}-s{seed}", identity)
    return Trial(name, seed, training_spec, artifact, shards.artifact, spec.save)


@dataclass(frozen=True)
class Trials:
    """A group of trials, and their results."""

    trials: list[Trial] = field(default_factory=list)

    @property
    def ended(self) -> list[Trial]:
        """Trials with an outcome."""
        return [trial for trial in self.trials if trial.artifact.is_complete()]

    @property
    def artifacts(self) -> list[Artifact]:
        """Artifacts of the trials that ended."""
        return [trial.artifact for trial in self.ended]

    def fingerprints(self) -> list[str]:
        """Identity of every artifact."""
        return [artifact.fingerprint for artifact in self.artifacts]

    def results(self) -> list[TrialResult]:
        """Result of every trial that ended."""
        return [trial.result() for trial in self.ended]

    def cost(self) -> TrialCost:
        """The cost of the trials together."""
        every = [artifact.manifest() for artifact in self.artifacts]
        manifests = [m for m in every if "training_s" in m.counts]
        return TrialCost(
            tokens=sum(m.counts["tokens"] for m in manifests),
            training_s=sum(m.counts["training_s"] for m in manifests),
            wall_s=sum(m.wall_s for m in manifests),
        )

    def seeds(self) -> dict[str, set[int]]:
        """Teacher → seeds of its trials, failed ones too."""
        seeds: dict[str, set[int]] = {}
        for trial in self.trials:
            seeds.setdefault(trial.teacher, set()).add(trial.seed)
        return seeds

    @property
    def failed(self) -> list[FailedTrial]:
        """Trials that failed."""
        reasons = [(trial, trial.artifact.failure()) for trial in self.trials]
        return [
            FailedTrial(trial.teacher, trial.seed, reason)
            for trial, reason in reasons
            if reason is not None
        ]


def outcome(before: StudentMetrics, checkpoints: Sequence[CheckpointMetrics]) -> TrialOutcome:
    """Compare a trial's checkpoints with the student as it began.

    `streams`, `options` and `schedule` are left at None.

    Args:
        before: metrics of the initial student.
        checkpoints: metrics at each checkpoint.
    """
    term = "task.kl" if "task.kl" in before.validation else "text.kl"
    curve = []
    for point in checkpoints:
        terms, start = point.validation, before.validation
        # Tasks and text count alike: the mean of each kind's share.
        shares = [1 - terms[t] / start[t] for t in ("task.kl", "text.kl") if start.get(t, 0) > 0]
        curve.append(
            CurvePoint(
                **dict(point),
                kl_moved=start.get(term, 0.0) - terms.get(term, 0.0),
                kl_removed=sum(shares) / len(shares) if shares else 0.0,
                gain=before.nll - point.nll,
            )
        )
    last = curve[-1]
    return TrialOutcome(
        kl_moved=last.kl_moved,
        kl_removed=last.kl_removed,
        gain=last.gain,
        nll=last.nll,
        accuracy=last.accuracy,
        tasks=last.tasks,
        before=before,
        curve=curve,
        streams=None,
        options=None,
        schedule=None,
    )

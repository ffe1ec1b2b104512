"""The report's sections: text and tables, the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.models import ModelSource
from distill_ray.config.schedule import scheduling
from distill_ray.core.schedule import ScheduleState
from distill_ray.engine.loop import validation_of
from distill_ray.stages.reporting import selection, tables
from distill_ray.stages.reporting.lineage import Inputs, lineage, recipe_fingerprints, wall_by_stage
from distill_ray.stages.reporting.text import (
    LED_THE_RANKING,
    Table,
    above_majority,
    big,
    headline,
    listed,
    number,
    percent,
    seconds,
    segments,
    sentence,
    who_taught,
)
from distill_ray.stages.results.audit_table import INITIAL, AuditedModel
from distill_ray.stages.results.curve import Curve, SwitchEntry
from distill_ray.stages.results.final_scores import CONTROL, Comparison, TestedModel
from distill_ray.stages.results.report_page import AdaptationCurve, LineageEntry, Turn


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    """Findings, set as a list before the text."""


@dataclass(frozen=True)
class Facts:
    """What the sections and the charts are made from, read once."""

    inputs: Inputs
    entries: list[LineageEntry]
    audit: dict[str, AuditedModel]
    scores: dict[str, TestedModel]
    comparisons: list[Comparison]
    turns: list[Turn]
    student: Curve
    schedule: ScheduleState
    """The last state of the distillation's schedule."""
    switches: list[SwitchEntry]
    """Every switch and assessment."""
    control: Curve
    adaptation: dict[str, list[AdaptationCurve]]
    """Teacher → its recipes."""

    @classmethod
    def of(cls, inputs: Inputs) -> Facts:
        """Read the artifacts."""
        curve = inputs.students.distilled.curve
        steps = inputs.students.distilled.training_job.spec.steps
        assert curve.schedule is not None
        named = inputs.run.cfg.distill.first_teacher is not None
        reason = "was named by the config to begin" if named else LED_THE_RANKING
        return cls(
            inputs=inputs,
            entries=lineage(inputs),
            audit=inputs.audited.rows,
            scores=inputs.scores.rows,
            comparisons=inputs.scores.comparisons,
            turns=segments(curve.switches, curve.schedule, steps, reason),
            student=curve,
            schedule=curve.schedule,
            switches=inputs.students.distilled.switch_log,
            control=inputs.students.control.curve,
            adaptation=_adaptation(inputs),
        )

    @property
    def tokens_by_teacher(self) -> dict[str, float]:
        """Teacher → tokens that the student has learned from it."""
        return self.student.tokens_by_teacher

    @property
    def teachers(self) -> list[str]:
        """Names, in the config's order."""
        return list(self.inputs.teachers.teachers)

    @property
    def tasks(self) -> list[str]:
        """The tasks themselves, without their shifted sets."""
        return [task.name for task in self.inputs.run.cfg.tasks]

    @property
    def confidence(self) -> float:
        """Mass of the evaluation's intervals."""
        return self.inputs.run.cfg.evaluate.confidence

    def against(self, model: str) -> list[Comparison]:
        """The student's comparisons with a model on the tasks themselves."""
        return [r for r in self.comparisons if r.against == model and r.set in self.tasks]


def _adaptation(inputs: Inputs) -> dict[str, list[AdaptationCurve]]:
    """The checkpoints of every teacher that was trained here."""
    curves_by_teacher: dict[str, list[AdaptationCurve]] = {}
    cfg = inputs.run.cfg
    for name in inputs.teachers.teachers:
        for recipe, curve in zip(cfg.teacher(name).recipes, inputs.teachers.curves[name]):
            tokens_per_step = (
                cfg.adapt.recipes[recipe].global_batch_size * cfg.corpora.sequence_length
            )
            rows = [(row["step"], validation_of(row)) for row in curve.history]
            measured = [(int(step), terms) for step, terms in rows if terms]
            curves_by_teacher.setdefault(name, []).append(
                AdaptationCurve(
                    name=recipe,
                    initial_loss=curve.initial_loss,
                    tokens=[step * tokens_per_step for step, _ in measured],
                    losses=[terms.get("task.ce", terms.get("text.ce")) for _, terms in measured],
                )
            )
    return curves_by_teacher


def verdict(facts: Facts) -> str:
    """The verdict in one sentence."""
    return headline(facts.against(CONTROL))


def sections(facts: Facts) -> list[Section]:
    """The whole report, in order."""
    inputs = facts.inputs
    calibration = Section(
        "calibration",
        "Can their confidence be believed?",
        [
            "Answers are grouped by confidence; a group on the diagonal is right as often as the "
            "model says. The area of a mark grows with the number of answers. Teachers on the "
            "validation split, the student, the control and the initial state on the test split.",
        ],
        [selection.calibrations(facts.audit)],
    )
    scores = Section(
        "scores",
        "Scores on the test split",
        [
            "NLL of answers is normalised over the options. The dashed line of the chart is the "
            "share of the most frequent answer. The ECE floor is what a perfectly "
            "calibrated model would show with as many questions."
        ],
        [
            tables.figures("Questions", {n: row.tasks for n, row in facts.scores.items()}),
            tables.tested(facts.scores, inputs.scores.teacher),
            tables.comparisons(facts.comparisons),
            tables.favourable_sets(facts.comparisons),
            tables.largest_gaps(inputs.scores.largest_gaps, inputs.scores.teacher),
        ],
    )
    place = inputs.run.storage.uri
    provenance = Section(
        "lineage",
        "What this report rests on",
        [f"Artifacts lie below {place}; a fingerprint is the digest of an artifact's inputs."],
        [
            tables.times(wall_by_stage(facts.entries)),
            tables.artifacts(facts.entries),
            tables.models(origins(facts)),
            tables.input_rows(inputs.shards.counts),
            tables.data(inputs.shards.counts),
            tables.versions(facts.entries),
        ],
    )
    return [
        _verdict(facts),
        _ranking(facts),
        calibration,
        _probes(facts),
        _training(facts),
        scores,
        provenance,
    ]


def _verdict(facts: Facts) -> Section:
    """How the student compares with every other model, and who taught it."""
    models = [CONTROL, INITIAL, *facts.teachers]
    verdicts = [sentence(row, facts.confidence) for m in models for row in facts.against(m)]
    student, distill = facts.scores["student"], facts.inputs.run.cfg.distill
    warnings = [
        above_majority(task, student.tasks[task]) for task in facts.tasks if task in student.tasks
    ]
    first = facts.turns[0].teacher
    if first == ENSEMBLE:
        assert distill.ensemble is not None
        strategy = distill.ensemble.strategy
        why = f"They are {listed(facts.tokens_by_teacher)} at once, by the strategy {strategy}."
    else:
        entries = facts.inputs.ranking.leaderboard["early"]
        entry = next(e for e in entries if e.teacher == first)
        is_named = distill.first_teacher is not None
        reason = "was named by the config to begin" if is_named else "was chosen to begin"
        chance = f"best of {len(entries)} with probability {percent(entry.probability_best, 0)}"
        why = f"{first} {reason}: score {number(entry.score)} in the early phase, {chance}."
    teachers = [f"{n} {big(facts.scores[n].parameters)}" for n in facts.teachers]
    text = [
        *filter(None, warnings),
        f"{who_taught(facts.turns)} {why}",
        f"Parameters: student {big(student.parameters)}; teachers {', '.join(teachers)}.",
        "Differences are the student minus the other, on the test split: accuracy in percentage "
        "points, NLL in nats (less is better). Intervals come from resampling groups of questions, "
        "paired; one training run stands behind each model, so they hold no variation between "
        "training seeds.",
    ]
    return Section("verdict", "Was it worth it?", text, points=verdicts)


def _ranking(facts: Facts) -> Section:
    """The teachers' places and what they rest on: factors, probes and the audit."""
    ranking = facts.inputs.ranking
    return Section(
        "ranking",
        "Which teacher, and why",
        [
            "Every teacher has four factors in [0, 1]. Ease: how much of its KL this student took "
            "over in the probes. The others are of what it would teach, a mixture with the control "
            "probe, which learns from the labels alone: peak (how far its accuracy is above the "
            "most frequent answer), domain (how much of the base rates' NLL it removes, and of the "
            "untrained student's on domain text) and calibration (Brier skill). Their weights move "
            "from early to late with the student's progress; the score is the weighted sum.",
            "Intervals come from the noise between probe seeds, and from resampling groups of "
            "questions, alike for all teachers. The deciding "
            "factor is the one that separates a teacher most from the best other one.",
            *(f"In the {phase} phase: {call}." for phase, call in ranking.verdicts.items()),
            *selection.excluded_teachers(ranking, facts.inputs.probed.failed),
        ],
        [
            tables.leaderboard(ranking),
            tables.factors(ranking),
            tables.evidence(ranking, facts.tasks, facts.inputs.run.cfg),
            tables.figures(
                "Audit: questions of the validation split",
                {model: row.sets for model, row in facts.audit.items()},
            ),
            tables.audited(facts.audit),
            selection.answers(facts.audit),
            selection.shifts(facts.audit),
            selection.capacities(facts.audit),
        ],
    )


def _probes(facts: Facts) -> Section:
    """The probes' outcomes, and what they took beside the distillation."""
    run, cost = facts.inputs.run, facts.inputs.probed.cost()
    cfg, distill, length = run.cfg.probe, run.cfg.distill, run.cfg.corpora.sequence_length
    distill_tokens = distill.num_steps(length) * distill.global_batch_size * length
    unit = "accelerator" if run.cfg.cluster.gpus_per_worker else "processor"
    each = run.cfg.cluster.gpus_per_worker or run.cfg.cluster.cpus_per_worker
    return Section(
        "probes",
        "How readily the student follows each teacher",
        [
            f"The same student, distilled from every teacher for {big(cfg.token_budget)} tokens "
            f"with {len(cfg.seeds)} seeds. The share of the initial KL to the teacher that is "
            "gone, and the task gain, the fall of the gold answers' NLL over the options; "
            "lines are means over seeds, points are seeds.",
            f"All probes and their control together took {big(cost.tokens)} tokens, "
            f"{percent(cost.tokens / distill_tokens, 0)} of the distillation's, and "
            f"{seconds(each * cost.wall_s)} of {unit} time, measuring included.",
        ],
        [
            tables.probes(facts.inputs.probed.results()),
            selection.estimates(facts.inputs.probed.estimates),
        ],
    )


def _training(facts: Facts) -> Section:
    """The course of the distillation and of its control, and the teachers' adaptation."""
    inputs, cfg = facts.inputs, facts.inputs.run.cfg.distill
    student, control = inputs.students.distilled.training_job, inputs.students.control.training_job
    changes = sum(row.changes for row in facts.switches)
    unchanged = len(facts.switches) - changes
    logged = f"{_count(changes, 'change')} of teacher or checkpoint"
    logged += f", and {_count(unchanged, 'assessment')} that changed nothing" if unchanged else ""
    if cfg.objective.weighting is None:
        share = f"{percent(cfg.objective.alpha, 0)} {cfg.objective.divergence} to the teacher"
    else:
        share = f"{cfg.objective.divergence} to the teacher with a share of each sample's own"
        share += f" ({cfg.objective.weighting} weighting against the control)"
    text = [
        f"Schedule {scheduling(cfg.schedule)[0]}: {logged}. "
        f"Progress reached {percent(facts.schedule.progress, 0)} "
        f"of the gap in validation loss to the best teacher. The objective was {share} and for the "
        f"rest cross-entropy on the data; the control's was cross-entropy alone, for as many steps "
        f"and tokens. Prompts without labels say nothing without a teacher: the control spends "
        f"their share of the tokens on its other rows."
    ]
    if student.spec.num_checkpoints > 1:
        text.append(
            f"The student is checkpoint {student.selected_checkpoint() + 1} of "
            f"{student.spec.num_checkpoints}, the control {control.selected_checkpoint() + 1}: "
            f"keep: {cfg.select_checkpoint}, by the validation loss."
        )
    if facts.adaptation:
        text.append(
            "Teachers keep checkpoints at equal token spacing; those up to the one with the least "
            "validation loss may teach, in order."
        )
    teaching = student.spec.teaching
    ensemble = teaching.ensemble if teaching is not None else None
    assignment = ensemble.options.get("assignment", {}) if ensemble is not None else {}
    best = {name: teacher.best for name, teacher in inputs.teachers.teachers.items()}
    parts = [
        tables.turns(facts.turns),
        tables.switches(facts.switches),
        tables.tokens(facts.tokens_by_teacher, assignment),
        tables.read({"student": facts.student.streams, "control": facts.control.streams}),
        tables.checkpoints(facts.adaptation, best),
    ]
    if inputs.teachers.gains:
        parts.append(selection.gains(inputs.teachers.gains))
    return Section("training", "How the student was trained", text, parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def origins(facts: Facts) -> Iterator[tuple[str, str]]:
    """Model → where its weights come from, in words; the student first."""
    cfg = facts.inputs.run.cfg
    yield "initial student", _origin(cfg.student.model)
    for name, teacher in facts.inputs.teachers.teachers.items():
        chain = recipe_fingerprints(facts.inputs.run.storage, teacher.fingerprint)
        recipes = " → ".join(cfg.teacher(name).recipes)
        steps = f", adapted by {recipes} ({' → '.join(chain)})" if chain else ""
        yield name, f"{_origin(cfg.teacher(name).model)}{steps}"


def _origin(source: ModelSource) -> str:
    if source.init is not None:
        return f"random {source.init['model_type']} weights, seed {source.seed}"
    part = (
        f", its first {source.num_hidden_layers} layers"
        if source.num_hidden_layers is not None
        else ""
    )
    if source.hub is not None:
        return f"{source.hub} at {source.revision}{part}"
    return f"{source.path or source.gguf}{part}"

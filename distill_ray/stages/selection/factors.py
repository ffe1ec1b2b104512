"""AuditTable, probes → the factors of every teacher, and draws of them. No Ray.

n questions, K options, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.core import ranking as core
from distill_ray.core.calibration import brier_each, nll_each, normalise, right_each
from distill_ray.core.effects import additive
from distill_ray.core.racing import Race, decide, next_seeds
from distill_ray.core.resampling import Resamples
from distill_ray.stages.results.audit_table import INITIAL, AuditedModel, AuditTable
from distill_ray.stages.results.model_scores import ModelScores
from distill_ray.stages.results.ranking import TaughtMetrics, TeacherEvidence
from distill_ray.stages.results.trial import TrialResult

if TYPE_CHECKING:
    from distill_ray.stages.results.probe_table import ProbeTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metrics = Mapping[str, core.Numbers]
"""`accuracy`, `nll`, `brier` → a mean, or draws [D] of it."""
MIN_PROBES = 2
"""Probes that a teacher needs: one alone says nothing of its own noise."""


@dataclass(frozen=True)
class Evidence:
    """What audits and probes say of every teacher that has both."""

    rows: dict[str, TeacherEvidence]
    """Teacher → the measurements."""
    factors: dict[str, dict[str, float]]
    """Teacher → factor → score in [0, 1]."""
    draws: core.Draws
    """Draws of the factors: probes are resampled over seeds, audits over groups of questions."""
    failed: dict[str, str]
    """Teacher without an audit or enough probes → why."""

    @property
    def teachers(self) -> list[str]:
        """Teachers that can be ranked."""
        return list(self.rows)


def gather(cfg: RunConfig, audited: AuditTable, probed: ProbeTable) -> Evidence:
    """Put audits and probes together.

    Probes' figures come from the additive model of teachers and seeds (see `core.effects`), and
    questions are resampled alike for all teachers, so that a difference between two of them has no
    more noise than is left when they share seeds and questions.

    Raises:
        InputError: too many probes failed for the additive model.
    """
    results: dict[str, list[TrialResult]] = {}
    for result in probed.results():
        results.setdefault(result.teacher, []).append(result)
    names = [n for n in audited.rows if len(results.get(n, [])) >= MIN_PROBES]
    failed = _failures(cfg, audited, probed, results)
    if not names:
        return Evidence({}, {}, core.Draws({}), failed)
    try:
        effects = additive({(n, r.seed): r.kl_moved for n in names for r in results[n]})
    except ValueError as error:
        fix = "Give more probe.seeds, or rerun the failed ones with --retry-failed."
        raise InputError(
            "the probes can't be compared:", [Problem("probe", f"{error}.", fix)]
        ) from error
    control_logprobs = probed.control_logprobs
    tasks = [_Task.of(cfg, task.name, audited.scores, control_logprobs) for task in cfg.tasks]
    # Teacher → for each task, metrics of what it would teach, question by question.
    taught = {n: [task.taught_metrics(audited.scores[n]) for task in tasks] for n in names}
    means = {
        n: [{f: float(v.mean()) for f, v in metrics.items()} for metrics in by_task]
        for n, by_task in taught.items()
    }
    drawn = {
        n: [{f: t.over.means(v) for f, v in metrics.items()} for t, metrics in zip(tasks, by_task)]
        for n, by_task in taught.items()
    }
    rows = {
        n: _evidence(cfg, audited.rows[n], audited.rows[INITIAL], results[n], means[n])
        for n in names
    }
    factors = _factors(cfg, rows, tasks, means, effects.means)
    rng = np.random.default_rng(cfg.seed)
    factor_draws = _factors(cfg, rows, tasks, drawn, effects.draws(cfg.rank.num_draws, rng))
    return Evidence(
        rows=rows,
        factors={n: {f: float(v) for f, v in row.items()} for n, row in factors.items()},
        draws=core.Draws(
            {
                n: {f: np.broadcast_to(v, cfg.rank.num_draws) for f, v in row.items()}
                for n, row in factor_draws.items()
            }
        ),
        failed=failed,
    )


@dataclass(frozen=True)
class _Task:
    """A task's questions, what the labels alone teach of them, and how they are resampled."""

    name: str
    answer_index: Ints
    control_logprobs: Floats | None
    """[n, K] log-likelihoods of the control probe."""
    alpha: float
    over: Resamples
    base: Mapping[str, float]
    """Metrics of the base rates, which know nothing."""

    @classmethod
    def of(
        cls,
        cfg: RunConfig,
        name: str,
        scores: Mapping[str, ModelScores],
        control_logprobs: Mapping[str, Sequence[Sequence[float]]] | None,
    ) -> _Task:
        model, control = scores[INITIAL], None
        if control_logprobs is not None:
            control = np.asarray(control_logprobs[name], np.float64)
        count = len(model.answer_index(name)) if control is None else len(control)
        answer_index = model.answer_index(name)[:count]
        num_options = model.scores(name).shape[1]
        rates = np.bincount(answer_index, minlength=num_options) / len(answer_index)
        base = _metrics_each(np.tile(rates, (count, 1)), answer_index)
        return cls(
            name=name,
            answer_index=answer_index,
            control_logprobs=control,
            alpha=cfg.distill.objective.alpha,
            over=Resamples(model.groups(name)[:count], resamples=cfg.rank.num_draws, seed=cfg.seed),
            base={metric: float(values.mean()) for metric, values in base.items()},
        )

    def taught_metrics(self, model: ModelScores) -> dict[str, Floats]:
        """[n] metrics of what this model would teach, question by question."""
        scores = model.scores(self.name)[: len(self.answer_index)]
        if self.control_logprobs is not None:
            scores = core.target_log_p(scores, self.control_logprobs, self.alpha)
        return _metrics_each(normalise(scores), self.answer_index)


def _metrics_each(p: Floats, answer_index: Ints) -> dict[str, Floats]:
    return {
        "accuracy": right_each(p, answer_index),
        "nll": nll_each(p, answer_index),
        "brier": brier_each(p, answer_index),
    }


def _evidence(
    cfg: RunConfig,
    row: AuditedModel,
    initial: AuditedModel,
    results: Sequence[TrialResult],
    taught: Sequence[Mapping[str, float]],
) -> TeacherEvidence:
    """A teacher's measurements."""
    tasks = row.tasks.values()
    corpora = [c.name for c in cfg.corpora.sources if c.kind == "domain" and c.name in row.text]
    return TeacherEvidence(
        accuracy=[task.accuracy for task in tasks],
        ece=[task.ece for task in tasks],
        ece_floor=[task.ece_floor for task in tasks],
        text=row.text,
        domain_nll=[row.text[name] for name in corpora],
        untrained_nll=[initial.text[name] for name in corpora],
        seeds=[result.seed for result in results],
        kl_moved=[result.kl_moved for result in results],
        kl_removed=[result.kl_removed for result in results],
        gain=[result.gain for result in results],
        taught=[TaughtMetrics(**metrics) for metrics in taught],
    )


def _factors(
    cfg: RunConfig,
    rows: Mapping[str, TeacherEvidence],
    tasks: Sequence[_Task],
    taught: Mapping[str, Sequence[Metrics]],
    kl_moved: Mapping[str, core.Numbers],
) -> dict[str, dict[str, core.Numbers]]:
    """Teacher → factor → number, or draws [D]; tasks count alike, and so do domain corpora.

    Args:
        cfg: the run's.
        rows: teacher → its measurements.
        tasks: the tasks.
        taught: teacher → for each task, metrics of what it would teach.
        kl_moved: teacher → nats of KL that its probes removed.
    """
    most, weight = np.max([kl_moved[n] for n in rows], axis=0), cfg.distill.loss_weights
    chance = [float(np.bincount(t.answer_index).max() / len(t.answer_index)) for t in tasks]
    factors = {}
    for name, row in rows.items():
        pairs = list(zip(taught[name], tasks))
        # Knowledge of the domain's answers and of its text, each as much as the loss counts it.
        knowledge: Any = np.mean([core.skill(m["nll"], t.base["nll"]) for m, t in pairs], 0)
        on_text = [core.skill(a, b) for a, b in zip(row.domain_nll, row.untrained_nll)]
        if on_text and weight.text:
            weighted = weight.task * knowledge + weight.text * np.mean(on_text)
            knowledge = weighted / (weight.task + weight.text)
        factors[name] = {
            "learnability": core.learnability(kl_moved[name], most),
            "accuracy_above_chance": np.mean(
                [core.accuracy_above_chance(m["accuracy"], c) for (m, _), c in zip(pairs, chance)],
                0,
            ),
            "domain_knowledge": knowledge,
            "calibration": np.mean([core.skill(m["brier"], t.base["brier"]) for m, t in pairs], 0),
        }
    return factors


def _failures(
    cfg: RunConfig,
    audited: AuditTable,
    probed: ProbeTable,
    results: Mapping[str, Sequence[TrialResult]],
) -> dict[str, str]:
    """Why a teacher isn't ranked, by the first thing that went wrong."""
    reasons, failed_trials = {}, probed.failed
    for teacher in (t.name for t in cfg.teachers):
        if teacher in audited.failed:
            reasons[teacher] = f"audit: {audited.failed[teacher]}"
        elif len(results.get(teacher, [])) < MIN_PROBES:
            failed = [trial for trial in failed_trials if trial.teacher == teacher]
            text = "; ".join(f"seed {trial.seed}: {trial.reason}" for trial in failed)
            reasons[teacher] = f"probe: {text or 'too few probes ended'}"
    return reasons


def next_wave(
    cfg: RunConfig, evidence: Evidence, seeds: Mapping[str, set[int]]
) -> list[tuple[str, int]]:
    """The trials that decide most; none when the race is over.

    Args:
        cfg: the run's.
        evidence: what is known so far.
        seeds: teacher → seeds of its trials, also of those that failed.
    """
    race = cfg.probe.race
    if race is None or len(evidence.teachers) < 2:
        return []
    num_looks = max(1, race.max_seeds - len(cfg.probe.seeds) + 1)
    state = race_state(cfg, evidence, race.progress, race.confidence, num_looks)
    return next_seeds(state.candidates, seeds, race.max_seeds)


def race_state(
    cfg: RunConfig, evidence: Evidence, progress: float, confidence: float, num_looks: int = 1
) -> Race:
    """Who may still be the best at some progress of the student."""
    early, late = (core.weights(end.model_dump()) for end in (cfg.rank.early, cfg.rank.late))
    weight = core.weights_at(early, late, progress)
    scores = {n: core.sum_of(evidence.draws.factors[n], weight) for n in evidence.teachers}
    return decide(scores, confidence=confidence, num_looks=num_looks)

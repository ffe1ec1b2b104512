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
from distill_ray.core.effects import Effects, additive
from distill_ray.core.racing import Race, decide, next_seeds
from distill_ray.core.resampling import Resamples
from distill_ray.stages.results.audit_table import INITIAL, AuditedModel, AuditTable
from distill_ray.stages.results.model_scores import ModelScores

if TYPE_CHECKING:
    from distill_ray.stages.results.probe_table import ProbeTable

Row = dict[str, Any]
Floats = NDArray[np.float64]
PROBED = "kl_moved"
"""The figure of a probe that a factor is made from."""
SHOWN = ("kl_moved", "kl_removed", "gain")
"""Figures of each probe that are kept as evidence."""
ENOUGH = 2
"""Probes that a teacher needs: one alone says nothing of its own noise."""


@dataclass(frozen=True)
class Evidence:
    """What audits and probes say of every teacher that has both."""

    rows: dict[str, Row]
    """Teacher → the measurements."""
    factors: dict[str, dict[str, float]]
    """Teacher → factor → score in [0, 1]."""
    draws: core.Draws
    """The same under resampling: probes over seeds, audits over groups of questions."""
    left_out: dict[str, str]
    """Teacher without enough of them → why."""

    @property
    def teachers(self) -> list[str]:
        """Those that can be ranked."""
        return list(self.rows)


def gather(cfg: RunConfig, audited: AuditTable, probed: ProbeTable) -> Evidence:
    """Put audits and probes together.

    Probes' figures come from the additive model of teachers and seeds (see `core.effects`), and
    questions are resampled alike for all teachers, so that a difference between two of them has no
    more noise than is left when they share seeds and questions.
    """
    ended: dict[str, list[Row]] = {}
    for row in probed.rows():
        ended.setdefault(row["teacher"], []).append(row)
    names = [n for n in audited.rows if len(ended.get(n, [])) >= ENOUGH]
    left_out = _left_out(cfg, audited, probed, ended)
    if not names:
        return Evidence({}, {}, core.Draws({}), left_out)
    rows = {n: _row(cfg, audited.rows[n], audited.rows[INITIAL], ended[n]) for n in names}
    effects = _effects({(n, t["seed"]): t[PROBED] for n in names for t in ended[n]})
    unaided = probed.unaided
    asked = [_Task.of(cfg, task.name, audited.scores, unaided) for task in cfg.tasks]
    taught = {n: [task.figures(audited.scores[n]) for task in asked] for n in names}
    for n, row in rows.items():
        row["taught"] = [{f: float(v.mean()) for f, v in found.items()} for found in taught[n]]
    means = {n: row["taught"] for n, row in rows.items()}
    point = _factors(cfg, rows, asked, means, effects.means)
    drawn = {
        n: [{f: task.over.means(v) for f, v in each.items()} for task, each in zip(asked, found)]
        for n, found in taught.items()
    }
    rng = np.random.default_rng(cfg.seed)
    draws = _factors(cfg, rows, asked, drawn, effects.draws(cfg.rank.num_draws, rng))
    return Evidence(
        rows=rows,
        factors={n: {f: float(v) for f, v in row.items()} for n, row in point.items()},
        draws=core.Draws(
            {
                n: {f: np.broadcast_to(v, cfg.rank.num_draws) for f, v in row.items()}
                for n, row in draws.items()
            }
        ),
        left_out=left_out,
    )


def _effects(values: Mapping[tuple[str, int], float]) -> Effects:
    try:
        return additive(values)
    except ValueError as error:  # Too many failed.
        fix = "Give more probe.seeds, or try those that failed again with --retry-failed."
        raise InputError(
            "the probes can't be compared:", [Problem("probe", f"{error}.", fix)]
        ) from error


@dataclass(frozen=True)
class _Task:
    """A task's questions, what the labels alone teach of them, and how they are resampled."""

    name: str
    gold: NDArray[np.int64]
    unaided: Floats | None
    """[n, K] log-likelihoods of the control probe."""
    alpha: float
    over: Resamples
    base: dict[str, float]
    """Figures of the base rates, which know nothing."""

    @classmethod
    def of(
        cls,
        cfg: RunConfig,
        name: str,
        sheets: Mapping[str, ModelScores],
        unaided: Mapping[str, Any] | None,
    ) -> _Task:
        sheet = sheets[INITIAL]
        found = None if unaided is None else np.asarray(unaided[name], np.float64)
        count = len(sheet.answer_index(name)) if found is None else len(found)
        gold = sheet.answer_index(name)[:count]
        rates = np.bincount(gold, minlength=sheet.scores(name).shape[1]) / len(gold)
        return cls(
            name=name,
            gold=gold,
            unaided=found,
            alpha=cfg.distill.objective.alpha,
            over=Resamples(sheet.groups(name)[:count], resamples=cfg.rank.num_draws, seed=cfg.seed),
            base={f: float(v.mean()) for f, v in _each(np.tile(rates, (count, 1)), gold).items()},
        )

    def figures(self, sheet: ModelScores) -> dict[str, Floats]:
        """[n] figures of what this model would teach, question by question."""
        said = sheet.scores(self.name)[: len(self.gold)]
        if self.unaided is not None:
            said = core.target_log_p(said, self.unaided, self.alpha)
        return _each(normalise(said), self.gold)


def _each(p: Floats, gold: NDArray[np.int64]) -> dict[str, Floats]:
    return {"accuracy": right_each(p, gold), "nll": nll_each(p, gold), "brier": brier_each(p, gold)}


def _row(cfg: RunConfig, row: AuditedModel, initial: AuditedModel, trials: Sequence[Row]) -> Row:
    """A teacher's measurements."""
    tasks = list(row.tasks.values())
    corpora = [c.name for c in cfg.corpora.sources if c.kind == "domain" and c.name in row.text]
    return {
        "accuracy": [task.accuracy for task in tasks],
        "ece": [task.ece for task in tasks],
        "ece_floor": [task.ece_floor for task in tasks],
        "text": dict(row.text),
        "domain_nll": [row.text[name] for name in corpora],
        "untrained_nll": [initial.text[name] for name in corpora],
        "seeds": [trial["seed"] for trial in trials],
        **{figure: [trial[figure] for trial in trials] for figure in SHOWN},
    }


def _factors(
    cfg: RunConfig,
    rows: Mapping[str, Row],
    asked: Sequence[_Task],
    taught: Mapping[str, Sequence[Mapping[str, Any]]],
    probed: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Teacher → factor → number, or draws [D]; tasks count alike, and so do domain corpora.

    Args:
        cfg: the run's.
        rows: teacher → its measurements.
        asked: the tasks.
        taught: teacher → figures of what it would teach, for each task.
        probed: teacher → nats of KL that went in its probes.
    """
    most = np.max([probed[n] for n in rows], axis=0)
    found = {}
    for n, row in rows.items():
        pairs = list(zip(taught[n], asked))
        chance = [float(np.bincount(task.gold).max() / len(task.gold)) for task in asked]
        found[n] = {
            "learnability": core.learnability(probed[n], most),
            "accuracy_above_chance": np.mean(
                [core.accuracy_above_chance(f["accuracy"], c) for (f, _), c in zip(pairs, chance)],
                0,
            ),
            "domain_knowledge": _domain(
                cfg, row, np.mean([core.skill(f["nll"], t.base["nll"]) for f, t in pairs], 0)
            ),
            "calibration": np.mean([core.skill(f["brier"], t.base["brier"]) for f, t in pairs], 0),
        }
    return found


def _domain(cfg: RunConfig, row: Row, on_tasks: Any) -> Any:
    """Knowledge of the domain's answers and of its text, each as much as the loss counts it."""
    shares = [core.skill(a, b) for a, b in zip(row["domain_nll"], row["untrained_nll"])]
    weight = cfg.distill.loss_weights
    if not shares or not weight.text:
        return on_tasks
    return (weight.task * on_tasks + weight.text * np.mean(shares)) / (weight.task + weight.text)


def _left_out(
    cfg: RunConfig, audited: AuditTable, probed: ProbeTable, ended: Mapping[str, Sequence[Row]]
) -> dict[str, str]:
    """Why a teacher isn't ranked, by the first thing that went wrong."""
    reasons, every = {}, probed.failed
    for teacher in (t.name for t in cfg.teachers):
        failed = [row for row in every if row["teacher"] == teacher]
        if teacher in audited.failed:
            reasons[teacher] = f"audit: {audited.failed[teacher]}"
        elif len(ended.get(teacher, [])) < ENOUGH:
            said = "; ".join(f"seed {row['seed']}: {row['reason']}" for row in failed)
            reasons[teacher] = f"probe: {said or 'too few probes ended'}"
    return reasons


def next_wave(
    cfg: RunConfig, seen: Evidence, seeds: Mapping[str, set[int]]
) -> list[tuple[str, int]]:
    """The trials that would tell most; none when the race is over.

    Args:
        cfg: the run's.
        seen: what is known so far.
        seeds: teacher → seeds of its trials, also of those that failed.
    """
    race = cfg.probe.race
    if race is None or len(seen.teachers) < 2:
        return []
    looks = max(1, race.max_seeds - len(cfg.probe.seeds) + 1)
    found = race_state(cfg, seen, race.progress, race.confidence, looks)
    return next_seeds(found.candidates, seeds, race.max_seeds)


def race_state(
    cfg: RunConfig, seen: Evidence, progress: float, confidence: float, looks: int = 1
) -> Race:
    """Who may still be the best at some progress of the student."""
    early, late = (core.weights(end.model_dump()) for end in (cfg.rank.early, cfg.rank.late))
    weight = core.weights_at(early, late, progress)
    scores = {n: core.sum_of(seen.draws.factors[n], weight) for n in seen.teachers}
    return decide(scores, confidence=confidence, num_looks=looks)

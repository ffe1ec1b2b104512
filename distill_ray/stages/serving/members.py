"""Several teachers at once: who they are, and whose each stream is. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill_ray.config.ensemble import EnsembleConfig
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.core.strategies import best_of
from distill_ray.engine.job import EnsembleSpec
from distill_ray.stages.results.ranking import Ranking, TeacherEvidence

Losses = Mapping[str, Mapping[str, float]]
"""Corpus or task → teacher → nats."""


def members_of(ensemble: EnsembleConfig, ranking: Ranking) -> list[str]:
    """Name the teachers that teach together, best first at the middle of training.

    A teacher that the config names teaches, eligible or not; one that isn't ranked can't.

    Raises:
        InputError: none of them is left.
    """
    if ensemble.teachers is None:
        return ranking.eligible
    ranked = [entry.teacher for entry in ranking.leaderboard["middle"]]
    members = [name for name in ranked if name in ensemble.teachers]
    if not members:
        why = "; ".join(f"{n}: {ranking.failed[n]}" for n in ensemble.teachers)
        problem = Problem("distill.ensemble.teachers", f"none of them is ranked: {why}.")
        raise InputError("nobody is left to teach:", [problem])
    return members


def ensemble_of(cfg: RunConfig, ranking: Ranking) -> EnsembleSpec | None:
    """How several teach together; None where one teaches at a time."""
    ensemble = cfg.distill.ensemble
    if ensemble is None:
        return None
    if ensemble.strategy != "by_domain":
        return EnsembleSpec(ensemble.strategy, ensemble.options)
    members = members_of(ensemble, ranking)
    assignment = assigned(cfg, ensemble.assignment, ranking.evidence, members)
    return EnsembleSpec(ensemble.strategy, {"assignment": assignment})


def assigned(
    cfg: RunConfig,
    overrides: Mapping[str, str],
    evidence: Mapping[str, TeacherEvidence],
    members: Sequence[str],
) -> dict[str, str]:
    """Stream → teacher, for all streams: the one that the config gives it, else its domain's best.

    Args:
        cfg: the run's.
        overrides: stream or task → teacher; one that isn't a member is passed over.
        evidence: as `Ranking.evidence`.
        members: best first; they settle ties, and the first has what nothing is known of.
    """
    best = best_of(losses_by_domain(cfg, evidence), members)
    tasks = {s: t.name for t in cfg.tasks for s in (t.labelled_stream, t.prompts_stream)}
    teachers_by_stream = {}
    for stream in cfg.streams():
        domain = tasks.get(stream, stream)
        named = overrides.get(stream, overrides.get(domain, ""))
        teachers_by_stream[stream] = named if named in members else best.get(domain, members[0])
    return teachers_by_stream


def losses_by_domain(cfg: RunConfig, evidence: Mapping[str, TeacherEvidence]) -> Losses:
    """What each teacher leaves to be learned in each domain.

    Of a task: the NLL of what it would teach, its answers mixed with those that the control probe
    has learned from the labels alone. Of a corpus: its own NLL on held-out text.
    """
    tasks = {
        task.name: {teacher: row.taught[i].nll for teacher, row in evidence.items()}
        for i, task in enumerate(cfg.tasks)
    }
    corpora = {
        corpus.name: {teacher: row.text[corpus.name] for teacher, row in evidence.items()}
        for corpus in cfg.corpora.sources
        if all(corpus.name in row.text for row in evidence.values())
    }
    return {**tasks, **corpora}

"""AuditTable, ProbeTable → Ranking: a phase-weighted score with intervals. No Ray."""

from __future__ import annotations

import io

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.core import ranking as core
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import AuditedModel, AuditTable
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import DRAWS, PHASES, RANKING, Ranking, RankingRecord
from distill_ray.stages.selection.factors import gather, race_state

VERSION = 7


def rank(run: Run, audited: AuditTable, probed: ProbeTable) -> Ranking:
    """Combine audits and probes.

    Raises:
        InputError: no teacher has been through both.
    """
    identity = {
        "version": VERSION,
        "rank": run.cfg.rank,
        "audit": audited.artifact.fingerprint,
        "probe": probed.fingerprints(),
        "failed": probed.failed,
        "seed": run.cfg.seed,
    }
    artifact = run.artifact("rank", "", identity)
    if artifact.is_complete():
        run.reused("rank")
    else:
        with run.stage("rank"), artifact.building() as building:
            record, draws = _ranking(run.cfg, audited, probed)
            record.write(building, RANKING)
            arrays = {
                # [factors, D]
                f"teacher:{n}": np.stack([row[f] for f in core.FACTORS]).astype(np.float32)
                for n, row in draws.factors.items()
            }
            file = io.BytesIO()
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            building.storage.write_bytes(DRAWS, file.getvalue())
            building.counts |= {s: rows[0].teacher for s, rows in record.leaderboard.items()}
    return Ranking(artifact)


def _ranking(
    cfg: RunConfig, audited: AuditTable, probed: ProbeTable
) -> tuple[RankingRecord, core.Draws]:
    """The ranking, and the draws of the factors that its intervals come from."""
    evidence = gather(cfg, audited, probed)
    if not evidence.teachers:
        problems = [Problem(f"teachers.{n}", f"{why}.") for n, why in evidence.failed.items()]
        raise InputError("no teacher is left to rank:", problems)
    early, late = (core.weights(end.model_dump()) for end in (cfg.rank.early, cfg.rank.late))
    confidence = cfg.rank.confidence
    ineligible = {n: _ineligible(cfg, audited.rows[n]) for n in evidence.teachers}
    record = RankingRecord(
        factors=evidence.factors,
        weights={"early": early, "late": late},
        leaderboard={
            phase: core.leaderboard(
                evidence.factors,
                evidence.draws,
                early,
                late,
                progress=progress,
                confidence=confidence,
            )
            for phase, progress in PHASES.items()
        },
        verdicts={
            phase: str(race_state(cfg, evidence, progress, confidence))
            for phase, progress in PHASES.items()
        },
        evidence=evidence.rows,
        ineligible={name: reasons for name, reasons in ineligible.items() if reasons},
        failed=evidence.failed,
        temperatures={n: audited.temperatures[n] for n in evidence.teachers},
    )
    return record, evidence.draws


def _ineligible(cfg: RunConfig, row: AuditedModel) -> list[str]:
    """Why a teacher can't serve; empty for one that can."""
    reasons = []
    if row.size_ratio <= cfg.rank.min_size_ratio:
        reasons.append(f"no size advantage: {row.size_ratio:.2f} of the student's parameters")
    for name, task in row.tasks.items():
        if task.valid is not None and task.valid.value < cfg.rank.min_valid_answers:
            share = f"{task.valid.value:.0%}"
            reasons.append(f"{share} of its answers to {name} are one of the options")
    return reasons

"""AuditTable, ProbeTable → Ranking: a stage-weighted score with intervals. No Ray."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.core import ranking as core
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import AuditedModel, AuditTable
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import DRAWS, PHASES, Ranking
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
            result, draws = _ranking(run.cfg, audited, probed)
            building.write_json("ranking.json", result)
            building.storage.write_bytes(DRAWS, _packed(draws))
            building.counts |= {s: rows[0]["teacher"] for s, rows in result["standings"].items()}
    return Ranking(artifact)


def _packed(draws: core.Draws) -> bytes:
    """`teacher:<name>` → [factors, D]."""
    arrays = {
        f"teacher:{n}": np.stack([row[f] for f in core.FACTORS]).astype(np.float32)
        for n, row in draws.factors.items()
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _ranking(
    cfg: RunConfig, audited: AuditTable, probed: ProbeTable
) -> tuple[dict[str, Any], core.Draws]:
    seen = gather(cfg, audited, probed)
    if not seen.teachers:
        problems = [Problem(f"teachers.{n}", f"{why}.") for n, why in seen.left_out.items()]
        raise InputError("no teacher is left to rank:", problems)
    early, late = (core.weights(end.model_dump()) for end in (cfg.rank.early, cfg.rank.late))
    confidence = cfg.rank.confidence
    result = {
        "factors": seen.factors,
        "weights": {"early": early, "late": late},
        "standings": {
            stage: [
                asdict(row)
                for row in core.leaderboard(
                    seen.factors, seen.draws, early, late, progress=at, confidence=confidence
                )
            ]
            for stage, at in PHASES.items()
        },
        "calls": {s: str(race_state(cfg, seen, at, confidence)) for s, at in PHASES.items()},
        "evidence": seen.rows,
        "marks": {n: found for n in seen.teachers if (found := _marks(cfg, audited.rows[n]))},
        "left_out": seen.left_out,
        "temperatures": {n: audited.temperatures[n] for n in seen.teachers},
    }
    return result, seen.draws


def _marks(cfg: RunConfig, row: AuditedModel) -> list[str]:
    """Why a teacher can't serve; empty for one that can."""
    found = []
    if row.size_ratio <= cfg.rank.min_size_ratio:
        found.append(f"no size advantage: {row.size_ratio:.2f} of the student's parameters")
    for name, task in row.tasks.items():
        if task.valid is not None and task.valid.value < cfg.rank.min_valid_answers:
            found.append(f"{task.valid.value:.0%} of its answers to {name} are one of the options")
    return found

"""Which probes come next: more seeds where it is still open which teacher leads. No Ray."""

from __future__ import annotations

from collections.abc import Mapping

from distill_ray.config.run import RunConfig
from distill_ray.core import ranking as core
from distill_ray.core.racing import Race, decide, next_seeds
from distill_ray.stages.evidence import Evidence


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
    found = standing(cfg, seen, race.progress, race.confidence, looks)
    return next_seeds(found.open, seeds, race.max_seeds)


def standing(
    cfg: RunConfig, seen: Evidence, progress: float, confidence: float, looks: int = 1
) -> Race:
    """Who may still be the best at some progress of the student."""
    early, late = (core.weights(end.model_dump()) for end in (cfg.rank.early, cfg.rank.late))
    weight = core.weights_at(early, late, progress)
    scores = {n: core.sum_of(seen.draws.factors[n], weight) for n in seen.teachers}
    return decide(scores, confidence=confidence, looks=looks)

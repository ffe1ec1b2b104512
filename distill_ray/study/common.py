"""What all studies share: seeds of full trainings, which trials ended, and what a study costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.manifest import Manifest
from distill_ray.runtime.run import Run
from distill_ray.stages.results.trial import Trial

TrialsByArm = Mapping[str, Mapping[int, Trial]]
"""Arm → seed → its trial."""
FIRST_SEED = 500
"""Full trainings read the rows in other orders than the probes, whose seeds start at 0."""


def data_seed(run: Run, seed: int) -> int:
    """Seed of the order of the rows in a full training."""
    return run.cfg.seed * 1000 + FIRST_SEED + seed


def complete_trials(trials: TrialsByArm, seeds: Sequence[int]) -> dict[str, list[Trial]]:
    """Arm → its trials in the order of the seeds, for arms that are complete with every seed."""
    return {
        arm: [by_seed[seed] for seed in seeds]
        for arm, by_seed in trials.items()
        if all(seed in by_seed and by_seed[seed].artifact.is_complete() for seed in seeds)
    }


def failed_trials(trials: TrialsByArm) -> Iterator[tuple[str, int, str]]:
    """Arm, seed and reason of each trial that failed."""
    for arm, by_seed in trials.items():
        for seed, trial in by_seed.items():
            reason = trial.artifact.failure()
            if reason is not None and not trial.artifact.is_complete():
                yield arm, seed, reason


@dataclass(frozen=True)
class Cost:
    """Time that a domain's artifacts took."""

    busy_s: float
    """See `busy_s`."""
    worker_s: float
    """Sum over all artifacts."""


def cost_of(artifacts: Sequence[Artifact]) -> Cost:
    """The cost of those artifacts that are complete."""
    manifests = [artifact.manifest() for artifact in artifacts if artifact.is_complete()]
    return Cost(busy_s(manifests), sum(manifest.wall_s for manifest in manifests))


def busy_s(manifests: Iterable[Manifest]) -> float:
    """Seconds in which at least one artifact was being built.

    An artifact was built from `wall_s` before `created` until `created`. Work that a kill cut off
    and starts of processes don't count.
    """
    ends = [(datetime.fromisoformat(m.created).timestamp(), m.wall_s) for m in manifests]
    total, until = 0.0, float("-inf")
    for start, end in sorted((end - wall, end) for end, wall in ends):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total

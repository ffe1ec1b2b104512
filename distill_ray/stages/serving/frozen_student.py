"""The frozen student that Adaptive Weighting compares each sample with (arXiv 2601.10114).

It is the control: the same student, fine-tuned without a teacher. Its losses on the rows that a
distillation will read are computed once, and kept as a teacher's targets are.
"""

from __future__ import annotations

from dataclasses import replace

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.serving import CachedServing, TopKTargets
from distill_ray.engine.job import FROZEN_STUDENT, TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.targets import with_targets


def is_weighted(training_job: TrainingJob) -> bool:
    """Whether a job's samples are weighted by a frozen student."""
    objective = training_job.spec.objective
    return objective is not None and objective.weighting is not None


def with_frozen_student(run: Run, training_job: TrainingJob, control: TrainingJob) -> TrainingJob:
    """Compute the losses of a job's frozen student, unless they are on disk, and name them in it.

    Args:
        run: of both.
        training_job: a distillation whose samples are weighted; one that is done stays as it is.
        control: the training without a teacher, done.

    Raises:
        InputError: the disk is full, or the control can't be used.
    """
    if training_job.artifact.is_complete():
        return training_job
    checkpoints = {FROZEN_STUDENT: [control.selected_ref()]}
    # A token's own -log p is kept with its targets, so the least of those will do.
    request = replace(
        training_job,
        spec=replace(
            training_job.spec,
            teaching=TeachingSpec(checkpoints, FROZEN_STUDENT),
            objective=ObjectiveConfig(),
        ),
        serving=CachedServing(targets=TopKTargets(k=1), num_actors=run.cfg.cluster.num_workers),
    )
    filled = with_targets(run, request, {FROZEN_STUDENT: control.artifact.fingerprint})
    return replace(training_job, frozen_student=filled.targets[FROZEN_STUDENT, 0])

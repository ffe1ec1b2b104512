"""Run the trials that have no outcome yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill_ray.data.examples import Questions
from distill_ray.runtime.run import Run
from distill_ray.stages.results.trial import Trial, Trials


def run_missing(
    run: Run,
    stage: str,
    trials: Sequence[Trial],
    questions: Sequence[Questions],
    at_end: Mapping[str, Sequence[Questions]] | None = None,
) -> Trials:
    """Run the trials that aren't settled yet.

    Args:
        run: the run.
        stage: the stage that shows their progress.
        trials: all of them.
        questions: held-out questions, which the student answers at every checkpoint.
        at_end: split → questions that the trained student answers where its answers are stored.
    """
    for trial in trials:
        run.claim_retry(trial.artifact)
    missing = [trial for trial in trials if not trial.artifact.is_settled()]
    if not missing:
        run.reused(stage)
    else:
        from distill_ray.stages.trials.worker import run_trials

        with run.stage(stage):
            run_trials(run, stage, missing, questions, at_end or {})
    return Trials(list(trials))

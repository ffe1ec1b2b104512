"""Run the trials that have no outcome yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill_ray.data.examples import Questions
from distill_ray.runtime.run import Run
from distill_ray.stages.results.trial import Trial, Trials


def run_left(
    run: Run,
    stage: str,
    trials: Sequence[Trial],
    questions: Sequence[Questions],
    at_end: Mapping[str, Sequence[Questions]] | None = None,
) -> Trials:
    """Run the trials that are left.

    Args:
        run: the run.
        stage: under which their progress is shown.
        trials: all of them.
        questions: held-out ones, which the student answers at every checkpoint.
        at_end: split → those that the trained student answers where its answers are kept.
    """
    for trial in trials:
        run.claim_retry(trial.artifact)
    left = [trial for trial in trials if not trial.artifact.is_settled()]
    if not left:
        run.reused(stage)
    else:
        from distill_ray.stages.trials.worker import run_trials

        with run.stage(stage):
            run_trials(run, stage, left, questions, at_end or {})
    return Trials(list(trials))

"""The Ray side of probes: trials on Ray Tune, one worker each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from ray import tune

from distill_ray.core.calibration import nll_each, normalise
from distill_ray.data.examples import Questions
from distill_ray.engine.bad_steps import TooManyBadStepsError
from distill_ray.engine.job import build_session
from distill_ray.engine.loop import distill, validate
from distill_ray.engine.score import option_scores
from distill_ray.engine.session import Session
from distill_ray.runtime.cluster import hush, mailbox, worker_device, worker_resources
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage, cache_folder
from distill_ray.stages.local_files import local_ref
from distill_ray.stages.probe import Trial, outcome
from distill_ray.stages.set_aside import keeper, leave_reason, raise_reason


class ProbeFailedError(RuntimeError):
    """Trials that failed, with their reasons; those that ended are kept."""


def run_trials(run: Run, trials: Sequence[Trial], questions: Sequence[Questions]) -> None:
    """Run every trial; each writes its artifact when it ends, so none is run twice.

    Args:
        run: the run.
        trials: those that are left.
        questions: validation questions, on which the task gain is measured.

    Raises:
        ProbeFailedError: some failed. The others' results are kept for the next attempt.
        InputError: one had too many steps in a row without a finite loss.
    """
    run.ray()
    hush("ray.tune")
    # A trial's artifact is its checkpoint: what Tune itself kept of an attempt is disposable.
    state = ".state/probe"
    run.storage.delete(state)
    stopped = run.storage.sub(".state/stopped-probe")
    run.storage.delete(".state/stopped-probe")
    with mailbox(run.progress) as box:
        resources = {key.lower(): value for key, value in worker_resources(run.cfg.cluster).items()}
        trainable = tune.with_resources(
            tune.with_parameters(
                _trial,
                trials=list(trials),
                questions=_some(run, questions),
                box=box,
                device=worker_device(run.cfg.cluster),
                stopped=stopped,
            ),
            resources,
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=run.cfg.probe.max_concurrent or run.cfg.cluster.num_workers,
                # A worker that has loaded torch takes the next trial.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials", storage_path=run.storage.sub(state).uri, verbose=0
            ),
        )
        results = tuner.fit()
    run.storage.delete(state)
    raise_reason(stopped)
    if results.errors:
        failed = [trial.job.name for trial in trials if not trial.artifact.done()]
        raise ProbeFailedError(f"probes failed: {'; '.join(failed)}") from results.errors[0]


def _some(run: Run, questions: Sequence[Questions]) -> list[Questions]:
    """The tasks' own questions, without the shifted sets, as many as the probe asks for."""
    tasks = {task.name for task in run.cfg.tasks}
    return [q.first(run.cfg.probe.questions) for q in questions if q.name in tasks]


def _trial(
    config: dict[str, Any],
    *,
    trials: Sequence[Trial],
    questions: Sequence[Questions],
    box: Any,
    device: str,
    stopped: Storage,
) -> None:
    trial = trials[config["number"]]
    try:
        result = _fill(trial, questions, device)
    except TooManyBadStepsError as error:
        leave_reason(stopped, f"probe {trial.job.name}", error)
        return
    removed, gain = result["kl_removed"], result["gain"]
    text = f"{trial.job.name}: {removed:.0%} of the KL removed, task gain {gain:.3f} nats"
    box.push.remote(Event("progress", "probe", text, done=config["number"] + 1, total=len(trials)))
    tune.report({"kl_removed": removed, "gain": gain})


def _fill(trial: Trial, questions: Sequence[Questions], device: str) -> dict[str, Any]:
    data = replace(trial.job.data, folder=trial.shards.local(), cache=cache_folder() / "rows")
    job = replace(trial.job.with_refs(local_ref), data=data)
    tokens_a_step = job.training.batch_rows * job.data.sequence_length
    with trial.artifact.building() as building:
        session = build_session(job, torch.device(device))
        session.bad.keep = keeper(building.storage)
        before = {**validate(session), "question_nll": _question_nll(session, questions)}
        rungs = []
        for step in distill(session):
            if step.validation is not None:
                nll = _question_nll(session, questions)
                tokens = step.number * tokens_a_step
                rungs.append({"tokens": tokens, **step.validation, "question_nll": nll})
        result = outcome(before, rungs)
        building.write_json("probe.json", result)
        building.counts |= {"steps": job.steps, "tokens": job.steps * tokens_a_step}
        building.counts |= {"bad_steps": session.bad.total}
    return result


def _question_nll(session: Session, questions: Sequence[Questions]) -> float:
    """-log p(right option) of the student, over the options; mean over tasks, in nats."""
    session.backend.train(False)
    with session.backend.whole() as model:
        scores = [option_scores(model, q, device=session.backend.device) for q in questions]
    return fmean(
        nll_each(normalise(found), np.asarray(q.gold)).mean() for found, q in zip(scores, questions)
    )

"""The Ray side of trials: on Ray Tune, one worker each."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, TypedDict

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import tune

from distill_ray.config.cluster import ClusterConfig
from distill_ray.core.calibration import nll_each, normalise, right_each
from distill_ray.data.batches import MixedRows
from distill_ray.data.examples import Questions
from distill_ray.engine import checkpoint
from distill_ray.engine.build import build_session
from distill_ray.engine.inference.loglikelihood import option_scores
from distill_ray.engine.job import TrainingSpec
from distill_ray.engine.loop import distill
from distill_ray.engine.session import Session
from distill_ray.engine.validation import validate
from distill_ray.runtime.artifacts import Building
from distill_ray.runtime.autoscaler import has_autoscaler
from distill_ray.runtime.cluster import (
    event_queue,
    silence_logger,
    teacher_nodes,
    waiting_for_nodes,
    worker_device,
    worker_resources,
)
from distill_ray.runtime.external_errors import outside_cause
from distill_ray.runtime.progress import Event
from distill_ray.runtime.ray_private import keep_aws_keys_out_of_trials
from distill_ray.runtime.run import Run
from distill_ray.stages.results.curve import StreamRead
from distill_ray.stages.results.data_spec import local_data
from distill_ray.stages.results.local_files import local_ref
from distill_ray.stages.results.trial import (
    ANSWERS,
    OUTCOME,
    WEIGHTS,
    AnswerMetrics,
    CheckpointMetrics,
    StudentMetrics,
    Trial,
    TrialOutcome,
    TrialSchedule,
    TrialSwitch,
    outcome,
)
from distill_ray.stages.training.quarantine import quarantine_writer


@dataclass(frozen=True)
class EvalQuestions:
    """Questions that the students answer."""

    at_checkpoints: Sequence[Questions]
    at_end: Mapping[str, Sequence[Questions]]
    """Split → questions, for students whose answers are stored."""


def run_trials(
    run: Run,
    stage: str,
    trials: Sequence[Trial],
    questions: Sequence[Questions],
    at_end: Mapping[str, Sequence[Questions]],
) -> None:
    """Run every trial. Each writes its artifact when it ends, or there the reason why it failed.

    A process that dies is started again `cluster.max_failures` times; what its code raises would
    be raised again, so that fails at once. The others go on.
    """
    run.ray()
    silence_logger("ray.tune")
    # A trial's artifact is its checkpoint: what Tune itself kept of an attempt is disposable.
    state = f".state/{stage}"
    run.storage.delete(state)
    at_once = run.cfg.probe.max_concurrent_trials or _most_at_once(run.cfg.cluster, len(trials))
    each, nodes = worker_resources(run.cfg.cluster), teacher_nodes(run.cfg.cluster)
    with event_queue(run.progress) as events, waiting_for_nodes(run.progress, stage, each):
        resources = tune.PlacementGroupFactory(
            [each], **({"bundle_label_selector": [nodes]} if nodes else {})
        )
        parameters = tune.with_parameters(
            _trial,
            stage=stage,
            trials=list(trials),
            questions=EvalQuestions(list(questions), at_end),
            events=events,
            device=worker_device(run.cfg.cluster),
        )
        tuner = tune.Tuner(
            tune.with_resources(parameters, resources),
            param_space={"number": tune.grid_search(list(range(len(trials))))},
            # A worker that has loaded torch takes the next trial.
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
            run_config=tune.RunConfig(
                name="trials",
                **run.storage.sub(state).place,
                failure_config=tune.FailureConfig(max_failures=run.cfg.cluster.max_failures),
                verbose=0,
            ),
        )
        # Tune would take Ctrl-C for itself and come back without a word.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        keep_aws_keys_out_of_trials()
        results = tuner.fit()
    for trial, result in zip(trials, results):
        if (cause := outside_cause(result.error)) is not None and not trial.artifact.is_complete():
            raise cause
        if not trial.artifact.is_complete() and trial.artifact.failure() is None:
            reason = "it ended without a result"
            if result.error is not None:
                lines = [line.strip() for line in str(result.error).splitlines() if line.strip()]
                reason = lines[-1] if lines else type(result.error).__name__
            trial.artifact.record_failure(reason)
    run.storage.delete(state)


def _most_at_once(cfg: ClusterConfig, trials: int) -> int:
    """As many workers as there are here; on a cluster, as many as it has room for.

    Where it grows, those that find no room wait for nodes.
    """
    if cfg.address is None:
        return cfg.num_workers
    if has_autoscaler():
        return trials
    free = ray.cluster_resources()
    return max(1, int(min(free.get(k, 0) // each for k, each in worker_resources(cfg).items())))


def _trial(
    config: dict[str, int],
    *,
    stage: str,
    trials: Sequence[Trial],
    questions: EvalQuestions,
    events: Any,
    device: str,
) -> None:
    """Run one trial in a Tune worker; its failure is recorded, unless the cause lies outside."""
    trial = trials[config["number"]]
    name = trial.training_spec.name
    try:
        result = _fill(trial, questions, device)
    except Exception as error:
        if outside_cause(error) is not None:
            raise
        reason = f"{type(error).__name__}: {error}"
        trial.artifact.record_failure(reason)
        text, reported = f"{name} failed: {reason}", {"failed": 1.0}
    else:
        removed, gain = result.kl_removed, result.gain
        text = f"{name}: {removed:.0%} of the KL removed, task gain {gain:.3f} nats"
        reported = {"kl_removed": removed, "gain": gain}
    events.push.remote(
        Event("progress", stage, text, completed=config["number"] + 1, total=len(trials))
    )
    tune.report(reported)


def _fill(trial: Trial, questions: EvalQuestions, device: str) -> TrialOutcome:
    """Train a trial's student and write its artifact."""
    data = local_data(trial.training_spec.data, trial.shards)
    training_spec = replace(trial.training_spec.with_refs(local_ref), data=data)
    with trial.artifact.building() as building:
        session = build_session(training_spec, torch.device(device))
        session.skipped.quarantine = quarantine_writer(building.storage)
        result = _train(session, questions.at_checkpoints, training_spec, building)
        if isinstance(session.source, MixedRows):
            streams = session.source.read(session.step).items()
            read = {name: StreamRead(**counts) for name, counts in streams}
            result = result.model_copy(update={"streams": read})
        result.write(building, OUTCOME)
        if trial.save.answers:
            arrays = {
                f"{split}/{task}": scores.astype(np.float32)
                for split, questions_of_split in questions.at_end.items()
                for task, scores in _options(session, questions_of_split).items()
            }
            file = io.BytesIO()
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            building.storage.write_bytes(ANSWERS, file.getvalue())
        if trial.save.weights:
            with building.storage.folder(WEIGHTS) as folder:
                checkpoint.export(session, folder)
        building.counts |= {
            "steps": session.step,
            "tokens": session.step * _tokens_a_step(training_spec),
            "skipped_steps": session.skipped.total,
        }
    return result


def _train(
    session: Session,
    questions: Sequence[Questions],
    training_spec: TrainingSpec,
    building: Building,
) -> TrialOutcome:
    """Train to the end, and compute the outcome from the metrics at every checkpoint."""
    started = time.monotonic()
    before = StudentMetrics(validation=validate(session), **_answer_metrics(session, questions))
    points, measuring_s = [], time.monotonic() - started
    for step in distill(session):
        if step.validation is not None and step.number in training_spec.checkpoint_steps:
            measuring_since = time.monotonic()
            points.append(
                CheckpointMetrics(
                    tokens=step.number * _tokens_a_step(training_spec),
                    validation=step.validation,
                    **_answer_metrics(session, questions),
                )
            )
            measuring_s += time.monotonic() - measuring_since
    building.counts["training_s"] = round(time.monotonic() - started - measuring_s, 3)
    result = outcome(before, points)
    if session.teaching is None:
        options = _options(session, questions)
        rows = {task: scores.tolist() for task, scores in options.items()}
        return result.model_copy(update={"options": rows})
    teacher, checkpoint_index = session.teaching.state.checkpoint
    log = [TrialSwitch(**asdict(e), changes=e.changes) for e in session.teaching.log]
    schedule = TrialSchedule(teacher=teacher, checkpoint_index=checkpoint_index, log=log)
    return result.model_copy(update={"schedule": schedule})


def _tokens_a_step(training_spec: TrainingSpec) -> int:
    return training_spec.training.global_batch_size * training_spec.data.sequence_length


class _AnswerMetrics(TypedDict):
    nll: float
    accuracy: float
    tasks: dict[str, AnswerMetrics]


def _answer_metrics(session: Session, questions: Sequence[Questions]) -> _AnswerMetrics:
    """How the student answers each task, and the means over tasks."""
    tasks = {}
    for q, scores in zip(questions, _options(session, questions).values()):
        answer_index, p = np.asarray(q.answer_index), normalise(scores)
        tasks[q.name] = AnswerMetrics(
            nll=float(nll_each(p, answer_index).mean()),
            accuracy=float(right_each(p, answer_index).mean()),
        )
    return {
        "nll": fmean(task.nll for task in tasks.values()),
        "accuracy": fmean(task.accuracy for task in tasks.values()),
        "tasks": tasks,
    }


def _options(session: Session, questions: Sequence[Questions]) -> dict[str, NDArray[np.float64]]:
    """Task → [n, K] the student's log-likelihood of each option."""
    session.backend.train(False)
    with session.backend.unsharded() as model:
        return {q.name: option_scores(model, q, device=session.backend.device) for q in questions}

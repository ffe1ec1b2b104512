"""The Ray side of scoring: one task a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch

from distill_ray.config.cluster import ClusterConfig
from distill_ray.data.batches import in_order
from distill_ray.engine.job import load_streams
from distill_ray.engine.score import divergence, option_scores, text_score
from distill_ray.models.load import load_frozen, num_parameters
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.cluster import worker_device, worker_resources
from distill_ray.runtime.storage import cache_folder
from distill_ray.stages.local_files import local_ref
from distill_ray.stages.scoring import Subject

BATCH_ROWS = 16


def score_in_parallel(
    cfg: ClusterConfig, jobs: Sequence[tuple[Subject, Artifact]], spec: Mapping[str, Any]
) -> Iterator[str]:
    """Score each subject into its artifact; yields names as they are done."""
    resources = worker_resources(cfg)
    task = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(_score)
    shared = ray.put({**spec, "device": worker_device(cfg)})
    waiting = list(jobs)
    left: dict[Any, str] = {}
    while waiting or left:
        # No more models in memory at a time than there are workers.
        while waiting and len(left) < cfg.num_workers:
            subject, artifact = waiting.pop(0)
            left[task.remote(subject, artifact, shared)] = subject.name
        (done,), _ = ray.wait(list(left), num_returns=1)
        ray.get(done)
        yield left.pop(done)


def _score(subject: Subject, artifact: Artifact, spec: Mapping[str, Any]) -> None:
    device = torch.device(spec["device"])
    model = load_frozen(local_ref(subject.ref), device=device)
    folder = spec["shards"].local()
    data = replace(spec["data"], folder=folder, cache=cache_folder() / "rows")
    streams = load_streams(data, spec["split"], data.validation_rows)
    with artifact.building() as building:
        questions = spec["questions"]
        sheet = {
            "parameters": num_parameters(model),
            "gold": {q.name: q.gold for q in questions},
            "groups": {q.name: q.groups for q in questions},
            "options": {
                q.name: option_scores(model, q, device=device, vocabulary=data.vocabulary).round(5)
                for q in questions
                if q.gold
            },
            "text": {
                name: text_score(
                    model, in_order({name: s}, batch_rows=BATCH_ROWS), device, data.vocabulary
                ).nll
                for name, s in streams.items()
                if name in spec["corpora"]
            },
            "divergence": _divergence(subject, model, streams, device, data.vocabulary),
        }
        building.write_json("sheet.json", sheet)
        building.counts |= {"questions": sum(len(q.gold) for q in questions)}


def _divergence(
    subject: Subject,
    model: Any,
    streams: Mapping[str, Any],
    device: torch.device,
    vocabulary: int | None,
) -> dict[str, float]:
    if subject.teacher is None:
        return {}
    teacher = load_frozen(local_ref(subject.teacher), device=device)
    batches = in_order(streams, batch_rows=BATCH_ROWS)
    return divergence(model, teacher, batches, device, vocabulary)

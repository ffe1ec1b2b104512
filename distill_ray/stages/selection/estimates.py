"""ShardSet, TeacherSet, AuditTable → Estimates: how each teacher's own words suit the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distill_ray.data.examples import Questions, up_to
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.model_scores import ModelScores
from distill_ray.stages.results.probe_table import EstimateTable
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import TeacherSet

VERSION = 1
Samples = list[tuple[list[int], list[int]]]


def estimate_all(
    run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable
) -> EstimateTable:
    """Read what the audit had each teacher write, with the student's eyes; or find it read."""
    scores = {n: audited.scores[n] for n in teachers.teachers if n in audited.scores}
    identity = {
        "version": VERSION,
        "student": teachers.student.fingerprint,
        "scores": {name: model.artifact.fingerprint for name, model in scores.items()},
        "gradients": run.cfg.probe.num_gradients,
        "seed": run.cfg.seed,
    }
    artifact = run.artifact("estimates", "", identity)
    if not artifact.is_complete():
        import ray

        from distill_ray.runtime.cluster import teacher_nodes, worker_device, worker_resources

        run.ray()
        asked = task_questions(shards, "validation")
        said = {name: _said(model, asked) for name, model in scores.items()}
        needs = worker_resources(run.cfg.cluster)
        cpus, gpus, nodes = needs["CPU"], needs.get("GPU", 0), teacher_nodes(run.cfg.cluster)
        work = ray.remote(num_cpus=cpus, num_gpus=gpus, label_selector=nodes)(_estimate)
        vocabulary = shards.counts["tokenizer"]["vocab_size"]
        run.note("probe", "reading the teachers' answers")
        with artifact.building() as building:
            where = worker_device(run.cfg.cluster)
            cfg = (run.cfg.probe.num_gradients, vocabulary, run.cfg.seed, where)
            building.write_json(
                "estimates.json", ray.get(work.remote(teachers.student.ref, said, *cfg))
            )
    return EstimateTable(artifact)


def _said(sheet: ModelScores, asked: list[Questions]) -> Samples:
    """A teacher's answers with their prompts, up to the end of each; empty ones left out."""
    pairs = [
        (prompt, up_to(ids, q.end))
        for q in asked
        for prompt, ids in zip(q.prompts, sheet.generated(q.name))
    ]
    return [(prompt, answer) for prompt, answer in pairs if answer]


def _estimate(
    student: ModelRef,
    said: Mapping[str, Samples],
    gradients: int,
    vocabulary: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """In a worker: the student is loaded once for all teachers."""
    import torch

    from distill_ray.engine.inference.student_estimates import estimate
    from distill_ray.models.load import load_model
    from distill_ray.stages.results.local_files import local_ref

    where = torch.device(device)
    model = load_model(local_ref(student)).to(where)
    return {
        name: asdict(
            estimate(
                model, samples, device=where, vocabulary=vocabulary, gradients=gradients, seed=seed
            )
        )
        if samples
        else None
        for name, samples in said.items()
    }

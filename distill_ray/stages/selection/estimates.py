"""ShardSet, TeacherSet, AuditTable → EstimateTable: how each teacher's answers suit the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from distill_ray.data.examples import up_to
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.probe_table import (
    ESTIMATES,
    EstimatesRecord,
    EstimateTable,
    TeacherEstimates,
)
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import TeacherSet

VERSION = 1
Samples = list[tuple[list[int], list[int]]]
"""A teacher's answers that aren't empty, each up to its end: token ids of prompt and answer."""


def estimate_all(
    run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable
) -> EstimateTable:
    """Run the initial student over the answers that each teacher wrote in the audit."""
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
        questions = task_questions(shards, "validation")
        samples: dict[str, Samples] = {}
        for name, model in scores.items():
            answers = [
                (prompt, up_to(ids, q.end))
                for q in questions
                for prompt, ids in zip(q.prompts, model.generated(q.name))
            ]
            samples[name] = [(prompt, answer) for prompt, answer in answers if answer]
        needs = worker_resources(run.cfg.cluster)
        cpus, gpus, nodes = needs["CPU"], needs.get("GPU", 0), teacher_nodes(run.cfg.cluster)
        work = ray.remote(num_cpus=cpus, num_gpus=gpus, label_selector=nodes)(_estimate)
        vocabulary = shards.counts.tokenizer.vocab_size
        run.note("probe", "reading the teachers' answers")
        with artifact.building() as building:
            job = _EstimateJob(
                student=teachers.student.ref,
                samples=samples,
                gradients=run.cfg.probe.num_gradients,
                vocabulary=vocabulary,
                seed=run.cfg.seed,
                device=worker_device(run.cfg.cluster),
            )
            EstimatesRecord(teachers=ray.get(work.remote(job))).write(building, ESTIMATES)
    return EstimateTable(artifact)


@dataclass(frozen=True)
class _EstimateJob:
    """What a worker needs to estimate all teachers."""

    student: ModelRef
    samples: Mapping[str, Samples]
    gradients: int
    vocabulary: int
    seed: int
    device: str


def _estimate(job: _EstimateJob) -> dict[str, TeacherEstimates | None]:
    """In a worker: the student is loaded once for all teachers."""
    import torch

    from distill_ray.engine.inference.student_estimates import GradientSampling, estimate
    from distill_ray.models.load import load_model
    from distill_ray.stages.results.local_files import local_ref

    device = torch.device(job.device)
    model = load_model(local_ref(job.student)).to(device)
    estimates: dict[str, TeacherEstimates | None] = {}
    for name, samples in job.samples.items():
        estimates[name] = None
        if samples:
            result = estimate(
                model,
                samples,
                device=device,
                vocabulary=job.vocabulary,
                gradients=GradientSampling(job.gradients, seed=job.seed),
            )
            estimates[name] = TeacherEstimates(**asdict(result))
    return estimates

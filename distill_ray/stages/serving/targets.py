"""ShardSet, a teacher's checkpoints → their sparse targets, computed once before training.

An artifact for each checkpoint, with a file for so many rows. A pass that was interrupted goes on
with the files that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.serving import CachedServing
from distill_ray.engine.row_plan import rows_needed
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import PART, Storage, is_full
from distill_ray.stages.results.data_spec import local_data
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.target_files import (
    TargetDataset,
    artifact_of,
    bytes_left,
    items_of,
    spec_of,
)
from distill_ray.stages.serving.targets_worker import FULL

FULL_FIX = "Free some space, or set storage to another place. Rerun the same command to resume."


def with_targets(
    run: Run, training_job: TrainingJob, fingerprints: Mapping[str, str]
) -> TrainingJob:
    """Compute the targets of a job's teacher, unless they are on disk, and name them in the job.

    Args:
        run: the job's.
        training_job: any; one that isn't served from a cache, or is done, stays as it is.
        fingerprints: teacher → identity of its weights.

    Raises:
        InputError: the disk is full, or the teacher can't be used.
    """
    is_cached = isinstance(training_job.serving, CachedServing)
    if not (is_cached and training_job.spec.teaching) or training_job.artifact.is_complete():
        return training_job
    data = local_data(training_job.spec.data, training_job.shards)
    datasets = []
    for key, rows in rows_needed(replace(training_job.spec, data=data)).items():
        artifact = artifact_of(run, training_job, fingerprints[key[0]], key, rows)
        datasets.append(TargetDataset(key, artifact, rows))
    incomplete = [dataset for dataset in datasets if not dataset.artifact.is_complete()]
    if incomplete:
        _compute(run, training_job, incomplete)
    return replace(training_job, targets={each.checkpoint: each.artifact for each in datasets})


def _compute(run: Run, training_job: TrainingJob, datasets: Sequence[TargetDataset]) -> None:
    """Compute the files that are missing, and commit each dataset when it has all of its own."""
    from distill_ray.stages.serving.targets_worker import over_items

    run.ray()
    items = [item for dataset in datasets for item in items_of(training_job, dataset)]
    by_folder = {dataset.artifact.uri: dataset for dataset in datasets}
    for item in items:
        by_folder[item["folder"]].files += 1
    for folder in map(Storage, by_folder):
        for path in folder.files():
            if path.endswith(PART):  # A killed process has left it.
                folder.delete(path)
    stage, kind = training_job.stage, spec_of(training_job, "train").kind
    started, total = time.monotonic(), len(items)
    names = ", ".join(f"targets of {dataset.name}" for dataset in datasets)
    run.note(stage, f"computing {names}", completed=0, total=total)
    for number, result in enumerate(over_items(run, training_job, items), start=1):
        run.raise_if_interrupted()
        dataset = by_folder[result["folder"]]
        if result["problem"] == FULL:
            raise _full(training_job, dataset, datasets)
        if result["problem"]:
            what = f"{dataset.name}: {result['problem']}."
            problem = Problem("distill", what, "Look at that teacher, or leave it out.")
            raise InputError("the teacher's targets can't be computed:", [problem])
        dataset.add(result)
        run.note(stage, dataset.describe(kind), completed=number, total=total)
        if len(dataset.digests) == dataset.files:
            wall_s = time.monotonic() - started
            try:
                dataset.artifact.commit(dataset.summary(kind), wall_s, dataset.digests)
            except OSError as error:
                if not is_full(error):
                    raise
                raise _full(training_job, dataset, datasets) from error
            run.progress.emit(Event("note", stage, dataset.describe(kind)))


def _full(
    training_job: TrainingJob, dataset: TargetDataset, datasets: Sequence[TargetDataset]
) -> InputError:
    free = Storage(dataset.artifact.uri).free_bytes()
    has = "has no room left" if free is None else f"has {_mib(free)} left"
    files = f"{sum(len(s.digests) for s in datasets)} of {sum(s.files for s in datasets)} files"
    need = f"the teacher's targets need about {_mib(bytes_left(training_job, datasets))} more"
    what = f"{dataset.artifact.uri} {has}, {need} ({files} are there)."
    return InputError("disk full:", [Problem("storage", what, FULL_FIX)])


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"

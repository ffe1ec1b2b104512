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
from distill_ray.runtime.artifacts import Artifact
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


def with_targets(run: Run, order: TrainingJob, fingerprints: Mapping[str, str]) -> TrainingJob:
    """The order with its teacher's targets on disk, made now or found made.

    Args:
        run: of the order.
        order: any; one that isn't served from a cache, or is done, comes back as it is.
        fingerprints: teacher → identity of its weights.

    Raises:
        InputError: the disk is full, or the teacher can't be used.
    """
    is_cached = isinstance(order.serving, CachedServing) and order.spec.teaching is not None
    if not is_cached or order.artifact.is_complete():
        return order
    job = replace(order.spec, data=local_data(order.spec.data, order.shards))
    shelves = []
    for key, rows in rows_needed(job).items():
        shelves.append(
            TargetDataset(key, artifact_of(run, order, fingerprints[key[0]], key, rows), rows)
        )
    pending = [shelf for shelf in shelves if not shelf.artifact.is_complete()]
    if pending:
        _fill(run, order, pending)
    return replace(order, targets={s.checkpoint: s.artifact for s in shelves})


def _fill(run: Run, order: TrainingJob, shelves: Sequence[TargetDataset]) -> None:
    """Compute the files that are missing, and commit each shelf when it has all of its own."""
    from distill_ray.stages.serving.targets_worker import over_items

    run.ray()
    items = [item for shelf in shelves for item in items_of(order, shelf)]
    by_folder = {shelf.artifact.uri: shelf for shelf in shelves}
    for item in items:
        by_folder[item["folder"]].files += 1
    for shelf in shelves:
        _clear(shelf.artifact)
    kind, started = spec_of(order, "train").kind, time.monotonic()
    what = ", ".join(f"targets of {shelf.name}" for shelf in shelves)
    run.note(order.stage, f"computing {what}", completed=0, total=len(items))
    for number, result in enumerate(over_items(run, order, items), start=1):
        run.raise_if_interrupted()
        shelf = by_folder[result["folder"]]
        if result["problem"] == FULL:
            raise _full(order, shelf, shelves)
        if result["problem"]:
            raise _unusable(shelf, result["problem"])
        shelf.add(result)
        run.note(order.stage, shelf.told(kind), completed=number, total=len(items))
        if len(shelf.digests) == shelf.files:
            _commit(order, shelf, shelves, time.monotonic() - started)
            run.progress.emit(Event("note", order.stage, shelf.told(kind)))


def _clear(artifact: Artifact) -> None:
    """Remove what a killed process has left of a file."""
    folder = Storage(artifact.uri)
    for path in folder.files():
        if path.endswith(PART):
            folder.delete(path)


def _commit(
    order: TrainingJob, shelf: TargetDataset, shelves: Sequence[TargetDataset], wall_s: float
) -> None:
    summary = shelf.summary(spec_of(order, "train").kind)
    try:
        shelf.artifact.commit(summary, wall_s, shelf.digests)
    except OSError as error:
        if not is_full(error):
            raise
        raise _full(order, shelf, shelves) from error


def _full(order: TrainingJob, shelf: TargetDataset, shelves: Sequence[TargetDataset]) -> InputError:
    free = Storage(shelf.artifact.uri).free_bytes()
    has = "has no room left" if free is None else f"has {_mib(free)} left"
    files = f"{sum(len(s.digests) for s in shelves)} of {sum(s.files for s in shelves)} files"
    need = f"the teacher's targets need about {_mib(bytes_left(order, shelves))} more"
    what = f"{shelf.artifact.uri} {has}, {need} ({files} are there)."
    return InputError("disk full:", [Problem("storage", what, FULL_FIX)])


def _unusable(shelf: TargetDataset, why: str) -> InputError:
    problem = Problem("distill", f"{shelf.name}: {why}.", "Look at that teacher, or leave it out.")
    return InputError("the teacher's targets can't be computed:", [problem])


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"

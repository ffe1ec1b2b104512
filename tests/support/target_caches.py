"""Targets on disk without Ray, from the functions that the pass uses."""

from collections.abc import Mapping
from pathlib import Path

import torch

from distill_ray.engine.build import load_streams, teacher_bank
from distill_ray.engine.job import TrainingSpec
from distill_ray.engine.row_plan import rows_needed
from distill_ray.engine.teachers.cached import Cached
from distill_ray.engine.teachers.targets import TargetCounts, TargetSpec, file_of, targets_of

CPU = torch.device("cpu")


def fill(
    job: TrainingSpec,
    folder: Path,
    *,
    k: int,
    kind: str = "top_k",
    seed: int = 0,
    rows_per_file: int = 7,
) -> tuple[Cached, TargetCounts]:
    """Everything that a job will ask; train rows at its temperature, held-out ones at 1."""
    bank, counts, folders = teacher_bank(job, CPU), TargetCounts(), {}
    generator = torch.Generator().manual_seed(seed)
    streams = {split: load_streams(job.data, split) for split in ("train", "validation")}
    for (teacher, checkpoint_index), splits in rows_needed(job).items():
        bank.use(teacher, checkpoint_index)
        folders[teacher, checkpoint_index] = folder / f"{teacher}-{checkpoint_index}"
        for split, rows in splits.items():
            temperature = job.objective.temperature if split == "train" else 1.0
            spec = TargetSpec(kind, k, temperature)
            for name, numbers in rows.items():
                for start in range(0, len(numbers), rows_per_file):
                    batch = streams[split][name].batch(numbers[start : start + rows_per_file])
                    data, made = file_of(targets_of(bank, batch, spec, generator), spec)
                    path = (
                        folders[teacher, checkpoint_index] / split / name / f"{start:05d}.parquet"
                    )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                    counts += made
    return Cached(folders), counts


def write(folder: Path, rows: Mapping[str, object], spec: TargetSpec) -> Path:
    """One file of given targets."""
    folder.mkdir(parents=True, exist_ok=True)
    data, _ = file_of(rows.items(), spec)
    (folder / "00000.parquet").write_bytes(data)
    return folder

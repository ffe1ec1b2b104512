"""One teacher checkpoint's targets: what they are keyed by, their files, how far they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypedDict

from distill_ray.config.serving import CachedServing, TopKTargets
from distill_ray.core.memory import targets_bytes
from distill_ray.engine.row_plan import Checkpoint, Rows
from distill_ray.engine.teachers.targets import TargetCounts, TargetSpec
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.results.training_job import TrainingJob

VERSION = 1
MEASURED_AT = 1.0
"""Temperature of held-out rows' targets: validation measures the plain KL."""


class TargetItem(TypedDict):
    """One file of targets to be computed."""

    folder: str
    """URI of the artifact's folder."""
    file: str
    """Path in the folder."""
    teacher: str
    checkpoint_index: int
    split: str
    stream: str
    numbers: list[int]
    """Numbers of the rows."""


class TargetFile(TypedDict):
    """What a file of targets holds."""

    rows: int
    tokens: int
    captured: float
    """Sum of the teacher's probability that the entries hold."""
    ids: int
    bytes: int
    sha256: str


class TargetResult(TargetFile):
    """What became of an item."""

    folder: str
    file: str
    problem: str
    """Why there is no file; empty where there is one."""


@dataclass
class TargetDataset:
    """One checkpoint's targets, as far as they are there."""

    checkpoint: Checkpoint
    artifact: Artifact
    rows: Rows
    files: int = 0
    """Files that it will have."""
    counts: TargetCounts = field(default_factory=TargetCounts)
    """Of the files that are there, with `size_bytes`."""
    size_bytes: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    """File → its SHA-256."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.checkpoint[0]} checkpoint {self.checkpoint[1] + 1}"

    def add(self, result: TargetResult) -> None:
        """Count a file that is there."""
        self.counts += TargetCounts(
            result["rows"], result["tokens"], result["captured"], result["ids"]
        )
        self.size_bytes += result["bytes"]
        self.digests[result["file"]] = result["sha256"]

    def summary(self, kind: str) -> dict[str, int | float]:
        """Count what the manifest tells of the files."""
        tokens = max(1, self.counts.tokens)
        known: dict[str, int | float] = {
            "rows": self.counts.rows,
            "tokens": self.counts.tokens,
            "bytes": self.size_bytes,
            "bytes_per_token": round(self.size_bytes / tokens, 1),
            "ids_per_token": round(self.counts.ids / tokens, 1),
        }
        # Samples stand for the whole distribution; how much of it they name isn't known.
        captured = {"captured_mass": round(self.counts.captured / tokens, 5)}
        return known | (captured if kind == "top_k" else {})

    def describe(self, kind: str) -> str:
        """Say the summary in one line."""
        summary = self.summary(kind)
        text = f"targets of {self.name}: {summary['tokens']:,} tokens, "
        text += f"{summary['bytes_per_token']:.0f} bytes a token, "
        if kind == "top_k":
            return f"{text}{summary['captured_mass']:.2%} of the mass"
        return f"{text}{summary['ids_per_token']:.1f} ids a token"


def spec_of(training_job: TrainingJob, split: str) -> TargetSpec:
    """What is stored of the teacher on rows of a split."""
    serving, objective = training_job.serving, training_job.spec.objective
    assert isinstance(serving, CachedServing) and objective is not None
    targets = serving.targets
    temperature = objective.temperature if split == "train" else MEASURED_AT
    k = targets.k if isinstance(targets, TopKTargets) else targets.num_samples
    return TargetSpec(targets.kind, k, temperature)


def artifact_of(
    run: Run, training_job: TrainingJob, fingerprint: str, checkpoint: Checkpoint, rows: Rows
) -> Artifact:
    """Name the artifact of a checkpoint's targets: another one for whatever changes them.

    Args:
        run: the job's.
        training_job: what is trained.
        fingerprint: identity of the teacher's weights.
        checkpoint: which of them.
        rows: that it is asked about.
    """
    assert isinstance(training_job.serving, CachedServing)
    name, checkpoint_index = checkpoint
    is_drawn = training_job.serving.targets.kind == "samples"
    identity = {
        "version": VERSION,
        "teacher": fingerprint,
        "checkpoint_index": checkpoint_index,
        "shard": training_job.shards.fingerprint,
        "targets": {split: spec_of(training_job, split) for split in rows},
        "precision": training_job.spec.training.precision,
        "seed": training_job.spec.data.seed if is_drawn else None,
        "rows_per_file": training_job.serving.rows_per_file,
        "rows": {
            split: {n: sha256(numbers.tobytes()).hexdigest() for n, numbers in streams.items()}
            for split, streams in rows.items()
        },
    }
    return run.artifact("targets", f"{name}-{checkpoint_index}", identity)


def items_of(training_job: TrainingJob, dataset: TargetDataset) -> Iterator[TargetItem]:
    """Divide a dataset into files: up to so many rows of one stream and split each."""
    assert isinstance(training_job.serving, CachedServing)
    size = training_job.serving.rows_per_file
    teacher, checkpoint_index = dataset.checkpoint
    for split, streams in dataset.rows.items():
        for stream, numbers in streams.items():
            for i, start in enumerate(range(0, len(numbers), size)):
                yield {
                    "folder": dataset.artifact.uri,
                    "file": f"{split}/{stream}/{i:05d}.parquet",
                    "teacher": teacher,
                    "checkpoint_index": checkpoint_index,
                    "split": split,
                    "stream": stream,
                    "numbers": numbers[start : start + size].tolist(),
                }


def bytes_left(training_job: TrainingJob, datasets: Sequence[TargetDataset]) -> int:
    """Estimate what the missing files take: as much each as the others, or the most possible."""
    num_written = sum(len(dataset.digests) for dataset in datasets)
    missing = sum(dataset.files for dataset in datasets) - num_written
    if num_written:
        return missing * sum(dataset.size_bytes for dataset in datasets) // num_written
    assert isinstance(training_job.serving, CachedServing)
    rows = missing * training_job.serving.rows_per_file
    tokens = rows * training_job.spec.data.sequence_length
    return targets_bytes(tokens, spec_of(training_job, "train").k)

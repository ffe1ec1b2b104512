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
        """What is worth knowing at a glance."""
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

    def told(self, kind: str) -> str:
        """The summary for people."""
        summary = self.summary(kind)
        text = f"targets of {self.name}: {summary['tokens']:,} tokens, "
        text += f"{summary['bytes_per_token']:.0f} bytes a token, "
        if kind == "top_k":
            return f"{text}{summary['captured_mass']:.2%} of the mass"
        return f"{text}{summary['ids_per_token']:.1f} ids a token"


def spec_of(order: TrainingJob, split: str) -> TargetSpec:
    """What is kept of the teacher on rows of a split."""
    assert isinstance(order.serving, CachedServing) and order.spec.objective is not None
    targets = order.serving.targets
    temperature = order.spec.objective.temperature if split == "train" else MEASURED_AT
    k = targets.k if isinstance(targets, TopKTargets) else targets.num_samples
    return TargetSpec(targets.kind, k, temperature)


def artifact_of(
    run: Run, order: TrainingJob, fingerprint: str, checkpoint: Checkpoint, rows: Rows
) -> Artifact:
    """Where a checkpoint's targets go: another place for whatever changes them.

    Args:
        run: of the order.
        order: what is trained.
        fingerprint: identity of the teacher's weights.
        checkpoint: which of them.
        rows: that it is asked about.
    """
    assert isinstance(order.serving, CachedServing)
    name, checkpoint_index = checkpoint
    is_drawn = order.serving.targets.kind == "samples"
    identity = {
        "version": VERSION,
        "teacher": fingerprint,
        "checkpoint_index": checkpoint_index,
        "shard": order.shards.fingerprint,
        "targets": {split: spec_of(order, split) for split in rows},
        "precision": order.spec.training.precision,
        "seed": order.spec.data.seed if is_drawn else None,
        "rows_per_file": order.serving.rows_per_file,
        "rows": {
            split: {n: sha256(numbers.tobytes()).hexdigest() for n, numbers in streams.items()}
            for split, streams in rows.items()
        },
    }
    return run.artifact("targets", f"{name}-{checkpoint_index}", identity)


def items_of(order: TrainingJob, shelf: TargetDataset) -> Iterator[TargetItem]:
    """The files that a shelf needs: up to so many rows of one stream and split each."""
    assert isinstance(order.serving, CachedServing)
    size = order.serving.rows_per_file
    teacher, checkpoint_index = shelf.checkpoint
    for split, streams in shelf.rows.items():
        for stream, numbers in streams.items():
            for i, start in enumerate(range(0, len(numbers), size)):
                yield {
                    "folder": shelf.artifact.uri,
                    "file": f"{split}/{stream}/{i:05d}.parquet",
                    "teacher": teacher,
                    "checkpoint_index": checkpoint_index,
                    "split": split,
                    "stream": stream,
                    "numbers": numbers[start : start + size].tolist(),
                }


def bytes_left(order: TrainingJob, shelves: Sequence[TargetDataset]) -> int:
    """What the files that are missing take: as much each as the others, or at most."""
    num_written = sum(len(shelf.digests) for shelf in shelves)
    missing = sum(shelf.files for shelf in shelves) - num_written
    if num_written:
        return missing * sum(shelf.size_bytes for shelf in shelves) // num_written
    rows = missing * order.serving.rows_per_file if isinstance(order.serving, CachedServing) else 0
    return targets_bytes(rows * order.spec.data.sequence_length, spec_of(order, "train").k)

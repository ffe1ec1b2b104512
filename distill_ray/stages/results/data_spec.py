"""A shard set's rows, as a training or a scoring is told of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from distill_ray.config.cache import cache_folder
from distill_ray.engine.job import DataSpec
from distill_ray.runtime.artifacts import Artifact
from distill_ray.stages.results.shard_set import ShardSet


def data_spec(shards: ShardSet, seed: int, num_validation_rows: int) -> DataSpec:
    """Where a job's rows are; `local_data` fills the folders in."""
    cfg = shards.cfg
    return DataSpec(
        folder=Path(),
        cache=Path(),
        kinds=cfg.streams(),
        sequence_length=cfg.corpora.sequence_length,
        seed=seed,
        num_validation_rows=num_validation_rows,
        vocabulary=shards.counts.tokenizer.vocab_size,
    )


def local_data(data: DataSpec, shards: Artifact) -> DataSpec:
    """The same rows on this machine: their folder is fetched where it lies elsewhere."""
    return replace(data, folder=shards.local(), cache=cache_folder() / "rows")

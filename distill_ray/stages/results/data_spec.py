"""A shard set's rows, as a training or a scoring is told of them."""

from __future__ import annotations

from pathlib import Path

from distill_ray.engine.job import DataSpec
from distill_ray.stages.results.shard_set import ShardSet


def data_spec(shards: ShardSet, seed: int, num_validation_rows: int) -> DataSpec:
    """Where a job's rows are; folders are filled in on the worker."""
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

"""A frozen teacher's sparse targets of packed rows, and the files that hold them.

K supervised predictions of a batch, V vocabulary, k entries of a token.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distill_ray.core import sparse
from distill_ray.core.head import Head
from distill_ray.core.memory import CHUNK_BYTES
from distill_ray.core.sparse import SparseTargets
from distill_ray.core.sparse_bytes import encode
from distill_ray.data.batches import Batch
from distill_ray.data.rows import TARGETS
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.models.teachers import TeacherBank

PAYLOAD_TOKENS = 128
"""Rows share a payload until they have as many: one of a single token would be 360 bytes."""
GROUP_BYTES = 2**20
"""Payloads of a row group, about: what is read from disk to get at one row."""
FOOTER = b"distill_ray.targets"
"""Key of a file's own account of itself, in its Parquet metadata."""

RowTargets = tuple[str, SparseTargets]
"""A row's id, and the targets of its supervised predictions in their order."""


@dataclass(frozen=True)
class TargetSpec:
    """How a teacher's distribution is reduced to sparse targets."""

    kind: Literal["top_k", "samples"]
    k: int
    """Entries, or draws, of a token."""
    temperature: float = 1.0
    """τ that softens it."""


@dataclass(frozen=True)
class TargetCounts:
    """Sums over the tokens of some files."""

    rows: int = 0
    tokens: int = 0
    captured: float = 0.0
    """Probability that the entries hold; a sample's count as all of it."""
    ids: int = 0
    """Distinct entries."""

    def __add__(self, more: TargetCounts) -> TargetCounts:
        own, added = asdict(self), asdict(more)
        return TargetCounts(**{name: own[name] + added[name] for name in own})

    @classmethod
    def of(cls, targets: SparseTargets, rows: int) -> TargetCounts:
        """Count some rows."""
        num_entries = int((targets.log_p > -torch.inf).sum())
        return cls(rows, len(targets), targets.captured * len(targets), num_entries)


def supervised_per_row(batch: Batch, supervised: SupervisedTokens) -> list[int]:
    """Count the supervised predictions in each row, [B]."""
    rows, width = batch.input_ids.shape
    return torch.bincount(supervised.positions // width, minlength=rows).tolist()


@torch.no_grad()
def targets_of(
    bank: TeacherBank, batch: Batch, spec: TargetSpec, generator: torch.Generator | None = None
) -> Iterator[RowTargets]:
    """Yield each row's targets, on the CPU; rows without a supervised prediction are left out.

    Args:
        bank: its current checkpoint is the teacher.
        batch: on the bank's device.
        spec: what to keep.
        generator: generator of samples, on that device.

    Raises:
        FloatingPointError: a distribution of the teacher isn't finite.
    """
    supervised = SupervisedTokens.of(batch)
    if not len(supervised.positions):
        return
    head = bank.head(batch.input_ids, batch.position_ids, supervised.positions)
    targets = sparse_targets(head, supervised.labels, spec, generator).to("cpu")
    counts = supervised_per_row(batch, supervised)
    ends = torch.tensor(counts).cumsum(0).tolist()
    for row_id, count, end in zip(batch.row_ids, counts, ends):
        row_targets = targets[end - count : end]
        if not row_targets.entropy.isfinite().all():
            raise FloatingPointError(f"row {row_id}: the teacher's probabilities aren't finite")
        if count:
            yield row_id, row_targets


def sparse_targets(
    head: Head, labels: Tensor, spec: TargetSpec, generator: torch.Generator | None = None
) -> SparseTargets:
    """Compute the targets of K tokens; logits of a few of them exist at a time.

    Args:
        head: the teacher's head on K tokens.
        labels: [K] int64 ids of the data, negative where there is none.
        spec: what to keep.
        generator: generator of samples, on the head's device.
    """
    device = head.features[0].device
    size = max(1, CHUNK_BYTES["cpu" if device.type == "cpu" else "cuda"] // (4 * head.vocabulary))
    parts = []
    for start in range(0, max(1, len(head)), size):
        rows = slice(start, start + size)
        logits, options = head.logits(rows), {"temperature": spec.temperature}
        if spec.kind == "top_k":
            parts.append(sparse.top_k(logits, labels[rows], k=spec.k, **options))
        else:
            assert generator is not None
            drawn = {"samples": spec.k, "generator": generator, **options}
            parts.append(sparse.sampled(logits, labels[rows], **drawn))  # type: ignore[arg-type]
    return sparse.concatenate(parts)


def file_of(rows: Iterable[RowTargets], spec: TargetSpec) -> tuple[bytes, TargetCounts]:
    """Write a Parquet file of the TARGETS schema; returns its bytes and counts."""
    buffer, counts = io.BytesIO(), TargetCounts()
    packed = {"row_id": "zstd", "tokens": "zstd", "start": "zstd", "payload": "none"}
    options: dict[str, Any] = {"compression": packed, "use_dictionary": False}
    with pq.ParquetWriter(buffer, TARGETS, write_statistics=False, **options) as writer:
        group: list[dict[str, Any]] = []
        for block in _payload_blocks(rows):
            joined = sparse.concatenate([targets for _, targets in block])
            payload, start = encode(joined), 0
            for row_id, targets in block:
                own = None if start else payload
                group.append(
                    {"row_id": row_id, "tokens": len(targets), "start": start, "payload": own}
                )
                start += len(targets)
            counts += TargetCounts.of(joined, len(block))
            if sum(len(record["payload"] or b"") for record in group) >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=TARGETS))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=TARGETS))
        account = json.dumps({**asdict(spec), **asdict(counts)})
        writer.add_key_value_metadata({FOOTER: account.encode()})
    return buffer.getvalue(), counts


def read_footer(file: pq.ParquetFile) -> tuple[TargetSpec, TargetCounts]:
    """Read a file's spec and counts from its metadata.

    Raises:
        ValueError: the file holds no targets.
    """
    account = (file.metadata.metadata or {}).get(FOOTER)
    if account is None:
        raise ValueError("a Parquet file without targets")
    values = json.loads(account)
    spec = TargetSpec(*(values.pop(name) for name in ("kind", "k", "temperature")))
    return spec, TargetCounts(**values)


def _payload_blocks(rows: Iterable[RowTargets]) -> Iterator[list[RowTargets]]:
    """Collect the rows that share a payload."""
    block: list[RowTargets] = []
    for row in rows:
        block.append(row)
        if sum(len(targets) for _, targets in block) >= PAYLOAD_TOKENS:
            yield block
            block = []
    if block:
        yield block

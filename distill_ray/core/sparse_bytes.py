"""Bytes of sparse targets, for a disk or a network: about 165 a token at k = 64.

N tokens, k kept, B = k + 1 buckets. MAGIC, then one zlib stream of arrays, [kind, N, k] first. An
array goes by byte planes, all low bytes before all high ones, each [k, N]: what is alike lies
together.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_ray.core.sparse import SparseTargets, from_counts

Array = npt.NDArray[Any]

MAGIC = b"DRST\x01"
"""Distill-Ray Sparse Targets, and the format's version."""
RESOLUTION = 512
"""Codes a nat: half a code is a relative error of 0.098 % of a probability."""
NOTHING = 65535
"""The code of a probability of 0. The code before it, 128 nats below the top, is the last."""


def encode(targets: SparseTargets) -> bytes:
    """Encode targets as bytes.

    Samples are kept exactly, as are `ids` and `label_nll` of top_k. Each probability of top_k is
    within 0.1 %, entries and tail summing to 1, and its `entropy`, a figure to log, within 0.05 %.

    Raises:
        ValueError: the entries are not in the order that `SparseTargets` states, or NaN.
    """
    own = targets.to("cpu")
    is_samples = own.kind == "samples"
    arrays = [np.array([is_samples, *own.ids.shape], "<u4")]
    arrays += _samples_arrays(own) if is_samples else _top_k_arrays(own)
    arrays.append(own.label_nll.numpy().astype("<f4"))
    # Run lengths only: the planes hold no longer matches, and looking for them costs most.
    stream = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    out = [MAGIC]
    for array in arrays:
        # [N, k] numbers of b bytes → b planes [k, N]: all low bytes come before all high ones.
        by_byte = np.ascontiguousarray(array).view("u1").reshape(*array.shape, array.itemsize)
        for plane in by_byte.T:
            # A flush ends the Huffman table: the next plane has bytes of its own.
            out += [stream.compress(plane.tobytes()), stream.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join([*out, stream.flush()])


def decode(payload: bytes) -> SparseTargets:
    """Read what `encode` wrote, on the CPU; ValueError for a foreign or damaged payload."""
    if (start := payload[: len(MAGIC)]) != MAGIC:
        raise ValueError(f"not sparse targets of this version: {start!r} for {MAGIC!r}")
    reader = _Reader(_inflate(payload[len(MAGIC) :]))
    is_samples, n, k = (int(x) for x in reader.array("<u4", (3,)))
    if is_samples:
        ids, counts = _read_samples(reader, (n, k))
        return from_counts(ids, counts, reader.floats("<f4", n), reader.floats("<f4", n))
    ids = torch.from_numpy(reader.ids((n, k)))
    codes = reader.array("<u2", (n, k)).astype(np.int64).cumsum(1)
    log_b = _from_codes(np.column_stack([codes, reader.array("<u2", (n,))]))
    log_p, log_tail = log_b[:, :-1].contiguous(), log_b[:, -1].clone()
    entropy, label_nll = reader.floats("<f2", n), reader.floats("<f4", n)
    return SparseTargets(ids, log_p, log_tail, entropy, label_nll, kind="top_k")


def _inflate(stream: bytes) -> bytes:
    """Decompress a whole payload; the stream's own checksum vouches for it."""
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(stream)
    except zlib.error as error:
        raise ValueError(f"damaged sparse targets: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("damaged sparse targets: cut short, or followed by something else")
    return body


def _top_k_arrays(targets: SparseTargets) -> list[Array]:
    """List ids; codes as rises from entry to entry, which are small; the tail's code; entropy."""
    codes = _codes(torch.cat([targets.log_p, targets.log_tail[:, None]], dim=1)).numpy()
    rises = np.diff(codes[:, :-1], axis=1, prepend=0)
    if (rises < 0).any():
        raise ValueError("top_k entries must have the likeliest first")
    log_b = [rises.astype("<u2"), codes[:, -1].astype("<u2")]
    return [*_id_arrays(targets.ids.numpy()), *log_b, targets.entropy.numpy().astype("<f2")]


def _samples_arrays(targets: SparseTargets) -> list[Array]:
    """List how many ids each token drew; their gaps; their counts less 1; entropy."""
    ids, k = targets.ids.numpy(), targets.ids.shape[1]
    counts = np.rint(targets.log_p.exp().numpy() * k).astype(np.int64)
    gaps, num_distinct = np.diff(ids, axis=1, prepend=0), (counts > 0).sum(1)
    is_kept = np.arange(k) < num_distinct[:, None]
    in_order = (gaps[:, 1:] > 0) | ~is_kept[:, 1:]
    if not (in_order.all() and (is_kept == (counts > 0)).all() and (counts.sum(1) == k).all()):
        raise ValueError("samples must have ascending ids, then padding, and counts that sum to k")
    drawn = [
        num_distinct.astype("<u4"),
        *_id_arrays(gaps[is_kept]),
        (counts[is_kept] - 1).astype("<u4"),
    ]
    return [*drawn, targets.entropy.numpy().astype("<f4")]


def _read_samples(reader: _Reader, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read [N, k] ids and counts, both 0 at padding."""
    is_kept = np.arange(shape[1]) < reader.array("<u4", shape[:1])[:, None]
    drawn = (int(is_kept.sum()),)
    gaps, counts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    gaps[is_kept] = reader.ids(drawn)
    counts[is_kept] = reader.array("<u4", drawn).astype(np.int64) + 1
    return torch.from_numpy(np.where(is_kept, gaps.cumsum(1), 0)), torch.from_numpy(counts)


def _codes(log_b: Tensor) -> Tensor:
    """Turn [N, B] log-probabilities into fixed-point -log p, relative to the likeliest bucket.

    `_from_codes` renormalises, which moves every probability by the mean rounding error Σ p e: up
    to as much again. So each token is rounded from an offset of its own, below one code, where
    that mean is 0; renormalising removes it. Between roundings that flip, the mean falls as the
    offset rises, so a Newton step ends at 0 or passes a flip, and there are B of those.
    """
    total = log_b.double().logsumexp(1, keepdim=True)
    if not total.isfinite().all():
        raise ValueError("top_k targets hold a NaN, or a token without any mass")
    exact = ((total - log_b) * RESOLUTION).clamp_max(NOTHING - 1)
    codes, rows = torch.empty_like(exact), torch.arange(len(exact))
    remaining, p, offset = exact, (log_b - total).exp(), torch.zeros_like(total)
    for _ in range(log_b.shape[1] + 2):
        codes[rows] = (remaining + offset).round()
        mean = (p * (codes[rows] - remaining)).sum(1, keepdim=True) - offset
        go_on = mean[:, 0].abs() > 0.01
        rows, remaining, p, offset = (x[go_on] for x in (rows, remaining, p, offset + mean))
    codes = (codes - codes.amin(1, keepdim=True)).clamp_max(NOTHING - 1)
    return codes.masked_fill(log_b.isneginf(), NOTHING).long()


def _from_codes(codes: Array) -> Tensor:
    """Turn codes into [N, B] log-probabilities, float32, whose probabilities sum to 1."""
    log_b = torch.from_numpy(np.where(codes == NOTHING, -np.inf, -codes / RESOLUTION))
    return (log_b - log_b.logsumexp(1, keepdim=True)).float()


def _id_arrays(ids: Array) -> list[Array]:
    """Split non-negative integers: how many bits exceed 16, the low 16, and the others packed."""
    bits = int(ids.max(initial=0) >> 16).bit_length()
    above = [ids >> bit & 1 for bit in range(16, 16 + bits)]
    return [np.array([bits], "u1"), ids.astype("<u2"), np.packbits(np.array(above, "u1"))]


@dataclass
class _Reader:
    """Reads back, in order, the planes of `encode` and the arrays of `_id_arrays`."""

    body: bytes
    offset: int = 0

    def array(self, dtype: str, shape: tuple[int, ...]) -> Array:
        size = np.dtype(dtype).itemsize
        planes = np.frombuffer(self.body, np.uint8, size * int(np.prod(shape)), self.offset)
        self.offset += planes.size
        by_number: Array = np.ascontiguousarray(planes.reshape(size, *reversed(shape)).T)
        return by_number.view(dtype).reshape(shape)

    def floats(self, dtype: str, n: int) -> Tensor:
        return torch.from_numpy(self.array(dtype, (n,)).astype(np.float32))

    def ids(self, shape: tuple[int, ...]) -> Array:
        bits = int(self.array("u1", (1,))[0])
        ids = self.array("<u2", shape).astype(np.int64)
        packed = self.array("u1", ((bits * ids.size + 7) // 8,))
        above = np.unpackbits(packed, count=bits * ids.size).reshape(bits, *shape)
        for bit, plane in enumerate(above, start=16):
            ids += plane.astype(np.int64) << bit
        return ids

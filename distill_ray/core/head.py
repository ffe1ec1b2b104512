"""A language-model head: hidden states with output weights, from which logits are computed lazily.

N tokens, V vocabulary, H hidden. The logits of a whole batch are by far its largest tensor, so this
module computes them for a few tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ROWS = 16
"""Matrix products on a CPU are fast for multiples of this number of rows."""

TILE = 2048
"""Vocabulary entries of one product on a CPU: its result stays in the cache until transposed."""


@dataclass(frozen=True)
class Head:
    """z = cap(scale · (Σ_i x_i W_iᵀ + b)): a language model's output layer and what it is fed.

    One product for a plain layer; one more for each low-rank adapter on it, with the adapter's
    inner values as x and its outer factor as W.
    """

    features: tuple[Tensor, ...]
    """[N, H_i] each."""
    weights: tuple[Tensor, ...]
    """[V', H_i] each, V' ≥ V; rows from V on are padding of the embedding, and are never used."""
    vocabulary: int
    """V: the ids that the tokenizer has. The others get probability 0."""
    bias: Tensor | None = None
    """[V'] or none."""
    scale: float = 1.0
    """Cohere and Granite multiply their logits."""
    softcap: float | None = None
    """Gemma: cap(z) = softcap · tanh(z / softcap)."""

    def __len__(self) -> int:
        return len(self.features[0])

    def logits(self, rows: slice, out: Tensor | None = None) -> Tensor:
        """[n, V] float32 logits of some tokens; products in the features' precision.

        Args:
            rows: of the N tokens.
            out: [n, V] float32 buffer to fill instead of allocating one.
        """
        pairs = [(x[rows], w[: self.vocabulary].t()) for x, w in zip(self.features, self.weights)]
        z = _product(*pairs[0], out)
        for x, w in pairs[1:]:
            z = z.addmm_(x, w)
        if out is not None and z is not out:
            z = out.copy_(z)
        z = z.float()
        if self.bias is not None:
            z = z.add_(self.bias[: self.vocabulary])
        if self.scale != 1.0:
            z = z.mul_(self.scale)
        if self.softcap is not None:
            z = z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z

    def cast(self, dtype: torch.dtype) -> Head:
        """Convert to another precision, detached from the graph."""
        return replace(
            self,
            features=tuple(x.detach().to(dtype) for x in self.features),
            weights=tuple(w.detach().to(dtype) for w in self.weights),
            bias=None if self.bias is None else self.bias.detach().float(),
        )

    def with_temperature(self, temperature: float) -> Head:
        """Divide every logit by a temperature, after the soft cap."""
        if temperature == 1.0:
            return self
        cap = None if self.softcap is None else self.softcap / temperature
        return replace(self, scale=self.scale / temperature, softcap=cap)

    def zeroed(self, dropped: Tensor) -> Head:
        """Set the features of the tokens in a [N] bool mask to 0."""
        cleared = tuple(x.masked_fill(dropped[:, None], 0) for x in self.features)
        return replace(self, features=cleared)

    def detach_masked(self, unused: Tensor) -> Head:
        """Detach, and zero the tokens in a [N] bool mask, whose values may be NaN."""
        constant = self.cast(self.features[0].dtype)
        return constant.zeroed(unused) if bool(unused.any()) else constant

    def select(self, positions: Tensor) -> Head:
        """Select some of the tokens.

        Args:
            positions: [n] int64.
        """
        return replace(self, features=tuple(x.index_select(0, positions) for x in self.features))


def chunks(rows: slice, size: int) -> Iterator[slice]:
    """Split a slice into chunks of at most `size` rows."""
    for start in range(rows.start, rows.stop, max(1, size)):
        yield slice(start, min(start + size, rows.stop))


def log_softmax(z: Tensor, temperature: float = 1.0) -> Tensor:
    """log_softmax(z / τ); on a CPU, torch's own is off by some 1e-5 for large vocabularies."""
    z = z if temperature == 1 else z / temperature
    return z - z.logsumexp(dim=-1, keepdim=True)


def _product(x: Tensor, w: Tensor, out: Tensor | None) -> Tensor:
    """x [n, H] · w [H, V], into `out` where its precision is the product's.

    On CPUs, MKL's product with few rows and many columns is slow; the same with many rows and a
    multiple of 16 columns, tile by tile and turned, takes .85 of its time
    (docs/results/performance.md).
    """
    if out is None or x.dtype != torch.float32:
        return torch.mm(x, w)
    if x.device.type != "cpu" or len(x) % ROWS:
        return torch.mm(x, w, out=out)
    for start in range(0, w.shape[1], TILE):
        tile = slice(start, start + TILE)
        out[:, tile] = torch.mm(w[:, tile].t(), x.t()).t()
    return out

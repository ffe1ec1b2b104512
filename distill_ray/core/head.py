"""Logits that are not there yet: hidden states and the output weights that would make them.

N tokens, V vocabulary, H hidden. Logits of a whole batch are by far its largest tensor, so nothing
here makes more of them than those of a few tokens at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
            out: [n, V] float32 to fill, so that no memory is taken anew.
        """
        pairs = [(x[rows], w[: self.vocabulary].t()) for x, w in zip(self.features, self.weights)]
        direct = out is not None and pairs[0][0].dtype == torch.float32
        z = torch.mm(*pairs[0], out=out if direct else None)
        for x, w in pairs[1:]:
            z = z.addmm_(x, w)
        if out is not None and not direct:
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
        """The same in another precision, cut off from the graph."""
        return replace(
            self,
            features=tuple(x.detach().to(dtype) for x in self.features),
            weights=tuple(w.detach().to(dtype) for w in self.weights),
            bias=None if self.bias is None else self.bias.detach().float(),
        )

    def without(self, dropped: Tensor) -> Head:
        """The same, with the features of the tokens in a [N] bool mask set to 0."""
        cleared = tuple(x.masked_fill(dropped[:, None], 0) for x in self.features)
        return replace(self, features=cleared)

"""A mixture of several teachers: one distribution per token, computed lazily.

N tokens, V vocabulary, M teachers. Probabilities are mixed, never logits: a mean of logits is a
geometric mean, another distribution, and the student would be pulled elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from distill_ray.core.head import Head, chunks, log_softmax


@dataclass(frozen=True)
class Mixture:
    """p = Σ_m w_m softmax(z_m / τ), with weights of each token's own."""

    heads: tuple[Head | None, ...]
    """[M] each over the tokens in which it has weight, in their order; none without any."""
    weights: Tensor
    """[N, M] float32, 0 or above; each token's sum to 1."""

    def __post_init__(self) -> None:
        if self.weights.shape[1] != len(self.heads):
            raise ValueError(f"{len(self.heads)} heads need as many weights: {self.weights.shape}")
        for m, (head, positions) in enumerate(zip(self.heads, self._places)):
            if (0 if head is None else len(head)) != len(positions):
                raise ValueError(
                    f"head {m} is of another number of tokens than its {len(positions)}"
                )
        sizes = {head.vocabulary for _, head, _ in self.parts()}
        if len(sizes) > 1:
            raise ValueError(f"heads of one mixture have {sorted(sizes)} outcomes")

    @classmethod
    def of(cls, heads: Sequence[Head], weights: Tensor) -> Mixture:
        """Mix heads over all N tokens; each keeps only the tokens in which it has weight.

        Args:
            heads: [M].
            weights: [N, M].
        """
        nonzero = (weights[:, m].nonzero()[:, 0] for m in range(len(heads)))
        return cls(
            tuple(
                head.select(positions) if len(positions) else None
                for head, positions in zip(heads, nonzero)
            ),
            weights,
        )

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def vocabulary(self) -> int | None:
        """Size of the vocabulary; None without any head."""
        return next((head.vocabulary for _, head, _ in self.parts()), None)

    def parts(self) -> Iterator[tuple[int, Head, Tensor]]:
        """Yield (teacher index, head, positions among the N tokens) of each teacher with a head."""
        for m, (head, positions) in enumerate(zip(self.heads, self._places)):
            if head is not None:
                yield m, head, positions

    @cached_property
    def _places(self) -> list[Tensor]:
        return [column.nonzero()[:, 0] for column in self.weights.unbind(dim=1)]

    def detach_masked(self, unused: Tensor) -> Mixture:
        """Detach, and zero the tokens in a [N] bool mask, whose values may be NaN."""
        heads = list(self.heads)
        for m, head, positions in self.parts():
            heads[m] = head.detach_masked(unused[positions])
        return replace(self, heads=tuple(heads))

    def log_p(self, rows: slice, temperature: float, out: Tensor, block: int) -> Tensor:
        """Fill `out` [n, V] with log p of some tokens, in float32.

        log p = logsumexp_m(log w_m + log_softmax(z_m / τ)), one teacher's logits at a time.

        Args:
            rows: of the N tokens.
            temperature: τ.
            out: is returned.
            block: rows of element-wise work at a time.
        """
        out.fill_(-math.inf)
        spare = torch.empty_like(out)
        for m, head, positions in self.parts():
            ends = torch.tensor([rows.start, rows.stop], device=positions.device)
            first, last = torch.searchsorted(positions, ends).tolist()
            if first == last:
                continue
            z = head.logits(slice(first, last), spare[: last - first])
            for part in chunks(slice(first, last), block):
                here = positions[part]
                log_p = log_softmax(z[part.start - first : part.stop - first], temperature)
                log_p.add_(self.weights[here, m, None].log())
                if last - first == len(out):
                    into = out[part.start - first : part.stop - first]
                    torch.logaddexp(into, log_p, out=into)
                else:
                    here = here - rows.start
                    out[here] = torch.logaddexp(out[here], log_p)
        return out

    def label_nll(self, member_nll: Sequence[Tensor]) -> Tensor:
        """[N] -log p of a token each, at temperature 1.

        Args:
            member_nll: -log p of each teacher in `parts`, on its own tokens.
        """
        log_p = self.weights.new_full([len(self)], -math.inf)
        for (m, _, positions), nll in zip(self.parts(), member_nll):
            log_p[positions] = torch.logaddexp(
                log_p[positions], self.weights[positions, m].log() - nll
            )
        return -log_p

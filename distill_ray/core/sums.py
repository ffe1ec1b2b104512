"""A loss before its division: losses return sums, only the engine divides."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TokenSum:
    """A sum over tokens, and how many there are.

    Means of unequal parts don't average to the mean of the whole; sums add up. So a loss returns
    this, and whoever knows every rank's and every micro-batch's count divides.
    """

    total: Tensor
    """Scalar, in nats; carries the graph."""
    tokens: Tensor
    """Scalar int64."""

    def __add__(self, other: TokenSum) -> TokenSum:
        return TokenSum(self.total + other.total, self.tokens + other.tokens)

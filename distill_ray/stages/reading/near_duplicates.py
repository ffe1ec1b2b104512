"""Near-duplicates by MinHash and locality-sensitive hashing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.stages.reading.ngrams import Hashes, NGrams, mixed, ngrams_of, text_hash

NUM_HASHES = 128
"""Most min-hashes of a text: bands times rows of a band."""
MISS_WEIGHT = 0.8
"""What a pair above the threshold that is missed costs, against a pair below it that is taken."""
# So many n-grams at a time stay in a core's cache.
_CHUNK = 1 << 16


def match_probability(similarity: Any, num_bands: int, rows_per_band: int) -> Any:
    """Probability that two texts share a band: 1 - (1 - sʳ)ᵇ.

    Args:
        similarity: s, the Jaccard similarity of their sets of n-grams; a number or an array.
        num_bands: b.
        rows_per_band: r, min-hashes that must all be equal in a band.
    """
    return 1 - (1 - similarity**rows_per_band) ** num_bands


@lru_cache
def choose_bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of a band, at most `NUM_HASHES` together, of the least weighted error.

    The error is the area of wrong matches below the threshold, plus `MISS_WEIGHT` to the rest
    times the area of missed ones above it, as in datasketch's `MinHashLSH(weights=...)`.
    """
    grid = (np.arange(1000) + 0.5) / 1000
    above = grid >= threshold

    def error(bands: tuple[int, int]) -> float:
        probability = match_probability(grid, *bands)
        wrong, missed = probability[~above].sum(), (1 - probability[above]).sum()
        return float((1 - MISS_WEIGHT) * wrong + MISS_WEIGHT * missed)

    pairs = ((b, r) for b in range(1, NUM_HASHES + 1) for r in range(1, NUM_HASHES // b + 1))
    return min(pairs, key=error)


@dataclass(frozen=True)
class MinHashLsh:
    """Texts that share a band are near-duplicates.

    A min-hash of two texts is equal with the probability of their Jaccard similarity s (Broder
    1997). A band is a hash of r of them. Two texts share one of b bands with probability
    1 - (1 - sʳ)ᵇ, a step near the threshold: `match_probability`. So do Lee et al. 2022 (arXiv
    2107.06499) and FineWeb (Penedo et al. 2024, arXiv 2406.17557; b = 14, r = 8). Pairs aren't
    compared again: the curve is the whole rule.
    """

    threshold: float = 0.8
    """Jaccard similarity, above 0 and below 1, around which the curve steps."""
    ngram: int = 5
    """Words of an n-gram. A character of a script without spaces is a word."""
    seed: int = 0
    """Another seed draws other permutations."""

    @property
    def num_bands(self) -> int:
        """b, chosen from the threshold."""
        return choose_bands(self.threshold)[0]

    @property
    def rows_per_band(self) -> int:
        """r, chosen from the threshold."""
        return choose_bands(self.threshold)[1]

    def bands(self, texts: Sequence[str]) -> Hashes:
        """[num_texts, num_bands] hashes: equal ones in a column are near-duplicates.

        The same on every machine, whatever texts stand beside a text. A text of fewer than `ngram`
        words matches only texts that are equal when normalised, punctuation included.
        """
        ngrams = ngrams_of(texts, self.ngram)
        hashes = ngrams.hashes
        for i in np.flatnonzero(ngrams.num_words < self.ngram).tolist():
            hashes[ngrams.offsets[i]] = mixed(np.array([text_hash(texts[i])], np.uint64))[0]
        signatures = self.signatures(ngrams)
        result = np.zeros((len(texts), self.num_bands), np.uint64)
        for row in range(self.rows_per_band):
            column = signatures[:, row :: self.rows_per_band]
            result = mixed(result ^ column)
        return result

    def signatures(self, ngrams: NGrams) -> NDArray[np.uint32]:
        """[num_texts, num_bands * rows_per_band] min-hashes.

        Equal ones of two texts estimate their Jaccard similarity: a share of k has a standard
        deviation of √(s(1-s)/k).
        """
        factors, summands = self._permutations
        offsets = ngrams.offsets
        # The upper half: its order is that of the whole hash, and products are twice as fast.
        values = (ngrams.hashes >> np.uint64(32)).astype(np.uint32)
        result = np.empty((len(factors), len(offsets) - 1), np.uint32)
        first = 0
        while first < len(offsets) - 1:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _CHUNK)) - 1)
            chunk = values[offsets[first] : offsets[last]]
            starts = offsets[first:last] - offsets[first]
            permuted = np.empty_like(chunk)
            for k in range(len(factors)):
                np.multiply(chunk, factors[k], out=permuted)
                permuted += summands[k]
                np.minimum.reduceat(permuted, starts, out=result[k, first:last])
            first = last
        signatures: NDArray[np.uint32] = result.T
        return signatures

    @cached_property
    def _permutations(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Odd factors and summands of x → ax + b modulo 2³², on hashes that are random already."""
        count = self.num_bands * self.rows_per_band
        # Raw output of a bit generator: NumPy promises the same numbers in every version.
        numbers = np.random.PCG64(self.seed).random_raw(2 * count)
        numbers = (numbers >> np.uint64(32)).astype(np.uint32)
        return numbers[:count] | np.uint32(1), numbers[count:]


def removed(table: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rows that go, each with the row that it duplicates.

    A row goes if a row of smaller rank shares a band with it. Of rows that share a band, only the
    one of the smallest rank can stay, so no two near-duplicates stay, and every row that goes has
    a near-duplicate before it. The order of rows and their partitioning don't matter.

    Similarity isn't transitive: where A is like B and B like C, but A isn't like C, B goes because
    of A, and C because of B, though B isn't kept. Taking one row at a time and comparing it with
    the kept ones alone would keep C, but can't be done in parallel. Connected components
    (datatrove, FineWeb) would remove all but one row of a chain, whatever the order; here every
    row stays that has no near-duplicate of smaller rank. So rows removed one at a time are a
    subset of these, and these a subset of those of the components.

    Args:
        table: `band`, `hash`, `rank` and `row` of equal length. All rows of one band and hash must
            be here. The smallest rank stays; give held-out rows smaller ranks than train rows.

    Returns:
        `row`, `duplicate_of` and `rank`, that of `duplicate_of`; a row once, with the
        near-duplicate of smallest rank. Join those of several partitions with `merged`.
    """
    band, hashed, rank, row = (table[name] for name in ("band", "hash", "rank", "row"))
    order = np.lexsort((row, rank, hashed, band))
    band, hashed, rank, row = band[order], hashed[order], rank[order], row[order]
    starts = np.ones(len(row), bool)
    starts[1:] = (band[1:] != band[:-1]) | (hashed[1:] != hashed[:-1])
    kept = np.flatnonzero(starts)[np.cumsum(starts) - 1]
    # A row that was written twice into a bucket isn't its own duplicate.
    goes = row != row[kept]
    kept = kept[goes]
    return merged([{"row": row[goes], "duplicate_of": row[kept], "rank": rank[kept]}])


def merged(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Results of `removed` as one: each row once, by its near-duplicate of smallest rank."""
    names = ("row", "duplicate_of", "rank")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    order = np.lexsort((columns["rank"], columns["row"]))
    _, first = np.unique(columns["row"][order], return_index=True)
    return {name: column[order][first] for name, column in columns.items()}

"""Contamination: train rows that share word n-grams with a test set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distill_ray.stages.reading.ngrams import Hashes, NGrams, ngrams_of, separated_words


def ngrams(texts: Sequence[str], n: int = 13) -> Hashes:
    """Sorted unique hashes of the word n-grams of normalised texts, without punctuation.

    A text of fewer than n words has one hash, of the whole text, which only equal texts have.
    """
    return np.unique(ngrams_of(texts, n).hashes)


@dataclass(frozen=True)
class Contamination:
    """Finds texts that share n-grams with a test set.

    By default one shared n-gram is enough, with n = 13, as GPT-3 filtered its training data (Brown
    et al. 2020, arXiv 2005.14165, appendix C; there, the n-gram and 200 characters around it were
    cut out). Others measure a share, of the test set's texts: PaLM calls an example contaminated
    if 70 % of its 8-grams occur in the training data (arXiv 2204.02311), Llama 2 looks at the share
    of tokens in common runs of more than 10 (2307.09288), Tülu 3 at that in common 8-grams, from
    50 % (2411.15124). Here it is the share of the train text's n-grams.
    """

    hashes: Hashes
    """Of the test set, by `ngrams` with the same n."""
    ngram: int = 13
    """n, words of an n-gram. A character of a script without spaces is a word."""
    min_share: float = 0.0
    """A text goes with more than this share of its n-grams. 0: one is enough."""

    def overlap(self, texts: Sequence[str]) -> list[float]:
        """Share of each text's n-grams, repetitions included, that are in the test set."""
        of_texts = ngrams_of(texts, self.ngram)
        shared = np.add.reduceat(self._shared(of_texts), of_texts.offsets[:-1], dtype=np.int64)
        return list((shared / np.diff(of_texts.offsets)).tolist()) if len(texts) else []

    def is_contaminated(self, share: float) -> bool:
        """Whether a text of that overlap is to be removed."""
        return share > self.min_share

    def hits(self, texts: Sequence[str]) -> Hashes:
        """The test set's n-grams in these texts: one entry for each text that has it."""
        of_texts = ngrams_of(texts, self.ngram)
        shared = np.flatnonzero(self._shared(of_texts))
        text = np.searchsorted(of_texts.offsets, shared, side="right")
        pairs = np.stack([text.astype(np.uint64), of_texts.hashes[shared]])
        hashes: Hashes = np.unique(pairs, axis=1)[1]
        return hashes

    def without_common(self, hits: Iterable[Hashes], max_texts: int = 10) -> Contamination:
        """The same without n-grams that more than `max_texts` train texts have.

        They are a template or a phrase that everyone writes, not a leaked question. GPT-3 ignored
        13-grams in more than 10 documents. Remove duplicates before you count.

        Args:
            hits: of all train texts, batch by batch.
            max_texts: the most texts that may share an n-gram which counts.
        """
        num_texts = np.zeros(len(self.hashes), np.int64)
        for batch in hits:
            hashes, counts = np.unique(batch, return_counts=True)
            num_texts[np.searchsorted(self.hashes, hashes)] += counts
        return replace(self, hashes=self.hashes[num_texts <= max_texts])

    def example(self, text: str) -> str | None:
        """The first shared n-gram, normalised; None if there is none."""
        shared = np.flatnonzero(self._shared(ngrams_of([text], self.ngram)))
        if len(shared) == 0:
            return None
        words = separated_words(text).split()
        return " ".join(words[shared[0] : shared[0] + self.ngram])

    def _shared(self, of_texts: NGrams) -> NDArray[np.bool_]:
        """[total] whether each n-gram is in the test set."""
        result = np.zeros(len(of_texts.hashes), bool)
        candidates = np.flatnonzero(self._occupied[of_texts.hashes >> np.uint64(self._shift)])
        hashes = of_texts.hashes[candidates]
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        result[candidates] = self.hashes[place] == hashes
        return result

    @cached_property
    def _shift(self) -> int:
        """What leaves as many leading bits of a hash as number eight times the test set."""
        return 64 - max(16, (8 * len(self.hashes)).bit_length())

    @cached_property
    def _occupied(self) -> NDArray[np.bool_]:
        """Leading bits → whether a hash has them. It spares most n-grams a binary search."""
        table = np.zeros(1 << (64 - self._shift), bool)
        table[self.hashes >> np.uint64(self._shift)] = True
        return table

"""Hashes of word n-grams: what near-duplicates and contamination are found by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from distill_ray.data.transforms import normalise

Hashes = NDArray[np.uint64]

WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Thai to Tai
    "\u3040-\u312f\u31f0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Han
)
"""A character of a script that puts no space between words."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PADDING = np.uint64(0xD6E8FEB86659FD93)


class _Separators(dict[int, str | None]):
    """What `str.translate` writes for a character; worked out when it is first met."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        result: str | None = character
        if WITHOUT_SPACES.match(character):
            result = f" {character} "
        elif category[0] in "PS":
            result = " "
        elif category == "Cf":  # A soft hyphen or a joiner doesn't end a word.
            result = None
        self[code] = result
        return result


_SEPARATORS = _Separators()


def separated_words(text: str) -> str:
    """The words of the normalised text with spaces between them.

    Punctuation and symbols separate words. A character of a script without spaces is a word. A
    text without any word stands for itself: `?!` is not `...`.
    """
    normalised = normalise(text)
    return normalised.translate(_SEPARATORS).strip() or normalised


def text_hash(text: str) -> int:
    """64-bit hash of the normalised text, punctuation included. Equal on every machine."""
    return xxhash.xxh3_64_intdigest(normalise(text).encode())


def mixed(hashes: Hashes) -> Hashes:
    """Every bit of the result depends on all bits of the input (MurmurHash3's last step)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    result: Hashes = hashes ^ (hashes >> np.uint64(33))
    return result


@dataclass(frozen=True)
class NGrams:
    """Hashes of the n-grams of several texts, one text behind the other."""

    hashes: Hashes
    """[total] in the order of the words, repetitions included. At least one a text."""
    offsets: NDArray[np.int64]
    """[num_texts + 1]: text i has `hashes[offsets[i]:offsets[i + 1]]`."""
    num_words: NDArray[np.int64]
    """[num_texts] words of each text. Below n, its one hash is that of the whole text."""


def ngrams_of(texts: Sequence[str], n: int) -> NGrams:
    """Hash every run of n words of each text.

    A text of fewer words has one hash, of all its words. It never equals that of an n-gram.

    Args:
        texts: any texts; they are normalised here.
        n: words of an n-gram, at least 1.
    """
    words = pc.ascii_split_whitespace(pa.array(map(separated_words, texts), pa.large_string()))
    encoded = words.flatten().dictionary_encode()
    vocabulary = map(xxhash.xxh3_64_intdigest, map(str.encode, encoded.dictionary.to_pylist()))
    by_word = np.fromiter(vocabulary, np.uint64, len(encoded.dictionary))
    word_offsets = words.offsets.to_numpy().astype(np.int64)
    num_words = np.diff(word_offsets)

    # Texts of fewer words are padded to n with what is the hash of no word.
    offsets = _offsets(np.maximum(num_words, n))
    padded = np.full(offsets[-1], _PADDING)
    shift = np.repeat(offsets[:-1] - word_offsets[:-1], num_words)
    padded[np.arange(word_offsets[-1]) + shift] = by_word[encoded.indices.to_numpy()]

    ngram_offsets = _offsets(np.maximum(num_words, n) - n + 1)
    starts = np.repeat(offsets[:-1] - ngram_offsets[:-1], np.diff(ngram_offsets))
    starts += np.arange(ngram_offsets[-1])
    hashes = np.zeros(max(len(padded) - n + 1, 0), np.uint64)
    for place in range(n):
        hashes *= _MULTIPLIER
        hashes += padded[place : place + len(hashes)]
    return NGrams(mixed(hashes[starts]), ngram_offsets, num_words)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

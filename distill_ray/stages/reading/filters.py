"""Quality rules of published corpora, by name, and a user's own by import path.

A filter takes a text and says why it goes, in words that can be counted, or None. No filter changes
a text.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.errors import InputError, Problem
from distill_ray.core.plugins import PluginError, find
from distill_ray.stages.reading.ngrams import WITHOUT_SPACES

ENGLISH_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
"""Gopher's eight."""

_BULLETS = ("-", "*", "•", "‣", "◦", "●", "▪")
_ELLIPSES = ("...", "…")
_TERMINAL_MARKS = (*".!?。！？．｡।॥؟۔።", "\u201d", '"', "」", "』")
_SENTENCE_END = re.compile(r"""[.!?]+["'”’)\]]*(?=\s|$)|[。！？．｡।॥؟۔።]+["'”’)\]」』]*""")
_C4_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
# n → the most per cent of characters: table A1 of the Gopher paper.
_TOP_NGRAM = {2: 20, 3: 18, 4: 16}
_REPEATED_NGRAMS = {5: 15, 6: 14, 7: 13, 8: 12, 9: 11, 10: 10}


def words_of(text: str) -> list[str]:
    """What stands between white space. A character of a script without spaces is a word."""
    if text.isascii():
        return text.split()
    return WITHOUT_SPACES.sub(r" \g<0> ", text).split()


def gopher_quality(
    text: str, *, stop_words: frozenset[str] | set[str] = ENGLISH_STOP_WORDS
) -> str | None:
    """Gopher's document rules (Rae et al. 2021, arXiv 2112.11446, section A.1.1).

    50 to 100,000 words; a mean word length of 3 to 10 characters; at most 0.1 hash signs a word,
    and as many ellipses; at most 90 % of lines that begin with a bullet; at most 30 % of lines
    that end with an ellipsis; at least 80 % of words with a letter; at least two different stop
    words. Words that are punctuation alone don't count for number and length.

    The stop words are English: give your language's in a function of your own. Where most
    characters are of a script without spaces, length and stop words aren't judged.
    """
    words = words_of(text)
    spoken = [word for word in words if any(map(str.isalnum, word))]
    if len(spoken) < 50:
        return "fewer than 50 words"
    if len(spoken) > 100_000:
        return "more than 100,000 words"
    mean_length = sum(map(len, spoken)) / len(spoken)
    with_spaces = 2 * len(WITHOUT_SPACES.findall(text)) <= sum(map(len, words))
    if with_spaces and mean_length < 3:
        return "mean word length under 3 characters"
    if with_spaces and mean_length > 10:
        return "mean word length over 10 characters"
    if text.count("#") / len(words) > 0.1:
        return "more than 0.1 hash signs a word"
    if sum(map(text.count, _ELLIPSES)) / len(words) > 0.1:
        return "more than 0.1 ellipses a word"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
        return "more than 90 % of lines begin with a bullet"
    if sum(line.endswith(_ELLIPSES) for line in lines) > 0.3 * len(lines):
        return "more than 30 % of lines end with an ellipsis"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return "fewer than 80 % of words have a letter"
    own_stop_words = {word.strip(".,;:!?\"'()[]").lower() for word in words} & stop_words
    if with_spaces and len(own_stop_words) < 2:
        return "fewer than two stop words"
    return None


def gopher_repetition(text: str) -> str | None:
    """Gopher's repetition rules (Rae et al. 2021, arXiv 2112.11446, table A1).

    At most 30 % of lines, and of paragraphs, that occurred before in the text, with at most 20 %
    of its characters; at most 20, 18, 16 % of characters in the most frequent 2-, 3-, 4-gram of
    words; at most 15, 14, 13, 12, 11, 10 % in repeated 5- to 10-grams. Characters are counted
    without white space, one in several n-grams once, and not where the n-gram occurs first (as in
    datatrove and RedPajama-V2; Dolma counts the first occurrence too). A most frequent n-gram
    occurs at least twice. A character of a script without spaces is a word, so for these the
    n-gram rules are stricter.
    """
    for name, parts in (
        ("paragraphs", re.split(r"\n\s*\n", text)),
        ("lines", text.splitlines()),
    ):
        repeated, characters = _repeated_parts(parts)
        if repeated > 0.30:
            return f"more than 30 % of {name} are repeated"
        if characters > 0.20:
            return f"more than 20 % of characters are in repeated {name}"
    words = words_of(text)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    numbers: dict[str, int] = {}
    word = np.fromiter((numbers.setdefault(w, len(numbers)) for w in words), np.int64, len(words))
    ngram = word
    for n in range(2, min(10, len(words)) + 1):
        # An n-gram is numbered by its first n - 1 words and its last.
        pairs = ngram[: len(words) - n + 1] * len(numbers) + word[n - 1 :]
        _, first, ngram, counts = np.unique(
            pairs, return_index=True, return_inverse=True, return_counts=True
        )
        if len(counts) == len(ngram):
            return None  # No n-gram occurs twice, and no longer one either.
        percent = _TOP_NGRAM.get(n) or _REPEATED_NGRAMS[n]
        if n in _TOP_NGRAM:
            starts = counts[ngram] == counts.max()
            # Of several that are most frequent, the longest.
            sizes = np.convolve(lengths, np.ones(n, np.int64), "valid")
            characters_in = counts.max() * sizes[starts].max()
            reason = f"more than {percent} % of characters are in the most frequent {n}-gram"
        else:
            again = np.ones(len(ngram), bool)
            again[first] = False
            characters_in = lengths[_covered(again, n)].sum()
            reason = f"more than {percent} % of characters are in repeated {n}-grams"
        if 100 * characters_in > percent * lengths.sum():
            return reason
    return None


def _repeated_parts(parts: Iterable[str]) -> tuple[float, float]:
    """Share of the parts with content that occurred before, and of their characters."""
    counts = Counter(stripped for part in parts if (stripped := part.strip()))
    sizes = {part: len("".join(part.split())) for part in counts}
    repeated = sum(count - 1 for count in counts.values())
    characters = sum((count - 1) * sizes[part] for part, count in counts.items())
    return (
        repeated / max(counts.total(), 1),
        characters / max(sum(count * sizes[part] for part, count in counts.items()), 1),
    )


def _covered(starts: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    """[num_words] the words in any of the n-grams that start there."""
    edges = np.zeros(len(starts) + n, np.int64)
    edges[: len(starts)] += starts
    edges[n:] -= starts
    covered: NDArray[np.bool_] = np.cumsum(edges)[:-1] > 0
    return covered


def c4(text: str) -> str | None:
    """C4's rules (Raffel et al. 2020, JMLR 21, section 2.2) on whole documents.

    C4 drops documents with "lorem ipsum" or a curly bracket, and cuts out lines: without a
    terminal mark at their end, of fewer than 5 words, with a word over 1,000 characters, with
    "javascript" or a word on cookies and terms of use. It drops what keeps fewer than 3 sentences.
    Here no line is cut. A document goes if C4 would drop it, or if the lines that C4 would cut
    hold more than half of its characters; else it stays as it is.

    Not applied: C4's list of bad words, its language detection, its removal of repeated
    three-sentence spans. Sentences are counted by their marks, those of other scripts included. A
    character of a script without spaces is a word.
    """
    lowered = text.lower()
    if "lorem ipsum" in lowered:
        return "lorem ipsum"
    if "{" in text or "}" in text:
        return "a curly bracket"
    num_sentences = cut = total = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        words, lowered = words_of(line), line.lower()
        total += len(line)
        if (
            not line.endswith(_TERMINAL_MARKS)
            or line.endswith(_ELLIPSES)
            or len(words) < 5
            or max(map(len, words)) > 1000
            or "javascript" in lowered
            or any(phrase in lowered for phrase in _C4_POLICY)
        ):
            cut += len(line)
        else:
            num_sentences += max(1, len(_SENTENCE_END.findall(line)))
    if num_sentences < 3:
        return "fewer than 3 sentences in lines that C4 keeps"
    if 2 * cut > total:
        return "more than half of the characters in lines that C4 cuts out"
    return None


def fineweb(text: str) -> str | None:
    """FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557).

    More than 12 % of lines end with a terminal mark, less than 10 % of characters are in repeated
    lines, fewer than 67 % of lines have under 30 characters. Lines without content don't count.
    No rule counts words, so scripts without spaces are judged alike; their lines are shorter.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.endswith(_TERMINAL_MARKS) for line in lines) <= 0.12 * len(lines):
        return "at most 12 % of lines end with a terminal mark"
    if _repeated_parts(lines)[1] >= 0.1:
        return "at least 10 % of characters are in repeated lines"
    if sum(len(line) < 30 for line in lines) >= 0.67 * len(lines):
        return "at least 67 % of lines have under 30 characters"
    return None


FILTERS: dict[str, Callable[[str], str | None]] = {
    "c4": c4,
    "fineweb": fineweb,
    "gopher_quality": gopher_quality,
    "gopher_repetition": gopher_repetition,
}
"""Name → a function that says why a text goes, or None."""


@dataclass(frozen=True)
class Filter:
    """A filter by its name, with what its function returns checked."""

    name: str
    """A key of `FILTERS`, or an import path."""
    function: Callable[[str], Any]

    def reason(self, text: str, *, place: str) -> str | None:
        """Why the text goes, or None if it stays.

        Args:
            text: the text.
            place: file and row, for errors.

        Raises:
            InputError: the function raised, or returned something else than a bool, a reason or
                None.
        """
        try:
            result = self.function(text)
        except Exception as error:
            what = f"filter {self.name!r} raised {type(error).__name__}: {error}"
            raise InputError("A filter failed:", [Problem(place, what)]) from error
        if result is None or (isinstance(result, (bool, np.bool_)) and result):
            return None
        if isinstance(result, (bool, np.bool_)):
            return "dropped"
        if isinstance(result, str) and result:
            return result
        what = f"filter {self.name!r} returned {result!r:.80}."
        fix = "Return True or None to keep the text, False or a reason to drop it."
        raise InputError("A filter failed:", [Problem(place, what, fix)])


def load_filter(name: str) -> Filter:
    """The filter of that name, or the function at `package.module:function`.

    Raises:
        PluginError: there is no such function, or it doesn't take one text.
    """
    function = find(name, FILTERS)
    try:
        inspect.signature(function).bind("")
    except (TypeError, ValueError) as error:
        raise PluginError(f"{name!r} can't be called with one text: {error}") from error
    return Filter(name, function)

"""Samples → rows. The one place that says which tokens are supervised.

A mask at position i speaks of the prediction made there, that is of token i + 1. Where samples
share a row, they never see each other: position ids restart with each sample, from which
transformers builds a block-diagonal attention mask.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """Tokens of one text or one question, with the masks of its predictions."""

    source: str
    """row_id of the text row."""
    ids: list[int]
    gold: list[bool]
    distill: list[bool]


def text_sample(source: str, ids: Sequence[int], end: int) -> Sample:
    """Running text: every token but the first is predicted, the end included."""
    tokens = [*ids, end]
    mask = [True] * len(ids) + [False]
    return Sample(source, tokens, mask, mask)


def labelled_sample(
    source: str, prompt: Sequence[int], answer: Sequence[int], end: int, rest: Sequence[int] = ()
) -> Sample:
    """A prompt and its answer: the answer and the end are predicted, the prompt is not.

    Args:
        source: row_id of the text row.
        prompt: at least one token.
        answer: the answer's own tokens.
        end: ends it.
        rest: what a chat template puts behind the end; it is kept, and never predicted.
    """
    mask = [False] * (len(prompt) - 1) + [True] * (len(answer) + 1) + [False] * (1 + len(rest))
    return Sample(source, [*prompt, *answer, end, *rest], mask, mask)


def prompt_sample(source: str, prompt: Sequence[int]) -> Sample:
    """A prompt without an answer: only the teacher says what comes next."""
    distill = [False] * (len(prompt) - 1) + [True]
    return Sample(source, list(prompt), [False] * len(prompt), distill)


def split_long(samples: Iterable[Sample], length: int) -> Iterator[Sample]:
    """Cut samples that are longer than a row; a cut loses the one prediction across it."""
    for sample in samples:
        for start in range(0, len(sample.ids), length):
            part = slice(start, start + length)
            gold, distill = list(sample.gold[part]), list(sample.distill[part])
            if start + length < len(sample.ids):
                gold[-1] = distill[-1] = False
            yield Sample(sample.source, sample.ids[part], gold, distill)


def pack(samples: Iterable[Sample], length: int, pad: int, prefix: str) -> Iterator[dict[str, Any]]:
    """Rows of the PACKED contract, filled with whole samples by best fit, the longest first.

    Samples keep their order within a row, and rows that of their first samples.

    Args:
        samples: each at most `length` tokens.
        length: tokens of a row.
        pad: fills the rest of a row; never supervised.
        prefix: start of each row_id.
    """
    made = list(samples)
    for number, held in enumerate(best_fit([len(s.ids) for s in made], length)):
        yield _row([made[i] for i in held], length, pad, f"{prefix}:{number:06d}")


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: each item, the largest first, into the fullest bin that has room.

    At most 11/9 of the fewest bins possible, and 4 (Johnson et al., "Worst-case performance bounds
    for simple one-dimensional packing algorithms", 1974), where next fit may take twice as many.

    Args:
        sizes: of the items, each at most `room`.
        room: of a bin.

    Returns:
        Indices of the items in each bin, ascending; bins by their first items.
    """
    bins: list[list[int]] = []
    with_room: list[tuple[int, int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = bisect_left(with_room, (sizes[item], 0))
        if at == len(with_room):
            left, chosen = room, len(bins)
            bins.append([])
        else:
            left, chosen = with_room.pop(at)
        bins[chosen].append(item)
        insort(with_room, (left - sizes[item], chosen))
    return sorted(sorted(items) for items in bins)


def unpacked(samples: Iterable[Sample], prefix: str) -> Iterator[dict[str, Any]]:
    """Rows of the PACKED contract with one sample each, as long as it is."""
    for number, sample in enumerate(samples):
        yield _row([sample], len(sample.ids), 0, f"{prefix}:{number:06d}")


def _row(samples: Sequence[Sample], length: int, pad: int, row_id: str) -> dict[str, Any]:
    rest = length - sum(len(s.ids) for s in samples)
    return {
        "row_id": row_id,
        "input_ids": [t for s in samples for t in s.ids] + [pad] * rest,
        "position_ids": [i for s in samples for i in range(len(s.ids))] + list(range(rest)),
        "gold": [m for s in samples for m in s.gold] + [False] * rest,
        "distill": [m for s in samples for m in s.distill] + [False] * rest,
        "sources": [s.source for s in samples],
    }

"""Samples → rows. The one place that says which tokens are supervised.

A mask at position i speaks of the prediction made there, that is of token i + 1. Where samples
share a row, they never see each other: position ids restart with each sample, from which
transformers builds a block-diagonal attention mask.
"""

from __future__ import annotations

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
    """Rows of the PACKED contract, filled in order with whole samples (next fit).

    Args:
        samples: each at most `length` tokens.
        length: tokens of a row.
        pad: fills the rest of a row; never supervised.
        prefix: start of each row_id.
    """
    held: list[Sample] = []
    used = number = 0
    for sample in samples:
        if used + len(sample.ids) > length:
            yield _row(held, length, pad, f"{prefix}:{number:06d}")
            held, used, number = [], 0, number + 1
        held.append(sample)
        used += len(sample.ids)
    if held:
        yield _row(held, length, pad, f"{prefix}:{number:06d}")


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

"""Pack samples into rows. This module alone decides which tokens are supervised.

A mask at position i is about the prediction of token i + 1. Samples that share a row never see
each other: position ids restart with each sample, from which
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
    label_mask: list[bool]
    teacher_mask: list[bool]


def text_sample(source: str, ids: Sequence[int], end: int) -> Sample:
    """Running text: every token but the first is predicted, the end included."""
    tokens = [*ids, end]
    mask = [True] * len(ids) + [False]
    return Sample(source, tokens, mask, mask)


def labelled_sample(
    source: str,
    prompt: Sequence[int],
    answer: Sequence[int],
    end: int,
    trailing: Sequence[int] = (),
) -> Sample:
    """A prompt and its answer: the answer and the end are predicted, the prompt is not.

    Args:
        source: row_id of the text row.
        prompt: at least one token.
        answer: the answer's own tokens.
        end: ends it.
        trailing: what a chat template puts after the end; in the row, but never supervised.
    """
    mask = [False] * (len(prompt) - 1) + [True] * (len(answer) + 1) + [False] * (1 + len(trailing))
    return Sample(source, [*prompt, *answer, end, *trailing], mask, mask)


def prompt_sample(source: str, prompt: Sequence[int]) -> Sample:
    """A prompt without an answer: only the teacher supervises the next token."""
    distill = [False] * (len(prompt) - 1) + [True]
    return Sample(source, list(prompt), [False] * len(prompt), distill)


def split_long(samples: Iterable[Sample], length: int) -> Iterator[Sample]:
    """Cut samples that are longer than a row; a cut loses the one prediction across it."""
    for sample in samples:
        for start in range(0, len(sample.ids), length):
            part = slice(start, start + length)
            label_mask, teacher_mask = (
                list(sample.label_mask[part]),
                list(sample.teacher_mask[part]),
            )
            if start + length < len(sample.ids):
                label_mask[-1] = teacher_mask[-1] = False
            yield Sample(sample.source, sample.ids[part], label_mask, teacher_mask)


def pack(samples: Iterable[Sample], length: int, pad: int, prefix: str) -> Iterator[dict[str, Any]]:
    """Rows of the PACKED contract, filled with whole samples by best fit, the longest first.

    Samples keep their order within a row, and rows that of their first samples.

    Args:
        samples: each at most `length` tokens.
        length: tokens of a row.
        pad: fills the rest of a row; never supervised.
        prefix: start of each row_id.
    """
    items = list(samples)
    for number, held in enumerate(best_fit([len(s.ids) for s in items], length)):
        yield _row([items[i] for i in held], length, pad, f"{prefix}:{number:06d}")


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
        place = bisect_left(with_room, (sizes[item], 0))
        if place == len(with_room):
            room_left, bin_index = room, len(bins)
            bins.append([])
        else:
            room_left, bin_index = with_room.pop(place)
        bins[bin_index].append(item)
        insort(with_room, (room_left - sizes[item], bin_index))
    return sorted(sorted(items) for items in bins)


def unpacked(samples: Iterable[Sample], prefix: str) -> Iterator[dict[str, Any]]:
    """Rows of the PACKED contract with one sample each, as long as it is."""
    for number, sample in enumerate(samples):
        yield _row([sample], len(sample.ids), 0, f"{prefix}:{number:06d}")


def _row(samples: Sequence[Sample], length: int, pad: int, row_id: str) -> dict[str, Any]:
    padding = length - sum(len(s.ids) for s in samples)
    return {
        "row_id": row_id,
        "input_ids": [t for s in samples for t in s.ids] + [pad] * padding,
        "position_ids": [i for s in samples for i in range(len(s.ids))] + list(range(padding)),
        "label_mask": [m for s in samples for m in s.label_mask] + [False] * padding,
        "teacher_mask": [m for s in samples for m in s.teacher_mask] + [False] * padding,
        "sources": [s.source for s in samples],
    }

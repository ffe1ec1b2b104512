"""Which rows of equal content stay: one a stream, none in train that a test holds. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

KEYS = pa.schema(
    [
        ("key_high", pa.uint64()),  # the content key's 96 bits
        ("key_low", pa.uint32()),
        ("stream", pa.int16()),  # number of the stream
        ("split", pa.int8()),  # place in SPLITS: the later one keeps a text that is in several
        ("label", pa.uint64()),  # hash of the label, 0 where there is none
        ("part", pa.int32()),
        ("row", pa.int32()),  # place in the part's file
    ]
)
"""What is known of a row when duplicates are looked for: 31 bytes, whatever its text."""
REASONS = ("duplicate", "leak", "conflict", "near_duplicate", "contaminated")
DUPLICATE, LEAK, CONFLICT, NEAR_DUPLICATE, CONTAMINATED = range(len(REASONS))
REMOVED = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int32()),
        ("stream", pa.int16()),
        ("split", pa.int8()),
        ("reason", pa.int8()),  # place in REASONS
        # The row in whose favour it goes; of a conflict, one with another label.
        ("kept_part", pa.int32()),
        ("kept_row", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Removals:
    """What a phase takes away."""

    counts: Mapping[tuple[int, int, str], int]
    """(stream, split, reason) → rows."""
    examples: Sequence[Mapping[str, Any]]
    """A few rows of REMOVED of each stream and reason; one may have a `text` instead of a place."""


@dataclass(frozen=True)
class StreamRules:
    """What decides between rows of equal content, by number of the stream."""

    protected: Sequence[bool]
    """Whether no stream may train on the stream's held-out texts."""
    prompts_of: Mapping[int, int]
    """Stream of prompts → the labelled stream of the same task, whose rows go first."""
    majority: Sequence[bool]
    """Whether the most frequent of several labels is kept. Otherwise none is."""


def removed_rows(keys: pa.Table, rules: StreamRules) -> pa.Table:
    """The rows that don't stay.

    Of the rows of one stream and content, one stays: one with a label before one without, of
    the later split, that was read first. Where the labels contradict each other, the most frequent
    one counts, or none of the rows stays.

    Args:
        keys: KEYS of all rows whose content is in the table, in any order.
        rules: the streams' rules.

    Returns:
        REMOVED, sorted by part and row.
    """
    columns = {name: keys[name].to_numpy() for name in keys.column_names}
    order = np.lexsort((columns["row"], columns["part"], columns["key_low"], columns["key_high"]))
    repeated = _in_groups_of_several(columns["key_high"][order], columns["key_low"][order])
    rows = _Rows({name: values[order[repeated]] for name, values in columns.items()})
    content = rows.numbered("key_high", "key_low")
    of_stream = rows.numbered("key_high", "key_low", "stream")
    right_label, conflict = _labels_that_count(rows, of_stream, np.array(rules.majority))

    # The best row of each stream and content comes first.
    has_label = rows.columns["label"] == right_label[of_stream]
    has_label &= rows.columns["label"] != 0
    ranked = np.lexsort((np.arange(len(rows)), -rows.columns["split"], ~has_label, of_stream))
    best = np.empty(len(right_label), np.int64)
    best[of_stream[ranked[::-1]]] = ranked[::-1]
    kept = best[of_stream]
    reason = np.full(len(rows), -1, np.int8)
    others = kept != np.arange(len(rows))
    same_split = rows.columns["split"] == rows.columns["split"][kept]
    reason[others] = np.where(same_split, DUPLICATE, LEAK)[others]
    in_conflict = conflict[of_stream]
    reason[in_conflict] = CONFLICT
    kept[in_conflict] = _other_label(rows, of_stream)[in_conflict]

    # Across streams: a task's labelled row before its prompt, a held-out text before train.
    for prompts, labelled in rules.prompts_of.items():
        owners = (reason < 0) & (rows.columns["stream"] == labelled) & (rows.columns["label"] != 0)
        owner = _by_content(owners, content)
        losers = (reason < 0) & (rows.columns["stream"] == prompts) & (owner[content] >= 0)
        losers &= rows.columns["split"] == rows.columns["split"][owner[content]]
        reason[losers], kept[losers] = DUPLICATE, owner[content][losers]
    protected = np.array(rules.protected)[rows.columns["stream"]]
    held_out = (reason < 0) & protected & (rows.columns["split"] > 0)
    owner = _by_content(held_out, content)
    leaks = (reason < 0) & (rows.columns["split"] == 0) & (owner[content] >= 0)
    reason[leaks], kept[leaks] = LEAK, owner[content][leaks]

    gone = np.flatnonzero(reason >= 0)
    names = ("part", "row", "stream", "split")
    table = {name: rows.columns[name][gone] for name in names}
    table["reason"] = reason[gone]
    for name in ("part", "row"):
        table[f"kept_{name}"] = rows.columns[name][kept[gone]]
    return pa.table(table, schema=REMOVED).sort_by([("part", "ascending"), ("row", "ascending")])


@dataclass(frozen=True)
class _Rows:
    """Columns of equal length, sorted by content."""

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["row"])

    def numbered(self, *names: str) -> NDArray[np.int64]:
        """[rows] number of each row's combination of values, 0 to their count."""
        order = np.lexsort([self.columns[name] for name in reversed(names)])
        new = np.zeros(len(self), np.bool_)
        for name in names:
            values = self.columns[name][order]
            new[1:] |= values[1:] != values[:-1]
        numbers = np.empty(len(self), np.int64)
        numbers[order] = np.cumsum(new)
        return numbers


def _in_groups_of_several(*sorted_values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a row has a neighbour of equal values."""
    count = len(sorted_values[0])
    equal = np.ones(max(count - 1, 0), np.bool_)
    for values in sorted_values:
        equal &= values[1:] == values[:-1]
    several = np.zeros(count, np.bool_)
    several[1:] |= equal
    several[:-1] |= equal
    return several


def _labels_that_count(
    rows: _Rows, group: NDArray[np.int64], majority: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Each group's label, 0 for none, and whether the labels contradict each other unresolved."""
    count = int(group.max()) + 1 if len(group) else 0
    label, conflict = np.zeros(count, np.uint64), np.zeros(count, np.bool_)
    labelled = np.flatnonzero(rows.columns["label"] != 0)
    pairs = np.lexsort((rows.columns["label"][labelled], group[labelled]))
    of_pair, value = group[labelled][pairs], rows.columns["label"][labelled][pairs]
    new = np.ones(len(pairs), np.bool_)
    new[1:] = (of_pair[1:] != of_pair[:-1]) | (value[1:] != value[:-1])
    starts = np.flatnonzero(new)
    votes = np.diff(np.append(starts, len(pairs)))
    owner, value = of_pair[starts], value[starts]
    most = np.zeros(count, np.int64)
    np.maximum.at(most, owner, votes)
    winners = votes == most[owner]
    label[owner[winners]] = value[winners]
    several = np.bincount(owner, minlength=count) > 1
    tied = np.bincount(owner[winners], minlength=count) > 1
    stream_of = np.zeros(count, np.int64)
    stream_of[group] = rows.columns["stream"]
    conflict = several & (tied | ~majority[stream_of])
    return label, conflict


def _other_label(rows: _Rows, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """[rows] a row of the same group with another label, for groups that have several."""
    label, labelled = rows.columns["label"], rows.columns["label"] != 0
    one = _by_content(labelled, group)
    another = _by_content(labelled & (label != label[one[group]]), group)
    return np.where(label == label[one[group]], another[group], one[group])


def _by_content(chosen: NDArray[np.bool_], content: NDArray[np.int64]) -> NDArray[np.int64]:
    """[contents] a chosen row of each content, -1 where there is none."""
    owner = np.full(int(content.max()) + 1 if len(content) else 0, -1, np.int64)
    places = np.flatnonzero(chosen)[::-1]
    owner[content[places]] = places
    return owner

"""Cleaning: content keys, splits by group, duplicates and leaks removed."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


def normalise(text: str) -> str:
    """The form in which two texts count as the same: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_key(text: str) -> str:
    """SHA-256 of the normalised text, 24 hex digits."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:24]


def bucket_of(key: str, buckets: int) -> int:
    """Which bucket a key falls into: texts that are the same always share one."""
    return int(key[:8], 16) % buckets


def split_of(group: str, *, validation: float, test: float, seed: int = 0) -> str:
    """The split of a group, by its hash: independent of order, count and other rows."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


@dataclass(frozen=True)
class Cleaner:
    """Turns rows as they were read into rows of the TEXT contract."""

    stream: str
    text_column: str
    label_column: str
    group_column: str
    validation: float
    test: float
    seed: int

    def __call__(self, raw: Mapping[str, Any]) -> Row | None:
        """The clean row, or None for one without text."""
        text = raw.get(self.text_column)
        if not isinstance(text, str) or not text.strip():
            return None
        key = content_key(text)
        label, group = raw.get(self.label_column), raw.get(self.group_column)
        group = key if group is None else str(group)
        split = split_of(group, validation=self.validation, test=self.test, seed=self.seed)
        return {
            "row_id": f"{self.stream}:{key}",
            "key": key,
            "stream": self.stream,
            "split": split,
            "text": text,
            "label": None if label is None else str(label),
            "group": group,
        }


@dataclass
class Deduplicated:
    """Rows of a bucket that stay, and how many went for which reason."""

    rows: list[Row] = field(default_factory=list)
    duplicates: int = 0
    leaks: int = 0


def deduplicate(rows: Iterable[Row], protected: frozenset[str]) -> Deduplicated:
    """Keep one row of each stream and text; drop train rows whose text is held out elsewhere.

    All rows of one text must be in `rows`: buckets are made by content key.

    Args:
        rows: rows of the TEXT contract, in any order.
        protected: streams whose held-out rows must not be trained on in any stream.
    """
    ordered = sorted(rows, key=lambda r: (r["key"], r["stream"], r["group"], r["label"] or ""))
    held_out = {r["key"] for r in ordered if r["stream"] in protected and r["split"] != "train"}
    result, kept_ids = Deduplicated(), set()
    for row in ordered:
        if row["row_id"] in kept_ids:
            result.duplicates += 1
        elif row["split"] == "train" and row["key"] in held_out:
            result.leaks += 1
        else:
            result.rows.append(row)
            # A leak is not remembered: the same text's held-out row must still be kept.
            kept_ids.add(row["row_id"])
    return result

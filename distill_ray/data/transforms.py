"""Content keys, and splits by group."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

Row = dict[str, Any]


def normalise(text: str) -> str:
    """The form in which two texts count as the same: NFKC, case folded, white space collapsed."""
    if text.isascii():  # NFKC changes no ASCII text, and folding its case is `lower`.
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_key(text: str) -> str:
    """SHA-256 of the normalised text, 24 hex digits."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:24]


def split_of(group: str, *, validation: float, test: float, seed: int = 0) -> str:
    """The split of a group, by its hash: independent of order, count and other rows."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"

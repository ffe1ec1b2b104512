"""Compare two tokenizers by their files alone. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.models.folder import read_json


@dataclass(frozen=True)
class Fit:
    """How a teacher's vocabulary relates to the student's."""

    equal: bool
    """Whether they have the same tokens with the same ids, by the same rules."""
    overlap: float
    """Share of the student's tokens that the teacher has too."""


def tokenizer_file(folder: Path) -> dict[str, Any] | None:
    """Parse the `tokenizer.json` of a folder, if it has one.

    Raises:
        ValueError: the file is garbage.
    """
    path = folder / "tokenizer.json"
    return read_json(path) if path.is_file() else None


def tokenizer_identity(parsed: dict[str, Any]) -> str:
    """Digest everything that decides which ids a text gets."""
    deciding = ("model", "normalizer", "pre_tokenizer", "added_tokens")
    text = json.dumps({key: parsed.get(key) for key in deciding}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def vocabulary(parsed: dict[str, Any]) -> set[str]:
    """Collect all tokens, added ones included."""
    vocab = parsed.get("model", {}).get("vocab", {})
    tokens = vocab if isinstance(vocab, dict) else [item[0] for item in vocab]
    return {*tokens, *(token["content"] for token in parsed.get("added_tokens", []))}


def compare(student: dict[str, Any], teacher: dict[str, Any]) -> Fit:
    """Compare two parsed `tokenizer.json` files."""
    equal = tokenizer_identity(student) == tokenizer_identity(teacher)
    student_tokens, teacher_tokens = vocabulary(student), vocabulary(teacher)
    return Fit(equal, len(student_tokens & teacher_tokens) / max(1, len(student_tokens)))

"""Load the tokenizers of config sections, and refuse those that differ."""

from __future__ import annotations

import json
from typing import Any

from distill_ray.config.errors import Problem
from distill_ray.config.models import ModelSource, TokenizerSource
from distill_ray.models.gguf import tokenizer_folder
from distill_ray.models.packages import file_of
from distill_ray.models.vocab import Fit

SAME = "Teachers must share the student's tokenizer: choose one of its family."


def tokenizer_of(source: TokenizerSource | ModelSource) -> Any:
    """Load the tokenizer that a section names.

    Raises:
        OSError: the tokenizer's files are missing.
    """
    from transformers import AutoTokenizer

    if source.path is not None:
        return AutoTokenizer.from_pretrained(source.path)
    if isinstance(source, TokenizerSource):
        return AutoTokenizer.from_pretrained(source.hub)
    if source.gguf is not None:
        return AutoTokenizer.from_pretrained(str(tokenizer_folder(file_of(source.gguf))))
    return AutoTokenizer.from_pretrained(
        source.hub, revision=source.revision, trust_remote_code=source.trust_remote_code
    )


def parsed(tokenizer: Any) -> dict[str, Any]:
    """Convert a loaded tokenizer to the form of `tokenizer.json`."""
    return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


def differs(where: str, teacher: str, fit: Fit) -> Problem:
    """Make the problem of a teacher with another tokenizer than the student's."""
    what = (
        f"{teacher}'s tokenizer differs from the student's: {fit.overlap:.1%} of the student's "
        "tokens are in it."
    )
    return Problem(where, what, SAME)

"""Questions with options, as the audit and the evaluation score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill_ray.data.wording import Wording


@dataclass(frozen=True)
class Questions:
    """A set of questions over the same options. n questions, K options."""

    name: str
    """`<task>` or `<task>.<shifted set>`."""
    row_ids: list[str]
    prompts: list[list[int]]
    """[n] token ids of each prompt."""
    options: list[list[int]]
    """[K] token ids of each option's answer."""
    labels: list[str]
    """[K] the options' labels."""
    gold: list[int]
    """[n] index of the right option."""
    groups: list[str]
    """[n] questions of one group are near copies: they are resampled together."""

    def first(self, count: int) -> Questions:
        """The first `count` questions."""
        part = {
            name: getattr(self, name)[:count] for name in ("row_ids", "prompts", "gold", "groups")
        }
        return replace(self, **part)


def questions(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    template: str,
    answers: Mapping[str, str],
    wording: Wording,
) -> Questions:
    """Render and tokenize rows of the TEXT contract; rows with an unknown label are left out."""
    labels = list(answers)
    known = [row for row in rows if row["label"] in answers]
    return Questions(
        name=name,
        row_ids=[row["row_id"] for row in known],
        prompts=[wording.prompt(template.format(text=row["text"])) for row in known],
        options=option_ids(answers, wording),
        labels=labels,
        gold=[labels.index(row["label"]) for row in known],
        groups=[row["group"] for row in known],
    )


def option_ids(answers: Mapping[str, str], wording: Wording) -> list[list[int]]:
    """[K] token ids of each answer.

    Where one answer begins another (`1` and `12`), the end belongs to the answer: without it the
    longer one could never be the likelier.
    """
    options = [wording.answer(text) for text in answers.values()]
    begun = any(
        a is not b and b.ids[: len(a.ids)] == a.ids
        for a in options
        for b in options
        if len(a.ids) <= len(b.ids)
    )
    return [[*option.ids, option.end] if begun else option.ids for option in options]

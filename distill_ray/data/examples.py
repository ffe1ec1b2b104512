"""Questions with options, as the audit and the evaluation score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill_ray.data.prompt_format import PromptFormat, Side


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
    answer_index: list[int]
    """[n] index of the right option."""
    groups: list[str]
    """[n] questions of one group are near copies: they are resampled together."""
    empty: list[int] = field(default_factory=list)
    """Token ids of the prompt without a text, at least one: what comes before a prior."""
    end: int | None = None
    """Token that ends an answer; None where nothing does."""

    @property
    def answers(self) -> list[list[int]]:
        """[K] the options without an end: what a generated answer is compared with."""
        return [up_to(option, self.end) for option in self.options]

    def first(self, count: int) -> Questions:
        """The first `count` questions."""
        return self.between(0, count)

    def between(self, start: int, stop: int) -> Questions:
        """The questions from `start` to before `stop`."""
        columns = ("row_ids", "prompts", "answer_index", "groups")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in columns})


def up_to(ids: Sequence[int], end: int | None) -> list[int]:
    """Token ids before the first end."""
    return list(ids[: ids.index(end)] if end in ids else ids)


@dataclass(frozen=True)
class Cut:
    """Where the text of a long prompt is truncated."""

    length: int
    """Tokens of prompt and answer together."""
    side: Side


def questions(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    template: str,
    answers: Mapping[str, str],
    prompt_format: PromptFormat,
    cut: Cut | None = None,
) -> Questions:
    """Render and tokenize rows of the TEXT contract; rows with an unknown label are left out.

    Args:
        name: of the questions.
        rows: of the TEXT contract.
        template: of the prompt.
        answers: label → its text.
        prompt_format: makes tokens of both.
        cut: what to do with prompts that are too long with their answers, as in training.
    """
    labels = list(answers)
    encoded = [prompt_format.answer(text) for text in answers.values()]
    known = [row for row in rows if row["label"] in answers]
    prompts = prompt_format.prompts([template.format(text=row["text"]) for row in known])
    if cut is not None:
        limit = cut.length - max(answer.size for answer in encoded)
        prompts = [
            prompt
            if len(prompt) <= limit
            else prompt_format.prompt_of(template, row["text"], limit, cut.side)
            for row, prompt in zip(known, prompts)
        ]
    return Questions(
        name=name,
        row_ids=[row["row_id"] for row in known],
        prompts=prompts,
        options=option_ids(answers, prompt_format),
        labels=labels,
        answer_index=[labels.index(row["label"]) for row in known],
        groups=[row["group"] for row in known],
        # A running text's first token follows the end of another.
        empty=prompt_format.prompt(template.format(text="")) or [encoded[0].end],
        end=encoded[0].end,
    )


def option_ids(answers: Mapping[str, str], prompt_format: PromptFormat) -> list[list[int]]:
    """[K] token ids of each answer.

    Where one answer begins another (`1` and `12`), the end belongs to the answer: without it the
    longer one could never be the likelier.
    """
    options = [prompt_format.answer(text) for text in answers.values()]
    begun = any(
        a is not b and b.ids[: len(a.ids)] == a.ids
        for a in options
        for b in options
        if len(a.ids) <= len(b.ids)
    )
    return [[*option.ids, option.end] if begun else option.ids for option in options]

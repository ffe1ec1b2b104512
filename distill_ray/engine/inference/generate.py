"""Answers that a frozen model writes itself, token by token. n questions, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distill_ray.data.examples import Questions
from distill_ray.engine.inference.loglikelihood import BATCH_TOKENS, by_length, size_of

SPARE = 4
"""Tokens that an answer may have beyond the longest option: enough to see that it isn't one."""


@torch.no_grad()
def greedy_answers(
    model: Any,
    questions: Questions,
    *,
    device: torch.device,
    vocabulary: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[int]]:
    """[n] token ids of the likeliest continuations, up to the answer's end and with it.

    An answer without the end was cut off: by its length, or by the model's context.

    Args:
        model: a causal language model of transformers in evaluation mode.
        questions: prompts and options as token ids.
        device: where the model is.
        vocabulary: ids that the tokenizer has; the others are never written.
        batch_tokens: tokens of one batch, padding included.
    """
    answers: list[list[int]] = [[] for _ in questions.prompts]
    longest = max(map(len, questions.options)) + SPARE
    context = size_of(model)["context"] or 2**31
    with _plain_settings(model):
        for chunk in by_length(questions.prompts, longest, batch_tokens):
            prompts = [questions.prompts[i] for i in chunk]
            room = context - max(map(len, prompts))
            if room <= 0:
                continue
            outputs = _generate(
                model, prompts, min(longest, room), questions.end, device, vocabulary
            )
            for i, ids in zip(chunk, outputs):
                end = questions.end
                answers[i] = ids[: ids.index(end) + 1] if end in ids else ids
    return answers


def _generate(
    model: Any,
    prompts: Sequence[list[int]],
    new_tokens: int,
    end: int | None,
    device: torch.device,
    vocabulary: int | None,
) -> list[list[int]]:
    from transformers import GenerationConfig, LogitsProcessorList

    width = max(map(len, prompts))
    # Padded on the left: what is written follows the prompt at once.
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=new_tokens, eos_token_id=end, pad_token_id=0
    )
    sequences = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=LogitsProcessorList([_Known(vocabulary)]),
    )
    return sequences[:, width:].tolist()  # type: ignore[no-any-return]


class _Known:
    """Leaves no probability to ids that the tokenizer hasn't got."""

    def __init__(self, vocabulary: int | None) -> None:
        self._vocabulary = vocabulary

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        if self._vocabulary is not None:
            scores[:, self._vocabulary :] = -torch.inf
        return scores


@contextmanager
def _plain_settings(model: Any) -> Iterator[None]:
    """Without what a model's authors advise for sampling, penalties and the like."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before

"""Answers that a frozen model writes itself, token by token. n questions, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Generate the likeliest continuations: [n] token ids, up to the answer's end and with it.

    An answer without the end was cut off: by its length, or by the model's context.

    Args:
        model: a causal language model of transformers in evaluation mode.
        questions: prompts and options as token ids.
        device: where the model is.
        vocabulary: ids that the tokenizer has; the others are never written.
        batch_tokens: tokens of one batch, padding included.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    answers: list[list[int]] = [[] for _ in questions.prompts]
    end, longest = questions.end, max(map(len, questions.options)) + SPARE
    context = size_of(model)["context"] or 2**31
    known_ids = LogitsProcessorList([_KnownIds(vocabulary)])
    with _default_generation_config(model):
        for chunk in by_length(questions.prompts, longest, batch_tokens):
            prompts = [questions.prompts[i] for i in chunk]
            width = max(map(len, prompts))
            if width >= context:
                continue
            greedy = GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=min(longest, context - width),
                eos_token_id=end,
                pad_token_id=0,
            )
            # Padded on the left: the answer follows the prompt at once.
            padding = [width - len(prompt) for prompt in prompts]
            ids = [[0] * pad + prompt for pad, prompt in zip(padding, prompts)]
            mask = [[0] * pad + [1] * len(prompt) for pad, prompt in zip(padding, prompts)]
            sequences = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=greedy,
                logits_processor=known_ids,
            )
            for i, answer in zip(chunk, sequences[:, width:].tolist()):
                answers[i] = answer[: answer.index(end) + 1] if end in answer else answer
    return answers


class _KnownIds:
    """Leaves no probability to ids that the tokenizer hasn't got."""

    def __init__(self, vocabulary: int | None) -> None:
        self._vocabulary = vocabulary

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        if self._vocabulary is not None:
            scores[:, self._vocabulary :] = -torch.inf
        return scores


@contextmanager
def _default_generation_config(model: Any) -> Iterator[None]:
    """Drop the model's own settings of sampling, penalties and the like, for the block."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before

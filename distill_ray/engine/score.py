"""Scoring a frozen model: answers to questions, losses on text. n questions, K options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.core.losses import cross_entropy
from distill_ray.data.batches import Batch
from distill_ray.data.examples import Questions
from distill_ray.engine.objective import kl_sums


@dataclass(frozen=True)
class TextScore:
    """Token losses on running text."""

    nll: float
    """Mean -log p(token), nats."""
    tokens: int


@torch.no_grad()
def option_scores(
    model: Any, questions: Questions, *, device: torch.device, batch_logits: int = 2**26
) -> NDArray[np.float64]:
    """[n, K] log-likelihood of each option's answer after each prompt, in nats.

    Args:
        model: a causal language model in evaluation mode.
        questions: prompts and options as token ids.
        device: where the model is.
        batch_logits: logits of one forward pass, 4 bytes each: tokens, padding included, times
            the vocabulary.
    """
    batch_tokens = max(1, batch_logits // int(model.config.vocab_size))
    scores = np.zeros((len(questions.prompts), len(questions.options)))
    order = sorted(range(len(questions.prompts)), key=lambda i: len(questions.prompts[i]))
    longest = max(map(len, questions.options))
    # One token an option: its probability can be read after the prompt, for all options at once.
    width = 1 if longest == 1 else len(questions.options)
    for chunk in _chunks(order, questions.prompts, longest, width, batch_tokens):
        prompts = [questions.prompts[i] for i in chunk]
        if longest == 1:
            scores[chunk] = _first_tokens(model, prompts, questions.options, device)
        else:
            scores[chunk] = _whole_answers(model, prompts, questions.options, device)
    return scores


def _chunks(
    order: Sequence[int], prompts: Sequence[Sequence[int]], extra: int, width: int, limit: int
) -> Iterable[list[int]]:
    """Cut questions in order of length so that each forward pass stays within the limit."""
    chunk: list[int] = []
    for i in order:
        if chunk and (len(chunk) + 1) * width * (len(prompts[i]) + extra) > limit:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def _first_tokens(
    model: Any, prompts: Sequence[list[int]], options: Sequence[list[int]], device: torch.device
) -> NDArray[np.float64]:
    logits = _padded(model, prompts, device)
    last = torch.tensor([len(p) - 1 for p in prompts], device=device)
    at_end = logits[torch.arange(len(prompts), device=device), last].float()  # [n, V]
    log_p = F.log_softmax(at_end, dim=-1)[:, [option[0] for option in options]]
    return log_p.double().cpu().numpy()


def _whole_answers(
    model: Any, prompts: Sequence[list[int]], options: Sequence[list[int]], device: torch.device
) -> NDArray[np.float64]:
    rows = [prompt + option for prompt in prompts for option in options]
    logits = _padded(model, rows, device)
    scores = np.zeros((len(prompts), len(options)))
    for i, prompt in enumerate(prompts):
        for k, option in enumerate(options):
            row = i * len(options) + k
            at = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(option), device=device)
            log_p = F.log_softmax(logits[row, at].float(), dim=-1)  # [length of the option, V]
            chosen = torch.tensor(option, device=device)[:, None]
            scores[i, k] = float(log_p.gather(-1, chosen).sum())
    return scores


def _padded(model: Any, rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """[n, T, V] logits; padding on the right is never seen by what comes before it."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return model(input_ids=ids.to(device), use_cache=False).logits  # type: ignore[no-any-return]


@torch.no_grad()
def text_score(model: Any, batches: Iterable[Batch], device: torch.device) -> TextScore:
    """Token NLL of packed rows."""
    total, tokens = 0.0, 0
    for batch in batches:
        batch = batch.to(device)
        part = cross_entropy(_logits(model, batch), batch.targets, batch.gold)
        total, tokens = total + float(part.total), tokens + int(part.tokens)
    return TextScore(total / max(1, tokens), tokens)


@torch.no_grad()
def divergence(
    student: Any,
    teacher: Any,
    batches: Iterable[Batch],
    device: torch.device,
    vocabulary: int | None = None,
) -> dict[str, float]:
    """Mean KL(teacher ‖ student) per token of packed rows, for text and tasks; nats."""
    sums: dict[str, list[float]] = {}
    for batch in batches:
        batch = batch.to(device)
        q, p = (_logits(model, batch)[..., :vocabulary] for model in (student, teacher))
        for term, part in kl_sums(q, p, batch).items():
            row = sums.setdefault(term, [0.0, 0.0])
            row[0] += float(part.total)
            row[1] += float(part.tokens)
    return {term: total / tokens for term, (total, tokens) in sums.items() if tokens}


def _logits(model: Any, batch: Batch) -> Tensor:
    output = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    return output.logits  # type: ignore[no-any-return]

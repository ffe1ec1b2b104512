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

from distill_ray.core.head import Head
from distill_ray.core.head_loss import HeadLoss, Supervision, head_loss
from distill_ray.data.batches import Batch
from distill_ray.data.examples import Questions
from distill_ray.engine.objective import TERMS, Kept, measured
from distill_ray.models.causal import head_of, hidden_states


@dataclass(frozen=True)
class TextScore:
    """Token losses on running text."""

    nll: float
    """Mean -log p(token), nats."""
    tokens: int


@torch.no_grad()
def option_scores(
    model: Any,
    questions: Questions,
    *,
    device: torch.device,
    vocabulary: int | None = None,
    batch_tokens: int = 8192,
) -> NDArray[np.float64]:
    """[n, K] log-likelihood of each option's answer after each prompt, in nats.

    Args:
        model: a causal language model in evaluation mode.
        questions: prompts and options as token ids.
        device: where the model is.
        vocabulary: ids that the tokenizer has; the others are given no probability.
        batch_tokens: tokens of one forward pass, padding included.
    """
    scores = np.zeros((len(questions.prompts), len(questions.options)))
    order = sorted(range(len(questions.prompts)), key=lambda i: len(questions.prompts[i]))
    longest = max(map(len, questions.options))
    # One token an option: its probability can be read after the prompt, for all options at once.
    width = 1 if longest == 1 else len(questions.options)
    for chunk in _chunks(order, questions.prompts, longest, width, batch_tokens):
        prompts = [questions.prompts[i] for i in chunk]
        if longest == 1:
            scores[chunk] = _first_tokens(model, prompts, questions.options, device, vocabulary)
        else:
            scores[chunk] = _whole_answers(model, prompts, questions.options, device, vocabulary)
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
    model: Any,
    prompts: Sequence[list[int]],
    options: Sequence[list[int]],
    device: torch.device,
    vocabulary: int | None,
) -> NDArray[np.float64]:
    ids = _padded(prompts, device)
    last = torch.tensor([len(p) - 1 for p in prompts], device=device)
    features = hidden_states(model, ids)[torch.arange(len(prompts), device=device), last]
    logits = head_of(model, features, vocabulary).logits(slice(None))  # [n, V]
    log_p = F.log_softmax(logits, dim=-1)[:, [option[0] for option in options]]
    return log_p.double().cpu().numpy()


def _whole_answers(
    model: Any,
    prompts: Sequence[list[int]],
    options: Sequence[list[int]],
    device: torch.device,
    vocabulary: int | None,
) -> NDArray[np.float64]:
    rows = [prompt + option for prompt in prompts for option in options]
    ids = _padded(rows, device)
    places = [
        (row, len(prompts[row // len(options)]) - 1 + i)
        for row in range(len(rows))
        for i in range(len(options[row % len(options)]))
    ]
    row, at = torch.tensor(places, device=device).unbind(dim=1)  # [K] each
    head = head_of(model, hidden_states(model, ids)[row, at], vocabulary)
    everywhere = torch.ones(len(row), device=device)
    nll = head_loss(head, Supervision(ids[row, at + 1], everywhere)).cross_entropy
    sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
    return -sums.index_add_(0, row, nll.double()).reshape(len(prompts), -1).cpu().numpy()


def _padded(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """[n, T] ids; padding on the right is never seen by what comes before it."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids.to(device)


@torch.no_grad()
def text_score(
    model: Any, batches: Iterable[Batch], device: torch.device, vocabulary: int | None = None
) -> TextScore:
    """Token NLL of packed rows, over the first `vocabulary` ids."""
    total, tokens = 0.0, 0
    for batch in batches:
        kept = Kept.of(batch.to(device))
        found = _losses(model, batch.to(device), kept, None, vocabulary)
        gold = kept.terms[:2].any(dim=0)
        total += float(found.cross_entropy[gold].double().sum())
        tokens += int(gold.sum())
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
    sums = torch.zeros(len(TERMS), dtype=torch.float64, device=device)
    counts = torch.zeros_like(sums)
    for batch in batches:
        batch = batch.to(device)
        kept = Kept.of(batch)
        reference = _head(teacher, batch, kept, vocabulary)
        sums += kept.sums(_losses(student, batch, kept, reference, vocabulary))
        counts += kept.counts
    return {
        term: float(total / count)
        for term, total, count in zip(TERMS, sums, counts)
        if term.endswith(".kl") and count
    }


def _losses(
    model: Any, batch: Batch, kept: Kept, reference: Head | None, vocabulary: int | None
) -> HeadLoss:
    return head_loss(_head(model, batch, kept, vocabulary), measured(kept, reference))


def _head(model: Any, batch: Batch, kept: Kept, vocabulary: int | None) -> Head:
    hidden = hidden_states(model, batch.input_ids, batch.position_ids)
    return head_of(model, hidden.flatten(0, 1).index_select(0, kept.at), vocabulary)

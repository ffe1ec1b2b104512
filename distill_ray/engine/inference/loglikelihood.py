"""Scoring a frozen model: answers to questions, losses on text. n questions, K options, R rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.core.calibration import FullEce
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.core.memory import CHUNK_BYTES
from distill_ray.data.batches import Batch
from distill_ray.data.examples import Questions
from distill_ray.engine.objective import TERMS, SupervisedTokens, validation_targets
from distill_ray.models.causal import bare, head_of, hidden_states

BATCH_TOKENS = 8192
"""Tokens of one forward pass over questions, padding included."""


@dataclass(frozen=True)
class TextScore:
    """Token losses on packed rows."""

    sums: list[float]
    """[R] Σ -log p(token) over each row's supervised tokens, nats."""
    counts: list[int]
    """[R] number of each row's supervised tokens."""
    full_ece: float | None
    """Token-level calibration over the whole vocabulary; None without a token."""
    pace: list[float]
    """Seconds a token of each batch's forward pass."""

    @property
    def nll(self) -> float:
        """Mean -log p(token), nats."""
        return sum(self.sums) / max(1, self.tokens)

    @property
    def tokens(self) -> int:
        """Supervised tokens."""
        return sum(self.counts)


@torch.no_grad()
def option_scores(
    model: Any,
    questions: Questions,
    *,
    device: torch.device,
    vocabulary: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> NDArray[np.float64]:
    """Score each option's answer after each prompt: [n, K] log-likelihoods in nats.

    Args:
        model: a causal language model in evaluation mode.
        questions: prompts and options as token ids.
        device: where the model is.
        vocabulary: ids that the tokenizer has; the others are given no probability.
        batch_tokens: tokens of one forward pass, padding included.
    """
    options = questions.options
    scores = np.zeros((len(questions.prompts), len(options)))
    longest = max(map(len, options))
    width = 1 if longest == 1 else len(options)  # rows of a prompt
    for chunk in by_length(questions.prompts, longest, batch_tokens // width):
        prompts = [questions.prompts[i] for i in chunk]
        if longest == 1:
            # One token an option: its probability is read after the prompt, for all options.
            ids = _padded(prompts, device)
            last = torch.tensor([len(p) - 1 for p in prompts], device=device)
            features = hidden_states(model, ids)[torch.arange(len(ids), device=device), last]
            head, tokens = head_of(model, features, vocabulary), [option[0] for option in options]
            log_p = F.log_softmax(head.logits(slice(None)), dim=-1)[:, tokens]
            scores[chunk] = log_p.double().cpu().numpy()
            continue
        # Else a row for each prompt and option, prompt by prompt.
        answers = [(prompt, option) for prompt in prompts for option in options]
        ids = _padded([prompt + option for prompt, option in answers], device)
        places = [
            (row, len(prompt) - 1 + i)
            for row, (prompt, option) in enumerate(answers)
            for i in range(len(option))
        ]
        row, column = torch.tensor(places, device=device).unbind(dim=1)  # one each answer token
        head = head_of(model, hidden_states(model, ids)[row, column], vocabulary)
        everywhere = torch.ones(len(row), device=device)
        nll = head_loss(head, LossTargets(ids[row, column + 1], everywhere)).cross_entropy
        sums = torch.zeros(len(answers), dtype=torch.float64, device=device)
        sums.index_add_(0, row, nll.double())
        scores[chunk] = -sums.reshape(len(prompts), -1).cpu().numpy()
    return scores


def prior_scores(
    model: Any, questions: Questions, *, device: torch.device, vocabulary: int | None = None
) -> NDArray[np.float64]:
    """Score each option's answer after the prompt without its text: [K] log-likelihoods, nats."""
    empty = replace(questions, prompts=[questions.empty])
    return np.asarray(option_scores(model, empty, device=device, vocabulary=vocabulary)[0])


def by_length(prompts: Sequence[Sequence[int]], extra: int, limit: int) -> Iterator[list[int]]:
    """Cut prompts, from short to long, so that each forward pass stays within a limit.

    Args:
        prompts: token ids.
        extra: tokens that each has beside its own.
        limit: tokens of a pass, padding included; one prompt may have more.

    Yields:
        Indices of the prompts of a pass.
    """
    chunk: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if chunk and (len(chunk) + 1) * (len(prompts[i]) + extra) > limit:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def _padded(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """Stack rows to [n, T] ids; no token before the padding on the right sees it."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids.to(device)


@torch.no_grad()
def text_score(
    model: Any, batches: Iterable[Batch], device: torch.device, vocabulary: int | None = None
) -> TextScore:
    """Measure token losses and calibration of packed rows, over the first `vocabulary` ids."""
    sums: list[float] = []
    counts: list[int] = []
    pace: list[float] = []
    full = FullEce.empty()
    for batch in batches:
        batch, watch = batch.to(device), _Stopwatch(device)
        positions = batch.label_mask.flatten().nonzero()[:, 0]
        labels, row = batch.targets.flatten()[positions], positions // batch.label_mask.shape[1]
        with watch.running():
            hidden = hidden_states(model, batch.input_ids, batch.position_ids)
            head = head_of(model, hidden.flatten(0, 1).index_select(0, positions), vocabulary)
        nll = _token_losses(head, labels, full, watch)
        row_sums = torch.zeros(len(batch.label_mask), dtype=torch.float64, device=device)
        sums += row_sums.index_add_(0, row, nll).tolist()
        counts += batch.label_mask.sum(dim=1).tolist()
        pace.append(watch.seconds / batch.input_ids.numel())
    return TextScore(sums, counts, full.value if any(counts) else None, pace)


def _token_losses(head: Head, labels: Tensor, full: FullEce, watch: _Stopwatch) -> Tensor:
    """Compute [N] float64 -log p(label), a few tokens at a time, and count them in `full`."""
    step = max(1, CHUNK_BYTES[labels.device.type] // (4 * head.vocabulary))
    losses = [labels.new_zeros(0, dtype=torch.float64)]
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        with watch.running():
            log_p = F.log_softmax(head.logits(rows), dim=-1)
        full.add(log_p, labels[rows])
        losses.append(-log_p.gather(1, labels[rows, None])[:, 0].double())
    return torch.cat(losses)


class _Stopwatch:
    """Adds up the seconds of some work on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = self._now()
        yield
        self.seconds += self._now() - started

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def size_of(model: Any) -> dict[str, int | None]:
    """Count `parameters`, their `bytes` in memory, and `context`: tokens it reads, if it says."""
    weights = [*model.parameters(), *model.buffers()]
    config = bare(model).config.get_text_config(decoder=True)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(w.numel() * w.element_size() for w in weights),
        "context": getattr(config, "max_position_embeddings", None),
    }


@torch.no_grad()
def divergence(
    student: Any,
    teacher: Any,
    batches: Iterable[Batch],
    device: torch.device,
    vocabulary: int | None = None,
) -> dict[str, float]:
    """Measure the mean KL(teacher ‖ student) per token of packed rows, by kind of row; nats."""
    sums = torch.zeros(len(TERMS), dtype=torch.float64, device=device)
    counts = torch.zeros_like(sums)
    for batch in batches:
        batch = batch.to(device)
        supervised = SupervisedTokens.of(batch)
        reference = _head(teacher, batch, supervised, vocabulary)
        head = _head(student, batch, supervised, vocabulary)
        sums += supervised.sums(head_loss(head, validation_targets(supervised, reference)))
        counts += supervised.counts
    return {
        term: float(total / count)
        for term, total, count in zip(TERMS, sums, counts)
        if term.endswith(".kl") and count
    }


def _head(model: Any, batch: Batch, supervised: SupervisedTokens, vocabulary: int | None) -> Head:
    hidden = hidden_states(model, batch.input_ids, batch.position_ids)
    return head_of(model, hidden.flatten(0, 1).index_select(0, supervised.positions), vocabulary)

"""Estimates of how well a teacher's answers suit an untrained student. N tokens, P parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distill_ray.core.estimators import (
    Array,
    RademacherProjection,
    grace,
    gradient_norm,
    rsr,
    surprisal,
    token_ranks,
)
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.core.memory import CHUNK_BYTES
from distill_ray.engine.inference.loglikelihood import by_length
from distill_ray.models.causal import head_of, hidden_states

Sample = tuple[list[int], list[int]]
"""A prompt's token ids and those of the teacher's answer."""

HELD_BYTES = 2**28
"""Gradients that are held until they are projected together; one at least."""


@dataclass(frozen=True)
class Estimates:
    """What a student makes of a teacher's answers; each figure is lower where it suits better."""

    rsr: float
    surprisal: float
    """Nats a token."""
    gradient_norm: float | None
    """Mean over some of the samples; None where no gradients are taken, as for `grace`."""
    grace: float | None
    """None also where all these samples have one prompt: a teacher that answered nothing else."""
    samples: int
    tokens: int
    """Tokens of all answers."""


@dataclass(frozen=True)
class GradientSampling:
    """Which gradients are taken, and how they are projected."""

    count: int = 64
    """Number of samples, evenly chosen, whose gradients are taken; 0 for none. Samples with equal
    prompts are one prompt to GRACE, which needs two."""
    dimensions: int = 512
    """Dimensions of a projected gradient; see `grace` on fewer gradients than dimensions."""
    seed: int = 0
    """Seed of the projection and of GRACE's splits; compare teachers under the same seed."""
    include: Callable[[str], bool] | None = None
    """Selects parameters by name, of those that require a gradient; None for all of them."""


def estimate(
    student_model: Any,
    samples: Sequence[Sample],
    *,
    device: torch.device,
    vocabulary: int | None = None,
    gradients: GradientSampling | None = None,
    batch_tokens: int = 8192,
) -> Estimates:
    """Run a student over a teacher's answers, without training it and without dropout.

    Costs one forward pass over all samples, a forward and a backward pass for each sampled
    gradient, and their projection. Its signs are drawn once for as many gradients as fit into
    `HELD_BYTES`, or for each one; `RademacherProjection` states the price. Memory, beside a
    backward pass's own, is that much, or one gradient.

    Args:
        student_model: a causal language model; its modes and gradients are left as they are.
        samples: prompts and answers, none empty.
        device: where the model is.
        vocabulary: ids that the tokenizer has; the others are given no probability.
        gradients: which gradients are taken; by default those of `GradientSampling()`.
        batch_tokens: tokens of one forward pass, padding included.

    Raises:
        ValueError: a prompt or an answer is empty, there are no samples, or gradients are wanted
            and no parameter has one.
    """
    if not samples or not all(prompt and answer for prompt, answer in samples):
        raise ValueError("an estimate needs samples, each with a prompt and an answer")
    gradients = gradients or GradientSampling()
    norm = spread = None
    with _evaluation_mode(student_model):
        ranks, nll = _token_figures(student_model, samples, device, vocabulary, batch_tokens)
        if gradients.count:
            count = min(len(samples), gradients.count)
            selected = [samples[i * len(samples) // count] for i in range(count)]
            norms, projected = _projected_gradients(
                student_model, selected, gradients, device, vocabulary
            )
            norm = gradient_norm(norms)
            prompts = [tuple(prompt) for prompt, _ in selected]
            if len(set(prompts)) > 1:
                spread = grace(projected, groups=prompts, seed=gradients.seed)
    tokens = sum(map(len, nll))
    return Estimates(rsr(ranks, nll), surprisal(nll), norm, spread, len(samples), tokens)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _token_figures(
    model: Any,
    samples: Sequence[Sample],
    device: torch.device,
    vocabulary: int | None,
    batch_tokens: int,
) -> tuple[list[Array], list[Array]]:
    """Compute ranks and -log q of each answer's tokens, in the order of the samples."""
    ranks: list[Array] = [np.empty(0)] * len(samples)
    nll: list[Array] = [np.empty(0)] * len(samples)
    for chunk in by_length([prompt + answer for prompt, answer in samples], 0, batch_tokens):
        head, labels = _answer_head(model, [samples[i] for i in chunk], device, vocabulary)
        ends = np.cumsum([len(samples[i][1]) for i in chunk])[:-1]
        for results, values in zip((ranks, nll), _ranks_and_nll(head, labels)):
            for i, part in zip(chunk, np.split(values.cpu().numpy(), ends)):
                results[i] = part
    return ranks, nll


def _ranks_and_nll(head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute [N] ranks and [N] -log q, from the logits of a few tokens at a time."""
    kind = "cpu" if labels.device.type == "cpu" else "cuda"
    step = max(1, CHUNK_BYTES[kind] // (4 * head.vocabulary))
    ranks, nll = [], []
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        logits = head.logits(rows)
        label_logits = logits.gather(-1, labels[rows, None])[:, 0]
        ranks.append(token_ranks(logits, labels[rows]))
        nll.append(torch.logsumexp(logits, dim=-1) - label_logits)
    return torch.cat(ranks), torch.cat(nll)


def _answer_head(
    model: Any, samples: Sequence[Sample], device: torch.device, vocabulary: int | None
) -> tuple[Head, Tensor]:
    """Apply the model; returns its head where it predicts the answers' tokens, and these [N]."""
    # Padding is on the right, where nothing that comes before it sees it. The last token is
    # predicted, but never an input.
    rows = [torch.tensor((prompt + answer)[:-1]) for prompt, answer in samples]
    ids = pad_sequence(rows, batch_first=True).to(device)
    places = [
        (row, len(prompt) - 1 + i)
        for row, (prompt, answer) in enumerate(samples)
        for i in range(len(answer))
    ]
    row, column = torch.tensor(places, device=device).unbind(dim=1)  # [N] each
    labels = torch.tensor([token for _, answer in samples for token in answer], device=device)
    return head_of(model, hidden_states(model, ids)[row, column], vocabulary), labels


def _projected_gradients(
    model: Any,
    samples: Sequence[Sample],
    sampling: GradientSampling,
    device: torch.device,
    vocabulary: int | None,
) -> tuple[Array, Array]:
    """Take each answer's gradient of its mean -log q; returns [n] lengths, [n, d] projections.

    The parameters' own `grad` stays as it is.
    """
    include = sampling.include
    parameters = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (include is None or include(name))
    ]
    if not parameters:
        raise ValueError("no parameter has a gradient: the model is frozen, or none was picked")
    projection = RademacherProjection(sampling.dimensions, sampling.seed)
    norms: list[float] = []
    projected: list[Tensor] = []
    held: list[list[Tensor]] = []
    for sample in samples:
        with torch.enable_grad():
            head, labels = _answer_head(model, [sample], device, vocabulary)
            even = torch.full(labels.shape, 1 / len(labels), device=device)
            loss = head_loss(head, LossTargets(labels, even)).total
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for g, p in zip(slopes, parameters)]
        held.append(gradient)
        lengths = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in gradient]
        norms.append(float(torch.stack(lengths).norm()))
        if (len(held) + 1) * sum(part.nbytes for part in gradient) > HELD_BYTES:
            projected.append(projection.project(held))
            held = []
    if held:
        projected.append(projection.project(held))
    return np.array(norms), torch.cat(projected).cpu().numpy()

"""Estimates of how well a teacher's answers suit an untrained student. N tokens, P parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """What a student makes of a teacher's answers; of each, lower suits it better."""

    rsr: float
    surprisal: float
    """Nats a token."""
    gradient_norm: float | None
    """Of some of the samples, as `grace`; none where no gradients are taken."""
    grace: float | None
    samples: int
    tokens: int
    """Of all answers."""


def estimate(
    student_model: Any,
    samples: Sequence[Sample],
    *,
    device: torch.device,
    vocabulary: int | None = None,
    gradients: int = 64,
    dimensions: int = 512,
    parameters: Callable[[str], bool] | None = None,
    batch_tokens: int = 8192,
    seed: int = 0,
) -> Estimates:
    """Run a student over a teacher's answers, without training it and without dropout.

    Costs one forward pass over all samples, a forward and a backward pass for each of `gradients`
    samples, and their projection: its signs are made anew for as many gradients as fit into
    `HELD_BYTES`, or for each one, which `RademacherProjection` says the price of. Memory, beside a
    backward pass's own, is that much, or one gradient.

    Args:
        student_model: a causal language model; its modes and gradients are left as they are.
        samples: prompts and answers, none empty.
        device: where the model is.
        vocabulary: ids that the tokenizer has; the others are given no probability.
        gradients: how many samples, evenly chosen, have their gradients taken; 0 for none. Samples
            with equal prompts are one prompt to GRACE, which needs two.
        dimensions: of the projected gradients; see `grace` on fewer gradients than dimensions.
        parameters: which to take gradients by, by name; all that require one unless told.
        batch_tokens: tokens of one forward pass, padding included.
        seed: of the projection and of GRACE's splits. Teachers are to be compared with the same.

    Raises:
        ValueError: a prompt or an answer is empty, there are no samples, or gradients are wanted
            and no parameter has one.
    """
    if not samples or not all(prompt and answer for prompt, answer in samples):
        raise ValueError("an estimate needs samples, each with a prompt and an answer")
    norm = spread = None
    with _evaluating(student_model):
        ranks, nll = _tokens(student_model, samples, device, vocabulary, batch_tokens)
        if gradients:
            count = min(len(samples), gradients)
            selected = [samples[i * len(samples) // count] for i in range(count)]
            weights = _trained(student_model, parameters)
            each = (_gradient(student_model, s, weights, device, vocabulary) for s in selected)
            norms, projected = _collected(each, RademacherProjection(dimensions, seed))
            norm = gradient_norm(norms)
            spread = grace(projected, groups=[tuple(prompt) for prompt, _ in selected], seed=seed)
    tokens = sum(map(len, nll))
    return Estimates(rsr(ranks, nll), surprisal(nll), norm, spread, len(samples), tokens)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _tokens(
    model: Any,
    samples: Sequence[Sample],
    device: torch.device,
    vocabulary: int | None,
    batch_tokens: int,
) -> tuple[list[Array], list[Array]]:
    """Ranks and -log q of each answer's tokens, in the order of the samples."""
    ranks: list[Array] = [np.empty(0)] * len(samples)
    nll: list[Array] = [np.empty(0)] * len(samples)
    for chunk in by_length([prompt + answer for prompt, answer in samples], 0, batch_tokens):
        head, labels = _answers(model, [samples[i] for i in chunk], device, vocabulary)
        ends = np.cumsum([len(samples[i][1]) for i in chunk])[:-1]
        for results, values in zip((ranks, nll), _read(head, labels)):
            for i, part in zip(chunk, np.split(values.cpu().numpy(), ends)):
                results[i] = part
    return ranks, nll


def _answers(
    model: Any, samples: Sequence[Sample], device: torch.device, vocabulary: int | None
) -> tuple[Head, Tensor]:
    """The head on the features that say each token of the answers, and the tokens [N]."""
    # Padding is on the right, where nothing that comes before it sees it. The last token is not
    # read: it is only said.
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


def _read(head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[N] ranks and [N] -log q, from the logits of a few tokens at a time."""
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


def _trained(model: Any, include: Callable[[str], bool] | None) -> list[Tensor]:
    parameters = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (include is None or include(name))
    ]
    if not parameters:
        raise ValueError("no parameter has a gradient: the model is frozen, or none was picked")
    return parameters


def _gradient(
    model: Any,
    sample: Sample,
    weights: Sequence[Tensor],
    device: torch.device,
    vocabulary: int | None,
) -> list[Tensor]:
    """Of the answer's mean -log q, by each parameter; leaves the parameters' own `grad` alone."""
    with torch.enable_grad():
        head, labels = _answers(model, [sample], device, vocabulary)
        even = torch.full(labels.shape, 1 / len(labels), device=device)
        loss = head_loss(head, LossTargets(labels, even)).total
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights)]


def _collected(
    each: Iterable[list[Tensor]], projection: RademacherProjection
) -> tuple[Array, Array]:
    """[n] lengths of gradients, made one by one, and their [n, d] projections."""
    norms: list[float] = []
    projected: list[Tensor] = []
    held: list[list[Tensor]] = []
    for gradient in each:
        held.append(gradient)
        lengths = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in gradient]
        norms.append(float(torch.stack(lengths).norm()))
        if (len(held) + 1) * sum(part.nbytes for part in gradient) > HELD_BYTES:
            projected.append(projection.project(held))
            held = []
    if held:
        projected.append(projection.project(held))
    return np.array(norms), torch.cat(projected).cpu().numpy()

"""Calibration metrics. n examples, K options, M bins; N tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # Only tensors' own methods are used: metrics of arrays need not wait for torch.
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 2**22
"""Probabilities that `FullEce` holds at a time: 32 MiB in float64, twice that while it compares."""


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: what each bin of confidence was worth."""

    confidence: list[float]
    """Mean confidence of each bin that has examples."""
    accuracy: list[float]
    """Share of right answers in it."""
    count: list[int]


def normalise(log_scores: Floats) -> Floats:
    """[n, K] option log-likelihoods → probabilities over the options."""
    shifted = log_scores - log_scores.max(axis=1, keepdims=True)
    likelihood = np.exp(shifted)
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))


def by_length(log_scores: Floats, lengths: Floats | Ints) -> Floats:
    """Mean log-likelihood of each option, which takes away long options' handicap.

    log p(option | question) / length. The evaluation harness's `acc_norm` (Gao et al. 2021,
    EleutherAI/lm-evaluation-harness) divides by an option's length in bytes; by its number of
    tokens the result is in nats a token.

    Args:
        log_scores: [n, K] option log-likelihoods, nats.
        lengths: [K] where all questions have the same options, else [n, K]; above 0.

    Raises:
        ValueError: an option has no length.
    """
    if (np.asarray(lengths) <= 0).any():
        raise ValueError(f"every option needs a length above 0, got {np.min(lengths)}")
    return np.asarray(log_scores / lengths)


def by_prior(log_scores: Floats, prior: Floats) -> Floats:
    """What the question adds to each option: takes away the handicap of rare wordings.

    PMI_DC, log p(option | question) - log p(option | no question) (Holtzman et al. 2021,
    arXiv 2104.08315), in nats.

    Args:
        log_scores: [n, K] option log-likelihoods, nats; -inf stays -inf.
        prior: [K] or [n, K] log-likelihoods of the options after a prompt without the question.

    Raises:
        ValueError: a prior is not finite, so nothing can be measured against it.
    """
    if not np.isfinite(prior).all():
        raise ValueError("every option needs a finite prior log-likelihood")
    return np.asarray(log_scores - prior)


def bin_index(confidence: Floats, bins: int) -> Ints:
    """Index of the equal-width bin (lo, hi] of each value in [0, 1]; 0 falls into the first."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: Floats, correct: Floats, bins: int = 15) -> Reliability:
    """The reliability diagram of n answers, over equal-width bins."""
    index = bin_index(confidence, bins)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    mean_confidence = np.bincount(index, confidence, bins)[used] / count[used]
    mean_accuracy = np.bincount(index, correct, bins)[used] / count[used]
    return Reliability(mean_confidence.tolist(), mean_accuracy.tolist(), count[used].tolist())


def ece(confidence: Floats, correct: Floats, bins: int = 15) -> float:
    """Expected calibration error, Σ_m |B_m|/n · |acc(B_m) - conf(B_m)| (Guo et al. 2017).

    Args:
        confidence: [n] probability of the chosen answer.
        correct: [n] 1 where it is right.
        bins: M equal-width bins (lo, hi].
    """
    return _mean_gap(bin_index(confidence, bins), confidence, correct)


def adaptive_ece(confidence: Floats, correct: Floats, bins: int = 15) -> float:
    """Calibration error over bins of equal mass: Σ_m |B_m|/n · |acc(B_m) - conf(B_m)|.

    Bin m closes at the ⌈m·n/M⌉-th smallest confidence (Nixon et al. 2019, arXiv 1904.01685,
    for the chosen answer alone), so bins differ by at most one example. Equal confidences stay
    together, in the bin of the first of them, so the order of examples does not matter; bins
    are then less even, and some may be empty. With n < M every distinct confidence is a bin.

    Args:
        confidence: [n] probability of the chosen answer, n ≥ 1.
        correct: [n] 1 where it is right.
        bins: M bins of n/M examples.
    """
    last = np.ceil(np.arange(1, bins + 1) * len(confidence) / bins).astype(np.int64) - 1
    upper = np.sort(confidence)[last]
    return _mean_gap(np.searchsorted(upper, confidence), confidence, correct)


def classwise_ece(probabilities: Floats, answer_index: Ints, bins: int = 15) -> float:
    """Mean over options of each option's own ECE, 1/K · Σ_k Σ_m |B_mk|/n · |freq - conf|.

    Each option is taken one against the rest: its probability is the confidence, its being right
    the outcome (Kull et al. 2019, arXiv 1910.12656). This says something where option k means
    the same in every question: a label, or a letter.

    Args:
        probabilities: [n, K] over the options.
        answer_index: [n] index of the right option.
        bins: M equal-width bins (lo, hi].
    """
    options = probabilities.shape[1]
    index = bin_index(probabilities, bins) + bins * np.arange(options)
    return _mean_gap(index.ravel(), probabilities.ravel(), np.eye(options)[answer_index].ravel())


def _mean_gap(index: Ints, confidence: Floats, outcome: Floats) -> float:
    """Σ_m |B_m|/n · |mean outcome - mean confidence|, where B_m has the examples of index m."""
    return float(np.abs(np.bincount(index, outcome - confidence)).sum() / len(confidence))


def noise_floor(
    confidence: Floats,
    bins: int = 15,
    *,
    metric: Callable[[Floats, Any, int], float] = ece,
    draws: int = 200,
    seed: int = 0,
) -> float:
    """Mean of a calibration error of a perfectly calibrated model with these confidences.

    Outcomes are drawn from the confidences themselves: what is left is sampling noise, so an ECE
    near this figure shows no miscalibration.

    Args:
        confidence: [n] probabilities of the chosen answers, or [n, K] of all options.
        bins: M, handed to the metric.
        metric: of (confidence, correct, bins) for [n], as `ece` and `adaptive_ece` are; of
            (probabilities, answer_index, bins) for [n, K], as `classwise_ece` is.
        draws: simulated sets of n outcomes.
        seed: the same seed, the same outcomes.
    """
    rng = np.random.default_rng(seed)
    if confidence.ndim == 1:
        sets = ((rng.random(len(confidence)) < confidence) * 1.0 for _ in range(draws))
    else:
        # The last option takes what rounding leaves of the sum.
        below = confidence.cumsum(axis=1)[:, :-1]
        sets = ((rng.random((len(below), 1)) >= below).sum(axis=1) for _ in range(draws))
    return float(np.mean([metric(confidence, outcomes, bins) for outcomes in sets]))


def brier_each(probabilities: Floats, answer_index: Ints) -> Floats:
    """[n] Brier score of each example, Σ_c (p_c - y_c)², in [0, 2] (Brier 1950)."""
    target = np.eye(probabilities.shape[1])[answer_index]
    return np.asarray(((probabilities - target) ** 2).sum(axis=1))


def right_each(scores: Floats, answer_index: Ints) -> Floats:
    """[n] 1 where the likeliest of K options is the right one; scores or probabilities [n, K]."""
    return np.asarray(scores.argmax(axis=1) == answer_index, dtype=np.float64)


def nll_each(probabilities: Floats, answer_index: Ints) -> Floats:
    """[n] -log p(right option), in nats; p is kept above 1e-12."""
    return -np.log(np.clip(probabilities[np.arange(len(answer_index)), answer_index], 1e-12, None))


@dataclass
class FullEce:
    """Full-ECE, which bins every probability of the vocabulary, summed up batch by batch.

    Σ_m |B_m|/N · |acc(B_m) - conf(B_m)| = 1/N · Σ_m |hits_m - mass_m| (Liu et al. 2024,
    arXiv 2406.11345), where B_m has the tokens of the vocabulary, at any of N positions, whose
    probability lies in bin m. With N the number of positions, as in ECE, the weights sum to V and
    not to 1: the value is of probability a position, in [0, 2], whatever V.
    """

    counts: Ints
    """[M] number of probabilities in each bin (lo, hi], those of `bin_index`."""
    mass: Floats
    """[M] their sum."""
    hits: Ints
    """[M] how many of them were of the token that came."""

    @classmethod
    def empty(cls, bins: int = 15) -> FullEce:
        """Start with nothing seen, over M equal-width bins."""
        return cls(np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins, np.int64))

    def add(self, log_p: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch.

        Args:
            log_p: [N, V] log-probabilities, nats, of any float type, on any device with float64;
                each row's probabilities sum to 1, and -inf is a probability of 0.
            labels: [N] the tokens that came.
        """
        rows = max(1, _CHUNK // log_p.shape[1])
        for start in range(0, len(log_p), rows):
            part = log_p[start : start + rows].detach().double().exp()
            self._add(part, labels[start : start + rows].to(part.device))

    def _add(self, p: torch.Tensor, labels: torch.Tensor) -> None:
        bins = len(self.counts)
        came = bin_index(_numpy(p.gather(1, labels[:, None])[:, 0]), bins)
        self.hits += np.bincount(came, minlength=bins)
        # Fewer than M probabilities a row lie above 1/M, so only these few are sorted into bins;
        # the first bin has all others.
        high = p * bins > 1
        above = _numpy(p[high])
        index = bin_index(above, bins)
        self.counts += np.bincount(index, minlength=bins)
        self.counts[0] += p.numel() - len(above)
        self.mass += np.bincount(index, above, bins)
        self.mass[0] += p.masked_fill_(high, 0).sum().item()

    def __add__(self, more: FullEce) -> FullEce:
        """Add up what both have seen: sums of ranks, shards or batches."""
        return FullEce(self.counts + more.counts, self.mass + more.mass, self.hits + more.hits)

    @property
    def value(self) -> float:
        """Full-ECE of all positions seen; ValueError where there is none."""
        if not self.hits.any():
            raise ValueError("Full-ECE needs at least one position")
        return float(np.abs(self.hits - self.mass).sum() / self.hits.sum())


def _numpy(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)

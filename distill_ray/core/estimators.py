"""Estimates of how well a teacher's text suits a student, computed from the student alone.

n samples, N tokens, V vocabulary, P parameters, d dimensions of a projection.

Every figure is of one student and one teacher's answers, so teachers are compared for a student,
never students for a teacher. None of them needs the teacher's probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Floats = NDArray[np.float64]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]

BLOCK = 8192
"""Parameters whose signs are drawn together: the stream of signs depends on it. 16 MiB at d 512."""


def token_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank each label, [N] int64: 1 + the number of strictly likelier tokens; ties don't count.

    Args:
        logits: [N, V] of the student.
        labels: [N] int64 token ids.
    """
    return 1 + (logits > logits.gather(-1, labels[:, None])).sum(dim=-1)


def rsr(ranks: Sequence[Array], nll: Sequence[Array], *, clip: int = 100) -> float:
    """Rank-surprisal ratio of a data set (arXiv 2601.14249); lower suits the student better.

    mean_i(mean_t min(rank, clip)) / mean_i(mean_t NLL) over samples i and their tokens t: a ratio
    of means, in which a sample counts the more, the more it surprises; the mean of the samples' own
    ratios is another number. A text that the student knows by heart has rank 1 and no surprisal: as
    it is learnt further its ratio rises again, without bound.

    Args:
        ranks: for each sample, the rank of each token of the answer, from 1.
        nll: for each sample, -log q of the same tokens in nats.
        clip: the rank from which tokens are equally far off.

    Raises:
        ValueError: there is no sample, one has no token, or the lengths differ.
    """
    if [len(r) for r in ranks] != [len(x) for x in nll]:
        raise ValueError("ranks and nll are not of the same tokens: their lengths differ")
    surprise = surprisal(nll)
    rank = float(np.mean([np.minimum(r, clip).mean() for r in ranks]))
    return rank / surprise if surprise else float("inf")


def surprisal(nll: Sequence[Array]) -> float:
    """Mean over samples of a sample's mean -log q per token, nats; lower is more familiar.

    Args:
        nll: for each sample, -log q of each token of the answer.

    Raises:
        ValueError: there is no sample, or one has no token.
    """
    if not len(nll) or not all(map(len, nll)):
        raise ValueError("an estimate needs at least one sample, and a token in each")
    return float(np.mean([np.mean(x, dtype=np.float64) for x in nll]))


def gradient_norm(norms: Sequence[float] | Array) -> float:
    """G-Norm: mean over samples of the Euclidean norm of a sample's own gradient.

    The gradient is of the sample's mean -log q per token of the answer, by all trained parameters
    as one vector, not projected: our reading of arXiv 2601.14249's baseline. G-Norm is the mean of
    the norms, not the norm of the mean gradient, nor the mean of the squares, of which GRACE with
    s = 1 is d times. Long answers have lower norms: their tokens partly cancel out.

    Args:
        norms: [n] norm of each sample's gradient.

    Raises:
        ValueError: there is no sample.
    """
    if not len(norms):
        raise ValueError("a gradient norm needs at least one sample")
    return float(np.mean(norms, dtype=np.float64))


def grace(
    gradients: Array,
    *,
    groups: Sequence[Hashable] | None = None,
    splits: int = 10,
    smoothing: float = 1e-3,
    test_share: float = 0.1,
    seed: int = 0,
) -> float:
    """GRACE (arXiv 2511.02833): mean over splits of tr(K_train⁻¹ K_test); lower is better.

    K = GᵀG / n of a part's gradients, each of length 1 in the train part and as long as it is in
    the test part. K_train's eigenvalues w become (1-s)·w + s·mean(w), which makes it invertible
    with fewer gradients than dimensions too. There, though, the directions that no train gradient
    has weigh d/s at once, and the score is little more than the squared length of what sticks out
    into them: the authors' README has 2048 gradients of 512 prompts in 512 dimensions.

    Args:
        gradients: [n, d] one for each sample; doubled, the score is four times as large.
        groups: [n] the prompt of each; all its samples are on one side of a split. Each sample has
            its own unless told.
        splits: random splits.
        smoothing: s.
        test_share: of the prompts, rounded down, but one at least; the authors' is a tenth, so
            that nine tenths are the train part.
        seed: of the splits; the same ones for each teacher whose prompts come in the same order.

    Raises:
        ValueError: there are fewer than two prompts, a gradient isn't finite, those of a train
            part are all 0, or `smoothing` isn't in (0, 1].
    """
    vectors = np.asarray(gradients, dtype=np.float64)
    if vectors.ndim != 2:
        raise ValueError(f"gradients must be [n, d], got shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("a gradient isn't finite")
    if not 0 < smoothing <= 1:
        raise ValueError(f"smoothing must be above 0 and at most 1, got {smoothing}")
    prompts = range(len(vectors)) if groups is None else groups
    if len(prompts) != len(vectors):
        raise ValueError(f"{len(vectors)} gradients have {len(prompts)} groups")
    parts = prompt_splits(prompts, splits=splits, test_share=test_share, seed=seed)
    scores = [_spread(vectors[train], vectors[test], smoothing) for train, test in parts]
    return float(np.mean(scores))


def prompt_splits(
    groups: Sequence[Hashable], *, splits: int = 10, test_share: float = 0.1, seed: int = 0
) -> Iterator[Split]:
    """Draw random (train, test) indices of samples; a prompt's samples stay together.

    Args:
        groups: [n] the prompt of each sample.
        splits: number of splits.
        test_share: share of the prompts, rounded down, but one at least.
        seed: seed of the draws.

    Raises:
        ValueError: there are fewer than two prompts, or none is left to train on.
    """
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    held_out = max(1, int(len(numbers) * test_share))
    if held_out >= len(numbers):
        raise ValueError(f"{len(numbers)} prompts can't be split: two at least, one to train on")
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        test = np.isin(member, rng.permutation(len(numbers))[:held_out])
        yield np.flatnonzero(~test), np.flatnonzero(test)


def _spread(train: Floats, test: Floats, smoothing: float) -> float:
    """Compute tr(K_train⁻¹ K_test) in K_train's eigenbasis, without an inverse."""
    lengths = np.linalg.norm(train, axis=1, keepdims=True)
    if not lengths.any():
        raise ValueError("the gradients of a train part are all 0")
    unit = train / np.where(lengths > 0, lengths, 1)
    values, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
    values = values.clip(min=0)  # rounding takes zeros below
    smoothed = (1 - smoothing) * values + smoothing * values.mean()
    return float((np.square(test @ vectors).mean(axis=0) / smoothed).sum())


@dataclass(frozen=True)
class RademacherProjection:
    """x ↦ xR, R [P, d] of independent ±1/√d: inner products are kept but for noise.

    E⟨xR, yR⟩ = ⟨x, y⟩ with variance at most (‖x‖²‖y‖² + ⟨x, y⟩²) / d (Achlioptas 2003). A row of R
    depends on the seed and on the parameter's number alone, wherever tensors begin and end. Each
    call draws R again, `BLOCK` rows at a time: for a million parameters and d 512, one CPU core
    takes .35 s for R and .012 s for each vector.
    """

    dimensions: int = 512
    """d: numbers of a projected vector."""
    seed: int = 0

    def project(self, gradients: Sequence[Sequence[Tensor]]) -> Tensor:
        """Project n gradients to [n, d] float64.

        Args:
            gradients: for each of n samples, those by each parameter: of any shapes that are the
                same for all samples, on one device, numbered through in order.
        """
        device = gradients[0][0].device
        bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
        signs_of_byte = (2.0 * bits - 1).to(device)  # [256, 8] float32
        total = torch.zeros(len(gradients), self.dimensions, dtype=torch.float64, device=device)
        for number, parts in enumerate(zip(*map(_blocks, gradients))):
            # The product's float32 sums are over one block; float64 adds them up.
            block = torch.stack(parts)  # [n, ≤ BLOCK]
            total += block @ self._signs(number, block.shape[1], signs_of_byte)
        return total / math.sqrt(self.dimensions)

    def _signs(self, number: int, rows: int, signs_of_byte: Tensor) -> Tensor:
        """Draw the signs of a block of parameters, [rows, d]; a byte holds eight."""
        width = -(-self.dimensions // 8)
        drawn = np.random.default_rng([self.seed, number]).bytes(rows * width)
        packed = torch.frombuffer(bytearray(drawn), dtype=torch.uint8).to(signs_of_byte.device)
        signs = F.embedding(packed.int(), signs_of_byte).view(rows, 8 * width)
        return signs[:, : self.dimensions]


def _blocks(gradient: Sequence[Tensor]) -> Iterator[Tensor]:
    """Cut a sample's tensors, end to end, into blocks [≤ BLOCK] of float32."""
    waiting: list[Tensor] = []
    room = BLOCK
    for tensor in gradient:
        flat, start = tensor.reshape(-1), 0
        while start < len(flat):
            piece = flat[start : start + room].float()
            waiting.append(piece)
            start, room = start + len(piece), room - len(piece)
            if not room:
                yield torch.cat(waiting)
                waiting, room = [], BLOCK
    if waiting:
        yield torch.cat(waiting)

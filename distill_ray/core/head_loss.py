"""Losses straight from hidden states: the gradient is taken in the forward pass, chunk by chunk.

Logits of N tokens over V outcomes are never whole: a chunk's logits are made, its loss and the
gradient with respect to them computed, multiplied back into the gradients of the hidden states and
of the output weights, and dropped. What is left for the backward pass is to hand these over. (Cut
Your Losses, arXiv 2411.09009, and Liger Kernel, arXiv 2410.10989, do this for the cross-entropy.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill_ray.core import sparse
from distill_ray.core.divergence import Divergence, forward_kl
from distill_ray.core.head import ROWS, Head, chunks, log_softmax
from distill_ray.core.memory import CHUNK_BYTES
from distill_ray.core.mixture import Mixture
from distill_ray.core.shapes import require_shape
from distill_ray.core.sparse import SparseTargets

OneTeacher = Head | SparseTargets
"""A teacher's output: hidden states with its output weights, or sparse targets."""
TeacherOutput = OneTeacher | Mixture
"""The output of one teacher, or a mixture of several."""

BLOCK_BYTES = 2**21
"""Size of a block of a [n, V] float32 matrix: what a CPU's element-wise work keeps in its cache."""


@dataclass(frozen=True)
class HeadLoss:
    """The losses of N tokens."""

    total: Tensor
    """Scalar: Σ weight · loss over both kinds; carries the graph."""
    cross_entropy: Tensor
    """[N] -log q(label) in nats, constants."""
    divergence: Tensor | None
    """[N] τ²·D(teacher, student), constants; none without a teacher."""


@dataclass(frozen=True)
class LossTargets:
    """Labels and teacher output for N tokens, with a weight for each."""

    labels: Tensor
    """[N] int64 token ids."""
    label_weight: Tensor
    """[N] float32; 0 where there is no label."""
    reference: TeacherOutput | None = None
    reference_weight: Tensor | None = None
    """[N] float32; 0 where the teacher doesn't supervise: its values there may be NaN."""
    divergence: Divergence = forward_kl
    options: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0


def head_loss(student: Head, targets: LossTargets, *, chunk_bytes: int | None = None) -> HeadLoss:
    """Compute weighted cross-entropy on the labels plus weighted divergence to the teacher.

    Args:
        student: its features and weights receive the gradient, where they require one.
        targets: labels and teacher output for the same N tokens.
        chunk_bytes: size of one [n, V] float32 matrix; few exist at a time.

    Raises:
        ValueError: sizes don't fit.
    """
    _require_fit(student, targets)
    work = _ChunkedLoss(student, targets, chunk_bytes)
    tensors = [*student.features, *student.weights]
    if student.bias is not None:
        tensors.append(student.bias)
    total, ce, distance = _Fused.apply(work, *tensors)  # type: ignore[no-untyped-call]
    return HeadLoss(total, ce, distance if targets.reference is not None else None)


@torch.no_grad()
def label_nll(reference: TeacherOutput, labels: Tensor) -> Tensor:
    """Compute a teacher's own -log p(label), [N] in nats.

    Args:
        reference: the teacher's output for N tokens.
        labels: [N] int64 token ids.
    """
    if isinstance(reference, SparseTargets):
        return reference.label_nll
    if isinstance(reference, Mixture):
        return reference.label_nll(
            [label_nll(h, labels[positions]) for _, h, positions in reference.parts()]
        )
    everywhere = torch.ones_like(labels, dtype=torch.float32)
    return head_loss(reference, LossTargets(labels, everywhere)).cross_entropy


def _require_fit(student: Head, targets: LossTargets) -> None:
    count = len(student)
    sizes = {"labels": targets.labels, "label_weight": targets.label_weight}
    if targets.reference is not None:
        if targets.reference_weight is None:
            raise ValueError("a reference needs a reference_weight")
        sizes["reference_weight"] = targets.reference_weight
        if len(targets.reference) != count:
            what = f"the reference has {len(targets.reference)} tokens"
            raise ValueError(f"{what}, the student {count}")
        teacher_vocabulary = getattr(targets.reference, "vocabulary", None)
        if teacher_vocabulary not in (None, student.vocabulary):
            raise ValueError(
                f"the teacher's head has {teacher_vocabulary} outcomes, the student's "
                f"{student.vocabulary}: cut both to the tokenizer's ids"
            )
    for name, tensor in sizes.items():
        require_shape(name, tensor, [count])


class _Fused(torch.autograd.Function):
    """Computes values and gradients in `forward`; `backward` scales the gradients."""

    @staticmethod
    def forward(ctx: Any, work: _ChunkedLoss, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Autocast would turn products to bfloat16; `_ChunkedLoss` has decided already.
        with torch.autocast(tensors[0].device.type, enabled=False):
            total, ce, distance = work.run(ctx.needs_input_grad[1:])
        ctx.gradients, ctx.total = work.gradients, total
        ctx.mark_non_differentiable(ce, distance)
        return total, ce, distance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a head loss can be taken once")
        # A loss that isn't finite must not leave a finite gradient: it would be applied.
        factor = upstream * (1 + 0 * ctx.total)
        scaled = [None if g is None else g.mul_(factor) for g in ctx.gradients]
        ctx.gradients = None
        return (None, *scaled)


class _ChunkedLoss:
    """One pass over chunks of tokens, and within each over blocks that fit in a CPU's cache."""

    def __init__(self, student: Head, targets: LossTargets, chunk_bytes: int | None) -> None:
        device = student.features[0].device
        dtype = student.features[0].dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        self.originals = student
        self.student = student.cast(dtype)
        self.targets = targets
        # The teacher's output is a constant; unsupervised tokens are zeroed, as they may be NaN.
        self.reference = targets.reference
        if self.reference is not None and not isinstance(self.reference, SparseTargets):
            assert targets.reference_weight is not None
            self.reference = self.reference.detach_masked(targets.reference_weight == 0)
        # Validation computes no gradient, although the weights require one.
        self.grad_enabled = torch.is_grad_enabled()
        kind = "cpu" if device.type == "cpu" else "cuda"
        row_bytes = 4 * student.vocabulary
        rows = max(1, (chunk_bytes or CHUNK_BYTES[kind]) // row_bytes)
        self.rows = min(rows - rows % ROWS or rows, len(student))
        self.block = max(1, BLOCK_BYTES // row_bytes) if kind == "cpu" else max(1, self.rows)
        self.gradients: list[Tensor | None] = []

    def run(self, needed: tuple[bool, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute total, cross-entropies [N] and divergences [N]; fills `gradients`."""
        weight = self.targets.label_weight
        ce, distance = torch.zeros_like(weight), torch.zeros_like(weight)
        collect = None
        if self.grad_enabled and any(needed):
            collect = _Collector(self.originals, self.student, needed)
        shape = (self.rows, self.student.vocabulary)
        student_buffer, teacher_buffer = (
            torch.empty(shape, device=weight.device) for _ in range(2)
        )
        for rows in chunks(slice(0, len(self.student)), self.rows):
            z = self._chunk(
                rows,
                student_buffer,
                teacher_buffer,
                ce,
                distance,
                need_gradient=collect is not None,
            )
            if collect is not None:
                collect.add(rows, z)
        if collect is not None:
            self.gradients = collect.done()
        return self._total(ce, distance), ce, distance

    def _total(self, ce: Tensor, distance: Tensor) -> Tensor:
        total = _weighted(self.targets.label_weight, ce)
        if self.targets.reference_weight is not None:
            total = total + _weighted(self.targets.reference_weight, distance)
        return total

    def _chunk(
        self,
        rows: slice,
        student_buffer: Tensor,
        teacher_buffer: Tensor,
        ce: Tensor,
        distance: Tensor,
        *,
        need_gradient: bool,
    ) -> Tensor:
        """Fill the losses of some tokens; returns the [n, V] gradient with respect to logits."""
        count = rows.stop - rows.start
        z, t = self.student.logits(rows, student_buffer[:count]), None
        if isinstance(self.reference, Head):
            t = self.reference.logits(rows, teacher_buffer[:count])
        elif isinstance(self.reference, Mixture):
            t = self.reference.log_p(
                rows, self.targets.temperature, teacher_buffer[:count], self.block
            )
        for block in chunks(rows, self.block):
            here = slice(block.start - rows.start, block.stop - rows.start)
            gradient = self._block(
                block, z[here], None if t is None else t[here], ce, distance, need_gradient
            )
            if gradient is not None:
                z[here] = gradient
        return z

    def _block(
        self,
        rows: slice,
        z: Tensor,
        t: Tensor | None,
        ce: Tensor,
        distance: Tensor,
        need_gradient: bool,
    ) -> Tensor | None:
        softened, tau = None, self.targets.temperature
        if self.reference is not None and tau != 1:
            softened = self._distances(rows, log_softmax(z, tau), t, distance, None, need_gradient)
        log_q = log_softmax(z)
        labels = self.targets.labels[rows, None]
        ce[rows] = -log_q.gather(-1, labels)[:, 0]
        # Σ weight · (q - one-hot): its first half goes along with the divergence's gradient.
        extra = self.targets.label_weight[rows, None]
        if self.reference is not None and tau == 1:
            gradient = self._distances(rows, log_q, t, distance, extra, need_gradient)
        else:
            gradient = log_q.exp_().mul_(extra) if need_gradient else None
        if gradient is None:
            return None
        gradient.scatter_add_(-1, labels, -extra)
        if softened is not None:
            gradient.add_(softened)
        return self._through(gradient, z)

    def _distances(
        self,
        rows: slice,
        log_q: Tensor,
        t: Tensor | None,
        distance: Tensor,
        extra: Tensor | None,
        need_gradient: bool,
    ) -> Tensor | None:
        """Fill the divergences of some tokens.

        Returns:
            [n, V] Σ weight · dD + extra · q, by the logits; log_q is used up.
        """
        targets, tau = self.targets, self.targets.temperature
        assert targets.reference_weight is not None
        weight = tau * targets.reference_weight[rows, None]
        part = self.reference[rows] if isinstance(self.reference, SparseTargets) else None
        log_p = t
        if t is not None and not isinstance(self.reference, Mixture):  # Whose log p it is already.
            log_p = log_softmax(t, tau)
        if targets.divergence is not forward_kl:
            value, gradient = self._by_autograd(log_q, log_p, part, weight, extra, need_gradient)
        elif part is not None:
            value, gradient = _sparse_kl(log_q, part, weight, extra, need_gradient)
        else:
            assert log_p is not None
            value, gradient = _dense_kl(log_q, log_p, weight, extra, need_gradient)
        distance[rows] = tau**2 * value
        return gradient

    def _by_autograd(
        self,
        log_q: Tensor,
        log_p: Tensor | None,
        part: SparseTargets | None,
        weight: Tensor,
        extra: Tensor | None,
        need_gradient: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute any divergence, over the vocabulary or over a sparse teacher's buckets."""
        targets = self.targets
        teacher_log_p = log_p if part is None else sparse.target_buckets(part)

        def values(log_q: Tensor) -> Tensor:
            student_log_q = log_q if part is None else sparse.log_buckets(log_q, part)
            return targets.divergence(student_log_q, teacher_log_p, **targets.options)

        if not need_gradient:
            return values(log_q), None
        with torch.enable_grad():
            leaf = log_q.detach().requires_grad_()
            value = values(leaf)
            (slope,) = torch.autograd.grad(value, leaf, grad_outputs=weight[:, 0])
        # Through the log-softmax by hand: taken again, it would move log_q by a rounding error,
        # which is enough to give the total variation a slope where it has none.
        carried = slope.sum(dim=-1, keepdim=True)
        carried = carried if extra is None else carried - extra
        return value.detach(), slope.addcmul_(log_q.exp_(), carried, value=-1)

    def _through(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Turn the gradient of the final logits z into that of Σ x Wᵀ + b."""
        if self.student.softcap is not None:
            gradient = gradient.mul_(1 - (z / self.student.softcap) ** 2)
        return gradient if self.student.scale == 1.0 else gradient.mul_(self.student.scale)


def _weighted(weight: Tensor, values: Tensor) -> Tensor:
    """Sum weight · value; a value without weight counts nothing, even if it isn't a number."""
    return torch.where(weight != 0, weight * values, 0.0).sum()


def _dense_kl(
    log_q: Tensor, log_p: Tensor, weight: Tensor, extra: Tensor | None, need_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute KL(p ‖ q) [n], and (weight + extra) · q - weight · p [n, V].

    Without a graph and in three matrices; both inputs are used up.
    """
    difference = log_p - log_q
    p = log_p.exp_()
    value = torch.linalg.vecdot(p, difference)
    if not need_gradient:
        return value, None
    del difference
    combined = weight if extra is None else weight + extra
    return value, log_q.exp_().mul_(combined).addcmul_(p, weight, value=-1)


def _sparse_kl(
    log_q: Tensor, part: SparseTargets, weight: Tensor, extra: Tensor | None, need_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the same as `_dense_kl`, against a sparse teacher; log_q is used up."""
    if not need_gradient:
        return sparse.forward_kl(log_q, part), None
    return sparse.forward_kl_gradient(log_q, part, weight, 0.0 if extra is None else extra)


class _Collector:
    """Gradients of features, weights and bias, gathered over the chunks in float32."""

    def __init__(self, originals: Head, student: Head, needed: tuple[bool, ...]) -> None:
        self._student, self._originals = student, originals
        count = len(originals.features)
        self._features = [
            torch.zeros_like(x) if need else None for x, need in zip(originals.features, needed)
        ]
        self._weights = [
            torch.zeros_like(w, dtype=torch.float32) if need else None
            for w, need in zip(originals.weights, needed[count : 2 * count])
        ]
        self._bias = None
        if originals.bias is not None and needed[2 * count]:
            self._bias = torch.zeros_like(originals.bias, dtype=torch.float32)

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Multiply a chunk's [n, V] gradient back."""
        student, vocabulary = self._student, self._student.vocabulary
        if self._bias is not None:
            self._bias[:vocabulary] += gradient.sum(dim=0)
        gradient = gradient.to(student.features[0].dtype)
        for x, w, of_x, of_w in zip(
            student.features, student.weights, self._features, self._weights
        ):
            if of_x is not None:
                of_x[rows] = torch.mm(gradient, w[:vocabulary])
            if of_w is None:
                continue
            if gradient.dtype == torch.float32:
                of_w[:vocabulary].addmm_(gradient.t(), x[rows])
            else:
                of_w[:vocabulary] += torch.mm(gradient.t(), x[rows])

    def done(self) -> list[Tensor | None]:
        """Give the gradients in the order of the inputs, in their precision."""
        weights = [
            None if g is None else g.to(w.dtype)
            for g, w in zip(self._weights, self._originals.weights)
        ]
        bias = [] if self._originals.bias is None else [self._bias]
        return [*self._features, *weights, *bias]

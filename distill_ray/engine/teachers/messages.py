"""What a teacher in another process is asked, and what it answers: plain values, no Ray.

B batch, T tokens, K kept predictions, H hidden, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_ray.config.serving import AnyTarget, HiddenTargets, SparseTarget, TopKTargets
from distill_ray.core.head import Head
from distill_ray.core.head_loss import OneTeacher
from distill_ray.core.sparse import SparseTargets
from distill_ray.core.sparse_bytes import decode, encode
from distill_ray.data.batches import Batch
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.teachers.targets import TargetSpec, sparse_targets
from distill_ray.models.teachers import TeacherBank

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Request:
    """A batch, for one teacher checkpoint. Equal requests get equal answers."""

    teacher: str
    checkpoint_index: int
    input_ids: Array
    """[B, T] int32."""
    position_ids: Array
    """[B, T] int32."""
    positions: Array
    """[K] int32 places of the kept predictions in the flattened [B, T]."""
    labels: Array
    """[K] int32 token ids; -1 where the data say nothing."""
    row_ids: tuple[str, ...]
    temperature: float

    @classmethod
    def of(
        cls,
        teacher: str,
        checkpoint_index: int,
        batch: Batch,
        supervised: SupervisedTokens,
        *,
        temperature: float,
    ) -> Request:
        """What is wanted for a batch's kept predictions."""
        tensors = (batch.input_ids, batch.position_ids, supervised.positions, supervised.labels)
        input_ids, position_ids, positions, labels = (
            x.to(torch.int32).cpu().numpy() for x in tensors
        )
        return cls(
            teacher,
            checkpoint_index,
            input_ids,
            position_ids,
            positions,
            labels,
            batch.row_ids,
            temperature,
        )

    @property
    def seed(self) -> int:
        """Of its draws: the same whenever it is asked again."""
        identity = repr((self.teacher, self.checkpoint_index, self.row_ids)).encode()
        return int.from_bytes(hashlib.sha256(identity).digest()[:7], "big")


@dataclass(frozen=True)
class Answer:
    """What a teacher says about K predictions: hidden states, or sparse targets."""

    vocabulary: int
    """V: outcomes that the teacher knows."""
    features: tuple[Array, ...] = ()
    """[K, H_i] each, as `as_array` makes them."""
    sparse: bytes = b""
    """Of `core.sparse_bytes.encode`; empty where features are sent."""
    by_new_process: bool = False
    """Whether it is the first of a process that has taken a dead one's place."""


@dataclass(frozen=True)
class Output:
    """A teacher's output weights: what makes a `Head` of features."""

    weights: tuple[Array, ...]
    """[V, H_i] each."""
    bias: Array | None
    """[V] or none."""
    scale: float
    softcap: float | None

    def head(self, device: torch.device) -> Head:
        """The head of no predictions, on a device; `dataclasses.replace` gives it features."""
        weights = tuple(as_tensor(w, device) for w in self.weights)
        bias = None if self.bias is None else as_tensor(self.bias, device)
        return Head((), weights, len(weights[0]), bias, self.scale, self.softcap)


def answer(bank: TeacherBank, request: Request, targets: AnyTarget, device: torch.device) -> Answer:
    """Ask the checkpoint that the request names, which is loaded unless it is in use.

    Args:
        bank: on `device`.
        request: what is wanted.
        targets: in which form.
        device: where the teacher computes.
    """
    head = head_for(bank, request, device)
    if isinstance(targets, HiddenTargets):
        return Answer(head.vocabulary, features=tuple(map(as_array, head.features)))
    return Answer(head.vocabulary, sparse=encode(_targets(head, request, targets)))


def output(bank: TeacherBank, teacher: str, checkpoint_index: int, device: torch.device) -> Output:
    """The output weights of a checkpoint, which is loaded unless it is in use."""
    nothing = np.zeros((1, 1), np.int32)
    request = Request(
        teacher, checkpoint_index, nothing, nothing, nothing[0, :0], nothing[0, :0], (), 1.0
    )
    head = head_for(bank, request, device)
    known = head.vocabulary
    bias = None if head.bias is None else as_array(head.bias[:known])
    weights = tuple(as_array(w[:known]) for w in head.weights)
    return Output(weights, bias, head.scale, head.softcap)


def reference(answer: Answer, head: Head | None, device: torch.device) -> OneTeacher:
    """The teacher's side of a loss.

    Args:
        answer: the answer.
        head: of `Output.head`, for an answer with features.
        device: where the student is.
    """
    if head is None:
        return decode(answer.sparse).to(device)
    features = tuple(as_tensor(x, device) for x in answer.features)
    return Head(features, head.weights, head.vocabulary, head.bias, head.scale, head.softcap)


def as_array(tensor: Tensor) -> Array:
    """For a network; NumPy has no bfloat16, whose bits go as int16."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_tensor(array: Array, device: torch.device) -> Tensor:
    """What `as_array` was given, in memory of its own."""
    tensor = torch.tensor(array)
    return (tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor).to(device)


def head_for(bank: TeacherBank, request: Request, device: torch.device) -> Head:
    """The exact answer of the checkpoint that the request names, which is made the one in use."""
    bank.use(request.teacher, request.checkpoint_index)
    arrays = (request.input_ids, request.position_ids, request.positions)
    input_ids, position_ids, positions = (
        torch.tensor(x, dtype=torch.int64, device=device) for x in arrays
    )
    return bank.head(input_ids, position_ids, positions)


def _targets(head: Head, request: Request, targets: SparseTarget) -> SparseTargets:
    device = head.features[0].device
    labels = torch.tensor(request.labels, dtype=torch.int64, device=device)
    generator = torch.Generator(device).manual_seed(request.seed)
    k = targets.k if isinstance(targets, TopKTargets) else targets.num_samples
    spec = TargetSpec(targets.kind, k, request.temperature)
    sparse = sparse_targets(head, labels, spec, generator)
    if not sparse.entropy.isfinite().all():
        rows = ", ".join(request.row_ids)
        raise FloatingPointError(f"rows {rows}: the teacher's probabilities aren't finite")
    return sparse

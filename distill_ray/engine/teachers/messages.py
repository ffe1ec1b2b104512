"""Requests to a teacher in another process, and its answers: plain values, no Ray.

B batch, T tokens, K supervised predictions, H hidden, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_ray.config.serving import AnyTarget, HiddenTargets, TopKTargets
from distill_ray.core.head import Head
from distill_ray.core.head_loss import OneTeacher
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
    """[K] int32 places of the supervised predictions in the flattened [B, T]."""
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
        """Build the request for a batch's supervised predictions."""
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
        """Seed of the sampled targets: a retried request draws the same."""
        identity = repr((self.teacher, self.checkpoint_index, self.row_ids)).encode()
        return int.from_bytes(hashlib.sha256(identity).digest()[:7], "big")


@dataclass(frozen=True)
class Answer:
    """A teacher's output for K predictions: hidden states, or sparse targets."""

    vocabulary: int
    """V: outcomes that the teacher knows."""
    features: tuple[Array, ...] = ()
    """[K, H_i] each, as `as_array` makes them."""
    sparse: bytes = b""
    """Bytes of `core.sparse_bytes.encode`; empty where features are sent."""
    by_new_process: bool = False
    """Whether it is the first answer of a restarted process."""


@dataclass(frozen=True)
class Output:
    """A teacher's output weights, which turn features into a `Head`."""

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
    """Answer a request with the checkpoint that it names, which is loaded if needed.

    Args:
        bank: on `device`.
        request: the batch, and the checkpoint that answers.
        targets: the form of the answer.
        device: where the teacher computes.
    """
    head = head_for(bank, request, device)
    if isinstance(targets, HiddenTargets):
        return Answer(head.vocabulary, features=tuple(map(as_array, head.features)))
    head_device = head.features[0].device
    labels = torch.tensor(request.labels, dtype=torch.int64, device=head_device)
    generator = torch.Generator(head_device).manual_seed(request.seed)
    k = targets.k if isinstance(targets, TopKTargets) else targets.num_samples
    spec = TargetSpec(targets.kind, k, request.temperature)
    sparse = sparse_targets(head, labels, spec, generator)
    if not sparse.entropy.isfinite().all():
        rows = ", ".join(request.row_ids)
        raise FloatingPointError(f"rows {rows}: the teacher's probabilities aren't finite")
    return Answer(head.vocabulary, sparse=encode(sparse))


def output(bank: TeacherBank, teacher: str, checkpoint_index: int, device: torch.device) -> Output:
    """Read the output weights of a checkpoint, which is loaded if needed."""
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
    """Turn an answer into the teacher's output for a loss.

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
    """Convert to NumPy for the network. NumPy has no bfloat16: its bits travel as int16."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_tensor(array: Array, device: torch.device) -> Tensor:
    """Invert `as_array`, into memory of its own."""
    tensor = torch.tensor(array)
    return (tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor).to(device)


def head_for(bank: TeacherBank, request: Request, device: torch.device) -> Head:
    """Switch to the checkpoint that the request names, and run it."""
    bank.use(request.teacher, request.checkpoint_index)
    arrays = (request.input_ids, request.position_ids, request.positions)
    input_ids, position_ids, positions = (
        torch.tensor(x, dtype=torch.int64, device=device) for x in arrays
    )
    return bank.head(input_ids, position_ids, positions)

"""The same models and batches for every arm. B rows, T tokens, N tokens, H hidden, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill_ray.bench.harness.flops import Decoder, distillation_step
from distill_ray.bench.suites.work import LossWork, StepWork
from distill_ray.data.batches import Batch
from distill_ray.models.load import DTYPES, load_frozen, load_model, num_parameters


@dataclass(frozen=True)
class Pair:
    """Teacher and student on their device."""

    teacher: Any
    """Frozen, in evaluation mode, its weights in the work's precision."""
    student: Any
    """In training mode, its weights in float32."""
    vocabulary: int
    """Number of token ids that both models have."""
    step_flops: float
    """FLOPs of both models in one step."""

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes of both models, for the report."""
        return {
            "teacher_parameters": num_parameters(self.teacher),
            "student_parameters": num_parameters(self.student),
            "vocabulary": self.vocabulary,
            "step_flops": self.step_flops,
        }


def _decoder(model: Any) -> Decoder:
    """Describe a loaded model as far as its FLOPs go."""
    config, inputs = model.config, model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is inputs
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    weights = num_parameters(model) - (0 if tied else inputs.numel())
    return Decoder(weights, config.num_hidden_layers, heads * size)


def load_pair(work: StepWork, device: torch.device) -> Pair:
    """Load both models, with every page of their weights in memory."""
    teacher = load_frozen(work.teacher, precision=work.precision, device=device)
    student = load_model(work.student).to(device).train()
    for model in (teacher, student):
        for parameter in model.parameters():
            # Weights that are mapped from a file come in when they are first read.
            parameter.detach().sum()
    shared = min(model.config.vocab_size for model in (teacher, student))
    flops = distillation_step(_decoder(teacher), _decoder(student), work.rows, work.length)
    return Pair(teacher, student, shared, flops)


def batch(work: StepWork, number: int, vocabulary: int) -> Batch:
    """Make batch `number`, on the CPU: random ids, all but a row's last prediction supervised."""
    generator = torch.Generator().manual_seed(work.seed * 1_000_003 + number)
    ids = torch.randint(0, vocabulary, (work.rows, work.length), generator=generator)
    mask = torch.ones(work.rows, work.length, dtype=torch.bool)
    mask[:, -1] = False
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(work.length).repeat(work.rows, 1),
        label_mask=mask,
        teacher_mask=mask,
        is_task=torch.zeros(work.rows, dtype=torch.bool),
        row_ids=tuple(f"bench:{number}:{row}" for row in range(work.rows)),
    )


@dataclass(frozen=True)
class Heads:
    """Hidden states and output matrices of both sides."""

    hidden: Tensor
    """[N, H]; receives a gradient."""
    weight: Tensor
    """[V, H]; receives a gradient."""
    teacher_hidden: Tensor
    """[N, H]."""
    teacher_weight: Tensor
    """[V, H]."""

    def clear(self) -> None:
        """Drop the gradients."""
        self.hidden.grad = self.weight.grad = None

    def gradient_norms(self) -> list[float]:
        """Norms of both gradients, of hidden states and output matrix, to compare arms by."""
        grads = [self.hidden.grad, self.weight.grad]
        return [float(torch.linalg.vector_norm(g.float())) for g in grads if g is not None]


def heads(work: LossWork, device: torch.device) -> Heads:
    """Draw heads whose logits have a standard deviation of about 1, as of a trained model."""
    generator = torch.Generator().manual_seed(work.seed)
    dtype = DTYPES[work.precision]

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    scale = work.hidden**-0.5
    return Heads(
        hidden=draw(work.tokens, work.hidden).requires_grad_(),
        weight=draw(work.vocabulary, work.hidden, scale=scale).requires_grad_(),
        teacher_hidden=draw(work.tokens, work.hidden),
        teacher_weight=draw(work.vocabulary, work.hidden, scale=scale),
    )

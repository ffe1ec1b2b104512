"""The student as a module that answers with its losses: its logits never leave it.

B batch, T tokens, K kept predictions, H hidden.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill_ray.core.head_loss import HeadLoss, Supervision, head_loss
from distill_ray.models.causal import head_of, hidden_states


class Student(nn.Module):
    """A causal language model and the loss on its kept predictions.

    The loss is inside the module, because sharded weights (ZeRO-3) are whole only there.
    """

    def __init__(self, model: Any, vocabulary: int | None) -> None:
        super().__init__()
        self.model = model
        self.head = _Head(model, vocabulary)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, at: Tensor, supervision: Supervision
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Total, cross-entropies [K] and divergences [K].

        Args:
            input_ids: [B, T].
            position_ids: [B, T].
            at: [K] places of the kept predictions in the flattened [B, T].
            supervision: of these K.
        """
        hidden = hidden_states(self.model, input_ids, position_ids)  # [B, T, H]
        made: tuple[Tensor, Tensor, Tensor | None] = self.head(
            hidden.flatten(0, 1).index_select(0, at), supervision
        )
        return made


class _Head(nn.Module):
    """A module, so that its forward pass is where sharded output weights are gathered."""

    def __init__(self, model: Any, vocabulary: int | None) -> None:
        super().__init__()
        # In a list: registered once, as the model's own.
        self._model = [model]
        self._vocabulary = vocabulary

    def forward(
        self, features: Tensor, supervision: Supervision
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Student.forward`."""
        found = head_loss(head_of(self._model[0], features, self._vocabulary), supervision)
        return found.total, found.cross_entropy, found.divergence


def as_loss(made: tuple[Tensor, Tensor, Tensor | None]) -> HeadLoss:
    """What `Student.forward` gave, by name; a tuple is what DeepSpeed's hooks can read."""
    return HeadLoss(*made)

"""The student as a module that returns its losses; its logits never leave it.

B batch, T tokens, K supervised predictions, H hidden.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.core.matching import Matching, MatchTargets
from distill_ray.models.causal import head_of, output_flags, outputs, states_of

ForwardOutput = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Result of `Student.forward`; a tuple, because DeepSpeed's hooks read tuples."""


class Student(nn.Module):
    """A causal language model and the loss on its supervised predictions.

    The loss is inside the module, because sharded weights (ZeRO-3) are whole only there.
    """

    def __init__(
        self, model: Any, vocabulary: int | None, matching: Matching | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.head = _Head(model, vocabulary)
        self.matching = matching

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        positions: Tensor,
        targets: LossTargets,
        match_targets: MatchTargets | None = None,
    ) -> ForwardOutput:
        """Compute total, cross-entropies [K], divergences [K] and layer distances [kinds, K].

        Args:
            input_ids: [B, T].
            position_ids: [B, T].
            positions: [K] places of the supervised predictions in the flattened [B, T].
            targets: labels and teacher output of these K.
            match_targets: the teacher's inner states of these K, where layers are matched.
        """
        if self.matching is None or match_targets is None:
            hidden = outputs(self.model, input_ids, position_ids)
            return (*self._head_loss(hidden, positions, targets), None)
        layers = self.matching.layers(match_targets.teacher, 0)
        hidden = outputs(self.model, input_ids, position_ids, **output_flags(layers))
        total, cross_entropy, divergence = self._head_loss(hidden, positions, targets)
        more, matched = self.matching(states_of(hidden, positions, layers), match_targets)
        return total + more, cross_entropy, divergence, matched

    def _head_loss(
        self, hidden: Any, positions: Tensor, targets: LossTargets
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        features = hidden.last_hidden_state.flatten(0, 1).index_select(0, positions)  # [K, H]
        losses: tuple[Tensor, Tensor, Tensor | None] = self.head(features, targets)
        return losses


class _Head(nn.Module):
    """The output layer, as a module whose forward pass gathers sharded output weights."""

    def __init__(self, model: Any, vocabulary: int | None) -> None:
        super().__init__()
        # In a list: registered once, as the model's own.
        self._model = [model]
        self._vocabulary = vocabulary

    def forward(
        self, features: Tensor, targets: LossTargets
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute total, cross-entropies [K] and divergences [K]."""
        loss = head_loss(head_of(self._model[0], features, self._vocabulary), targets)
        return loss.total, loss.cross_entropy, loss.divergence

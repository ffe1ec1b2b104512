"""The student as a module that answers with its losses: its logits never leave it.

B batch, T tokens, K kept predictions, H hidden.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.core.matching import Matching, MatchTargets
from distill_ray.models.causal import head_of, outputs, states_of, wanted

Made = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""What `Student.forward` gives; a tuple is what DeepSpeed's hooks can read."""


class Student(nn.Module):
    """A causal language model and the loss on its kept predictions.

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
        at: Tensor,
        supervision: LossTargets,
        towards: MatchTargets | None = None,
    ) -> Made:
        """Total, cross-entropies [K], divergences [K] and distances of inner layers [kinds, K].

        Args:
            input_ids: [B, T].
            position_ids: [B, T].
            at: [K] places of the kept predictions in the flattened [B, T].
            supervision: of these K.
            towards: what their inner layers are pulled towards.
        """
        if self.matching is None or towards is None:
            found = outputs(self.model, input_ids, position_ids)
            return (*self._head_loss(found, at, supervision), None)
        layers = self.matching.layers(towards.teacher, 0)
        found = outputs(self.model, input_ids, position_ids, **wanted(layers))
        total, cross_entropy, divergence = self._head_loss(found, at, supervision)
        more, matched = self.matching(states_of(found, at, layers), towards)
        return total + more, cross_entropy, divergence, matched

    def _head_loss(
        self, found: Any, at: Tensor, supervision: LossTargets
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        features = found.last_hidden_state.flatten(0, 1).index_select(0, at)  # [K, H]
        made: tuple[Tensor, Tensor, Tensor | None] = self.head(features, supervision)
        return made


class _Head(nn.Module):
    """A module, so that its forward pass is where sharded output weights are gathered."""

    def __init__(self, model: Any, vocabulary: int | None) -> None:
        super().__init__()
        # In a list: registered once, as the model's own.
        self._model = [model]
        self._vocabulary = vocabulary

    def forward(
        self, features: Tensor, supervision: LossTargets
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Student.forward`."""
        found = head_loss(head_of(self._model[0], features, self._vocabulary), supervision)
        return found.total, found.cross_entropy, found.divergence

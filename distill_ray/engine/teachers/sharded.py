"""A teacher that doesn't fit in one process. K supervised predictions, H hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.engine.backends.deepspeed import import_deepspeed
from distill_ray.models.causal import head_of, outputs


class ShardedTeacher:
    """A frozen model whose weights are spread over all ranks, gathered layer by layer (ZeRO-3).

    Every answer is collective. The output weights, which the loss reads when the forward pass is
    over, stay whole on each rank.
    """

    def __init__(
        self, model: Any, vocabulary: int | None, *, device: torch.device, precision: str
    ) -> None:
        """Spread a model over the ranks.

        Args:
            model: in main memory, the same on every rank.
            vocabulary: number of ids that the tokenizer has.
            device: where the shards go.
            precision: precision of the weights.
        """
        deepspeed = import_deepspeed(device)
        nothing = torch.zeros(0, model.config.get_text_config(decoder=True).hidden_size)
        # The head keeps its own copies of the weights, whole on each rank.
        head = head_of(model, nothing, vocabulary)
        weights = tuple(w.detach().to(device, copy=True) for w in head.weights)
        bias = None if head.bias is None else head.bias.detach().to(device, copy=True)
        self._head = replace(head, weights=weights, bias=bias)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        config = {
            "train_micro_batch_size_per_gpu": 1,
            # Else torch's linear function is replaced, in the student's forward pass too.
            "zero_optimization": {"stage": 3, "memory_efficient_linear": False},
            "bf16": {"enabled": precision == "bfloat16"},
            "steps_per_print": 10**9,
        }
        # Weight by weight: the device never holds the whole model.
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
        self._engine, *_ = deepspeed.initialize(model=_Backbone(model), config=config)
        self._engine.eval()

    def outputs(self, input_ids: Tensor, position_ids: Tensor, **flags: bool) -> Any:
        """Run the model, as `causal.outputs` does."""
        return self._engine(input_ids, position_ids, **flags)

    def head(self, features: Tensor) -> Head:
        """Apply the head to [K, H] features."""
        return replace(self._head, features=(features,))

    def close(self) -> None:
        """Free the shards."""
        self._engine.destroy()


class _Backbone(torch.nn.Module):
    """The root of a sharded model: its forward pass is where DeepSpeed's books begin."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor, **flags: bool) -> Any:
        return outputs(self.model, input_ids, position_ids, **flags)

"""A causal language model in two parts: the backbone, and the head that makes logits.

K supervised tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_ray.core.head import Head
from distill_ray.core.matching import States


class UnsupportedModelError(ValueError):
    """An architecture whose logits aren't its head applied to its last hidden states."""


def bare(model: Any) -> Any:
    """Return the transformers model inside a peft model; other models are returned as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Compute the last hidden states [B, T, H], the input of the head."""
    return outputs(model, input_ids, position_ids).last_hidden_state  # type: ignore[no-any-return]


def outputs(
    model: Any, input_ids: Tensor, position_ids: Tensor | None = None, **flags: bool
) -> Any:
    """Run the backbone; `flags` are `output_hidden_states` and `output_attentions`.

    No attention mask and no cache: where position ids restart, transformers builds a
    block-diagonal mask from them, so samples that share a row don't see each other.
    """
    backbone = bare(model).base_model
    return backbone(input_ids=input_ids, position_ids=position_ids, use_cache=False, **flags)


def states_of(outputs: Any, positions: Tensor, layers: Mapping[str, Sequence[int]]) -> States:
    """Select the states of some layers at some positions.

    Args:
        outputs: the backbone's outputs, with these kinds of state.
        positions: [K] indices in the flattened [B, T].
        layers: `hidden` and `attention` → layers, counted from 1. The last hidden state is the
            head's input.
    """

    def select(kind: str, layer: int) -> Tensor:
        if kind == "hidden":
            states = outputs.hidden_states[layer]
        else:
            states = outputs.attentions[layer - 1].mean(dim=1)  # [B, T, T]
        return states.flatten(0, 1).index_select(0, positions)  # type: ignore[no-any-return]

    return {kind: [select(kind, layer) for layer in numbers] for kind, numbers in layers.items()}


def output_flags(layers: Mapping[str, Sequence[int]]) -> dict[str, bool]:
    """Choose the flags of `outputs` that return the states `states_of` needs."""
    flags = {"hidden": "output_hidden_states", "attention": "output_attentions"}
    return {flags[kind]: True for kind in layers}


def output_layer(model: Any) -> nn.Module:
    """Return the module that holds the output weights."""
    return bare(model).get_output_embeddings()  # type: ignore[no-any-return]


def head_of(model: Any, features: Tensor, vocabulary: int | None = None) -> Head:
    """Describe the model's head on [K, H] features, over the first `vocabulary` ids.

    Raises:
        UnsupportedModelError: the output layer is of an unknown kind.
    """
    config = bare(model).config
    products, bias = _products(output_layer(model), features)
    padded = int(products[0][1].shape[0])
    scaling = getattr(config, "logits_scaling", None)
    return Head(
        features=tuple(x for x, _ in products),
        weights=tuple(w for _, w in products),
        vocabulary=min(padded, vocabulary or padded),
        bias=bias,
        scale=float(getattr(config, "logit_scale", None) or (1 / scaling if scaling else 1.0)),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _products(layer: Any, features: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """List (x, W) pairs whose products add up to the layer's output, and its bias."""
    if hasattr(layer, "modules_to_save") and hasattr(layer, "active_adapters"):
        layer = layer.modules_to_save[layer.active_adapters[0]]
    if not hasattr(layer, "base_layer"):
        if not isinstance(layer, nn.Linear):
            raise UnsupportedModelError(f"an output layer of kind {type(layer).__name__}")
        return [(features, layer.weight)], layer.bias
    products, bias = _products(layer.base_layer, features)
    for name in [] if layer.disable_adapters or layer.merged else layer.active_adapters:
        inner = layer.lora_A[name](layer.lora_dropout[name](features))
        products.append((layer.scaling[name] * inner, layer.lora_B[name].weight))
    return products, bias


@torch.no_grad()
def require_head(model: Any) -> None:
    """Check on a few tokens that the head on the last hidden states gives the model's own logits.

    Raises:
        UnsupportedModelError: the logits differ.
    """
    device = next(model.parameters()).device
    ids = torch.arange(1, 5, device=device)[None]
    training = model.training
    model.eval()
    try:
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        ours = head_of(model, hidden_states(model, ids)[0]).logits(slice(None))
    finally:
        model.train(training)
    if expected.shape == ours.shape:
        gap = float((ours - expected).abs().max())
        if gap <= 0.02 * float(expected.abs().max()):  # bfloat16 rounds to 3 digits
            return
    kind = type(bare(model)).__name__
    raise UnsupportedModelError(
        f"{kind}: its logits are not its output layer applied to its last hidden states, which "
        "the loss needs. Choose another architecture, or open an issue that names it."
    )

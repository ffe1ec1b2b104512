"""Load models into memory from their refs."""

from __future__ import annotations

from typing import Any

import torch

from distill_ray.config.errors import InputError
from distill_ray.models.adapters import load_adapter, merged
from distill_ray.models.gguf import weights_folder
from distill_ray.models.inspect import layers_problems
from distill_ray.models.packages import file_of
from distill_ray.models.ref import ModelRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(ref: ModelRef, *, precision: str = "float32") -> Any:
    """Load the causal language model of a ref, on the CPU, ready to train.

    Args:
        ref: locations must be local or hub ids.
        precision: `float32` or `bfloat16`.

    Raises:
        OSError: the files are missing or hold no safetensors weights.
        InputError: the model has fewer layers than the ref keeps.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = DTYPES[precision]
    if ref.kind == "init":
        config = AutoConfig.for_model(**(ref.init or {}))
        # A private generator state: drawing weights must not move the run's own random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ref.seed)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        location, options = _place(ref)
        if ref.layers is not None:
            config = AutoConfig.from_pretrained(location, **options)
            options["config"] = _cut(config, ref.layers, ref.location)
        # Weights of layers that the config lacks are not read.
        model = AutoModelForCausalLM.from_pretrained(
            location, dtype=dtype, use_safetensors=True, **options
        )
    return model if ref.adapter is None else load_adapter(model, ref.adapter)


def load_frozen(
    ref: ModelRef, *, precision: str = "float32", device: torch.device, merge: bool = True
) -> Any:
    """Load the model of a ref for inference: no gradients, evaluation mode.

    Args:
        ref: as in `load_model`.
        precision: `float32` or `bfloat16`.
        device: where the model computes.
        merge: add adapters to the weights, which is faster, but then they can't be swapped.
    """
    model = load_model(ref, precision=precision)
    if ref.adapter is not None and merge:
        model = merged(model)
    return model.to(device).eval().requires_grad_(False)


def config_of(ref: ModelRef) -> Any:
    """Load the decoder's config: `hidden_size`, `num_hidden_layers`. Reads no weights.

    Args:
        ref: as in `load_model`.
    """
    from transformers import AutoConfig

    if ref.kind == "init":
        config = AutoConfig.for_model(**(ref.init or {}))
    else:
        location, options = _place(ref)
        config = AutoConfig.from_pretrained(location, **options)
        config = config if ref.layers is None else _cut(config, ref.layers, ref.location)
    return config.get_text_config(decoder=True)


def _place(ref: ModelRef) -> tuple[str, dict[str, Any]]:
    """Location and options by which transformers loads a model, unless it is an `init`."""
    location = str(weights_folder(file_of(ref.location))) if ref.kind == "gguf" else ref.location
    revision = ref.revision if ref.kind == "hub" else None
    return location, {"revision": revision, "trust_remote_code": ref.trust_remote_code}


def _cut(config: Any, layers: int, model: str) -> Any:
    """Cut a model's config to its first layers."""
    decoder = config.get_text_config(decoder=True)
    num_layers = getattr(decoder, "num_hidden_layers", 0)
    if problems := layers_problems(model, layers, num_layers):
        raise InputError("a model can't be cut:", problems)
    for key, value in decoder.to_dict().items():
        # Lists with an entry for each layer: kinds of attention, of feed-forward, of positions.
        per_layer = isinstance(value, list | tuple) and len(value) == num_layers
        if per_layer and not key.endswith("token_id"):
            setattr(decoder, key, value[:layers])
    decoder.num_hidden_layers = layers
    return config


def num_parameters(model: Any) -> int:
    """Count a model's parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())

"""Refs → models in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from distill_ray.models.ref import ModelRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(ref: ModelRef, *, precision: str = "float32") -> Any:
    """The causal language model of a ref, on the CPU, ready to train.

    Args:
        ref: locations must be local or hub ids.
        precision: `float32` or `bfloat16`.

    Raises:
        OSError: the files are missing or hold no safetensors weights.
    """
    model = _base(ref, DTYPES[precision])
    if ref.adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, ref.adapter, is_trainable=True)


def load_frozen(ref: ModelRef, *, precision: str = "float32", device: torch.device) -> Any:
    """The model of a ref for inference: adapters merged, no gradients, evaluation mode."""
    model = load_model(ref, precision=precision)
    if ref.adapter is not None:
        model = model.merge_and_unload()
    return model.to(device).eval().requires_grad_(False)


def _base(ref: ModelRef, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if ref.kind == "init":
        config = AutoConfig.for_model(**(ref.init or {}))
        # A private generator state: drawing weights must not move the run's own random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ref.seed)
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    if ref.kind == "gguf":
        return _from_gguf(Path(ref.location), dtype)
    return AutoModelForCausalLM.from_pretrained(
        ref.location,
        revision=ref.revision if ref.kind == "hub" else None,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=ref.trust_remote_code,
    )


def _from_gguf(path: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
    )


def num_parameters(model: Any) -> int:
    """Parameters of a model, shared ones once."""
    return sum(p.numel() for p in model.parameters())

"""Low-rank adapters (LoRA), through peft."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: str | tuple[str, ...],
    seed: int = 0,
) -> Any:
    """Freeze a model and add trainable adapters (arXiv 2106.09685), drawn from `seed`."""
    from peft import LoraConfig, TaskType, get_peft_model

    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
    )
    # A private generator state, as for new weights, so every rank and rerun draws the same.
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def load_adapter(model: Any, folder: str) -> Any:
    """Add the adapters of a folder to a model, ready to train.

    Raises:
        FileNotFoundError: the folder holds no safetensors weights.
    """
    from peft import PeftModel

    _require_weights(folder)
    with _quiet():
        return PeftModel.from_pretrained(model, folder, is_trainable=True)


def swap_adapter(model: Any, folder: str, weights: dict[str, Any] | None = None) -> bool:
    """Replace the weights of a model's adapter by another adapter's, in place.

    Args:
        model: a base with one adapter on top, not merged.
        folder: the folder of an adapter for the same base.
        weights: the folder's weights, if they have been read already.

    Returns:
        False if the adapters differ in form or weights: the model must then be reloaded.

    Raises:
        FileNotFoundError: the folder holds no safetensors weights, and none were given.
    """
    from peft import PeftConfig, load_peft_weights, set_peft_model_state_dict

    if weights is None:
        _require_weights(folder)
    with _quiet():
        if _form(PeftConfig.from_pretrained(folder)) != _form(model.peft_config["default"]):
            return False
        state = weights if weights is not None else load_peft_weights(folder, device="cpu")
        result = set_peft_model_state_dict(model, state)
    missing = [name for name in result.missing_keys if ".default" in name]
    return not missing and not result.unexpected_keys


def _require_weights(folder: str) -> None:
    """Check that the weights are there, because peft would look for missing ones on the hub."""
    if not (Path(folder) / "adapter_model.safetensors").exists():
        raise FileNotFoundError(f"{folder} holds no adapter_model.safetensors")


def _form(config: Any) -> dict[str, Any]:
    """The part of an adapter's config that decides its weights' shapes and effect."""
    ignored = (
        "base_model_name_or_path",
        "inference_mode",
        "revision",
        "peft_version",
        "auto_mapping",
    )
    return {k: v for k, v in config.to_dict().items() if k not in ignored}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence peft's warning: it reads an attribute that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def merged(model: Any) -> Any:
    """Add a model's adapters to its weights; return the plain model.

    Where an adapter is on an output layer that shares its weights with the embedding, the two are
    untied first, because the embedding isn't adapted.
    """
    base = model.get_base_model()
    layer = base.get_output_embeddings()
    inner = getattr(layer, "base_layer", None)
    if inner is not None and inner.weight is base.get_input_embeddings().weight:
        inner.weight = nn.Parameter(inner.weight.detach().clone())
        for config in {id(c): c for c in (base.config, base.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    return model.merge_and_unload()

"""Low-rank adapters by peft."""

from __future__ import annotations

from typing import Any

import torch


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
    # A private generator state, as for fresh weights: every rank and every rerun draws the same.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)

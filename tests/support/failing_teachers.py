"""Teachers that fail: one whose weights can't be read, one that kills the process of its probes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill_ray.data.tokenizer import train_tokenizer
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

KILLER = '''
"""Llama that SIGKILLs a process which distils; scored, it behaves."""

import os
import signal
import sys

from transformers import LlamaForCausalLM


class DoomedForCausalLM(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        if "distill_ray.stages.trials.worker" in sys.modules:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*args, **kwargs)
'''


def tokenizer(folder: Path, texts: Iterable[str], size: int) -> int:
    """Write a tokenizer; returns its vocabulary."""
    made = train_tokenizer(texts, size)
    made.save_pretrained(str(folder))
    return len(made)


def broken(folder: Path, init: dict[str, Any]) -> Path:
    """A model whose weights end in the middle."""
    _save(folder, init)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return folder


def killer(folder: Path, init: dict[str, Any]) -> Path:
    """A model with code of its own, which no process survives that distils from it."""
    _save(folder, init)
    (folder / "doomed.py").write_text(KILLER)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "doomed.DoomedForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _save(folder: Path, init: dict[str, Any]) -> None:
    load_model(ModelRef("init", init=init, seed=5)).save_pretrained(str(folder))

"""Weights read into the main memory by a thread, while training goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_ray.models.ref import ModelRef

Weights = dict[str, Tensor]


class Ahead:
    """The weights of one checkpoint, read or being read.

    The thread reads and copies tensors, nothing else: making a model changes torch's default type
    and other things that all threads share.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ref: ModelRef | None = None
        self._weights: Future[Weights] | None = None

    def read(self, ref: ModelRef, dtype: torch.dtype) -> None:
        """Begin to read a checkpoint; what was read of another is let go.

        Args:
            ref: a folder on this machine, or an adapter in one; anything else isn't read ahead.
            dtype: of full weights.
        """
        if ref == self._ref or not (ref.adapter or ref.kind == "path"):
            return
        self.drop()
        self._ref = ref
        self._weights = self._threads.submit(_read, ref, dtype)

    def take(self, ref: ModelRef) -> Weights | None:
        """Its weights, waited for if need be, and let go here; None if they weren't read."""
        if ref != self._ref or self._weights is None:
            return None
        try:
            return self._weights.result()
        except Exception:
            return None  # Loading it in the usual way will say why.
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of what was read."""
        if self._weights is not None:
            self._weights.cancel()
        self._ref = self._weights = None


def _read(ref: ModelRef, dtype: torch.dtype) -> Weights:
    from safetensors.torch import load_file

    folder = Path(ref.adapter or ref.location)
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        # Out of the file's memory map: what is only mapped would be read when it is used.
        for name, tensor in load_file(file).items():
            floats = tensor.is_floating_point() and ref.adapter is None
            found[name] = tensor.to(dtype if floats else tensor.dtype, copy=True)
    return found


@torch.no_grad()
def fill(model: Any, weights: Weights) -> bool:
    """Put weights in the place of a model's own.

    Returns:
        False, with the model as it was, unless they are exactly its weights: tied ones may be left
        out.
    """
    there = model.state_dict()
    if not weights.keys() <= there.keys():
        return False
    if any(weights[name].shape != there[name].shape for name in weights):
        return False
    filled = {there[name].data_ptr() for name in weights}
    if any(tensor.data_ptr() not in filled for tensor in there.values()):
        return False
    for name, tensor in weights.items():
        there[name].copy_(tensor)
    return True

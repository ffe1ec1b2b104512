"""Read weights into main memory in a thread, while training continues."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_ray.models.ref import ModelRef

Weights = dict[str, Tensor]


class Prefetcher:
    """Reads the weights of one checkpoint at a time.

    The thread only reads and copies tensors: building a model changes torch's default type and
    other state that all threads share.
    """

    def __init__(self, device: torch.device) -> None:
        """Read nothing yet.

        Args:
            device: where the weights will go; on the way to an accelerator they are pinned.
        """
        self._pin = device.type == "cuda"
        start = None
        if self._pin:
            # A new thread's current accelerator is the first one, not this process's.
            index = torch.cuda.current_device() if device.index is None else device.index
            start = partial(torch.cuda.set_device, index)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="read-ahead", initializer=start)
        self._ref: ModelRef | None = None
        self._weights: Future[Weights] | None = None

    @property
    def reading(self) -> bool:
        """Whether the thread is reading."""
        return self._weights is not None and not self._weights.done()

    def read(self, ref: ModelRef, model: Any) -> None:
        """Begin to read a checkpoint, and drop another one that was read.

        Args:
            ref: a folder on this machine, or an adapter in one; anything else isn't read ahead.
            model: the model whose weights will probably be replaced; full weights get its types.
        """
        if ref == self._ref or not (ref.adapter or ref.kind == "path"):
            return
        self.drop()
        state = {} if ref.adapter else model.state_dict()
        dtypes = {name: tensor.dtype for name, tensor in state.items()}
        self._ref = ref
        self._weights = self._threads.submit(_read_weights, ref, dtypes, self._pin)

    def take(self, ref: ModelRef) -> Weights | None:
        """Hand over a checkpoint's weights, waiting if needed; None if they weren't read."""
        if ref != self._ref or self._weights is None:
            return None
        try:
            return self._weights.result()
        except Exception:
            return None  # Loading it in the usual way raises the same error.
        finally:
            self.drop()

    def drop(self) -> None:
        """Drop the weights that were read."""
        if self._weights is not None:
            self._weights.cancel()
        self._ref = self._weights = None


def _read_weights(ref: ModelRef, dtypes: Mapping[str, torch.dtype], pin: bool) -> Weights:
    """Read a folder's weights into main memory, with these types. Runs in the thread."""
    from safetensors.torch import load_file

    folder = Path(ref.adapter or ref.location)
    weights: Weights = {}
    if not (files := sorted(folder.glob("*.safetensors"))):
        raise FileNotFoundError(f"{folder} holds no safetensors weights")
    for file in files:
        for name, tensor in load_file(file).items():
            # A copy, because memory-mapped weights would be read from the file only when used.
            copy = tensor.to(dtypes.get(name, tensor.dtype), copy=True)
            weights[name] = copy.pin_memory() if pin else copy
    return weights


@torch.no_grad()
def copy_weights(model: Any, weights: Weights) -> bool:
    """Replace a model's weights; tensors on its device are adopted without a copy.

    Returns:
        False, with the model unchanged, unless names and shapes are exactly the model's; of tied
        weights, exactly one must be present.
    """
    state = model.state_dict(keep_vars=True)
    if not weights.keys() <= state.keys():
        return False
    if any(weights[name].shape != state[name].shape for name in weights):
        return False
    filled = {state[name].data_ptr() for name in weights}
    if len(filled) < len(weights) or any(t.data_ptr() not in filled for t in state.values()):
        return False
    for name, tensor in weights.items():
        own = state[name]
        if (own.device, own.dtype) == (tensor.device, tensor.dtype):
            own.data = tensor
        else:
            own.copy_(tensor, non_blocking=tensor.is_pinned())
    return True

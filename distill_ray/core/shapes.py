"""Shape checks with the tensor's name in the message."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def require_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless `tensor` has this shape."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {list(tensor.shape)}, needs {list(shape)}")

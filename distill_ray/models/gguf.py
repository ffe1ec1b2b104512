"""GGUF files: their sizes from the header alone, their weights and tokenizer converted once.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from distill_ray.config.cache import cached_folder
from distill_ray.config.fingerprint import fingerprint, path_identity

FORMATS = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
"""The header's types by number, as `struct` names them; strings and arrays have none."""
STRING, ARRAY = 8, 9
LONGEST, LARGEST, MOST_DIMENSIONS = 1 << 26, 1 << 40, 8
"""Bytes of a text and of a list, dimensions of a tensor: more are garbage."""
GARBAGE = (struct.error, IndexError, UnicodeDecodeError, OverflowError, RecursionError, OSError)
"""What reading it as a header comes to."""
NO_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors of the file that become constants of a model."""


@dataclass(frozen=True)
class Header:
    """What a file says before its weights."""

    values: Mapping[str, Any]
    """Key → number or string; lists are left out."""
    tensors: Mapping[str, tuple[int, ...]]
    """Tensor → shape, the innermost dimension first."""

    def of_architecture(self, key: str) -> int:
        """A number of the model's architecture, 0 where it isn't told."""
        return int(self.values.get(f"{self.values.get('general.architecture')}.{key}", 0))

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self.of_architecture("block_count")

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.tensors.get("token_embd.weight", (0,))[-1]

    @property
    def weights(self) -> dict[str, int]:
        """Tensor → parameters; a layer's are named `blk.<number>.…`."""
        return {k: math.prod(s) for k, s in self.tensors.items() if k not in NO_WEIGHTS}


def read_header(file: Path) -> Header:
    """The header of a file.

    Raises:
        ValueError: it is none, or of an unknown kind, or cut off.
    """
    stat = file.stat()
    return _header(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _header(file: Path, size: int, changed: int) -> Header:
    """The header of a file in this state; check and plan ask for the same ones."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"{file} is not a GGUF file")
        try:
            return _read(stream, size)
        except GARBAGE as error:
            raise ValueError(f"{file} is damaged or cut off ({error})") from error


def _read(stream: BinaryIO, size: int) -> Header:
    number = _number(stream, "I")
    if number not in (2, 3):
        raise ValueError(f"{stream.name} is of GGUF version {number}, 2 and 3 can be read")
    num_tensors, num_values = _number(stream, "Q"), _number(stream, "Q")
    values = {}
    for _ in range(num_values):
        key = _string(stream)
        value = _value(stream, _number(stream, "I"))
        if value is not None:
            values[key] = value
    tensors, last = {}, 0
    for _ in range(num_tensors):
        name = _string(stream)
        if (dimensions := _number(stream, "I")) > MOST_DIMENSIONS:
            raise OverflowError(f"a tensor of {dimensions} dimensions")
        tensors[name] = tuple(_number(stream, "Q") for _ in range(dimensions))
        _, begins = _number(stream, "I"), _number(stream, "Q")  # its type, and its weights' place
        last = max(last, begins)
    if stream.tell() + last >= size:
        raise ValueError(f"{stream.name} is cut off: weights are missing")
    return Header(values, tensors)


def _number(stream: BinaryIO, form: str) -> Any:
    (value,) = struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))
    return value


def _string(stream: BinaryIO) -> str:
    length = _number(stream, "Q")
    if length > LONGEST:
        raise OverflowError(f"a text of {length} bytes")
    return stream.read(length).decode()


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(stream)
    if kind == ARRAY:
        return _pass_over(stream, _number(stream, "I"), _number(stream, "Q"))
    return _number(stream, FORMATS[kind])


def _pass_over(stream: BinaryIO, kind: int, count: int) -> None:
    if kind == STRING:
        for _ in range(count):
            _skip(stream, _number(stream, "Q"))
    elif kind == ARRAY:
        for _ in range(count):
            _pass_over(stream, _number(stream, "I"), _number(stream, "Q"))
    else:
        _skip(stream, count * struct.calcsize(f"<{FORMATS[kind]}"))


def _skip(stream: BinaryIO, length: int) -> None:
    if length > LARGEST:
        raise OverflowError(f"a list of {length} bytes")
    stream.seek(length, 1)


def weights_folder(file: Path) -> Path:
    """The model as a Hugging Face folder with float32 safetensors; converted the first time."""
    return cached_folder(_name("model", file), lambda folder: _convert(file, folder))


def tokenizer_folder(file: Path) -> Path:
    """The tokenizer as a Hugging Face folder; converted the first time."""
    return cached_folder(_name("tokenizer", file), lambda folder: _convert_tokenizer(file, folder))


def _name(part: str, file: Path) -> str:
    made_by = [version(library) for library in ("transformers", "gguf")]
    return f"gguf-{part}-{fingerprint([path_identity(file), *made_by])}"


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(str(folder), safe_serialization=True)


def _convert_tokenizer(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer.save_pretrained(str(folder))

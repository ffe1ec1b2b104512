"""GGUF files: read their headers, convert their weights and tokenizers once.

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
"""Type number in the header → `struct` format; strings and arrays have none."""
STRING, ARRAY = 8, 9
LONGEST, LARGEST, MOST_DIMENSIONS = 1 << 26, 1 << 40, 8
"""Most bytes of a string and of an array, most dimensions of a tensor: more are garbage."""
GARBAGE = (struct.error, IndexError, UnicodeDecodeError, OverflowError, RecursionError, OSError)
"""Errors that reading garbage as a header raises."""
NO_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors of the file that are constants of a model, not weights."""


@dataclass(frozen=True)
class Header:
    """The header of a file: all that comes before its weights."""

    values: Mapping[str, Any]
    """Key → number or string; arrays are left out."""
    tensors: Mapping[str, tuple[int, ...]]
    """Tensor → shape, the innermost dimension first."""

    def of_architecture(self, key: str) -> int:
        """Look up a number of the model's architecture; 0 where the header has none."""
        return int(self.values.get(f"{self.values.get('general.architecture')}.{key}", 0))

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return self.of_architecture("block_count")

    @property
    def vocabulary(self) -> int:
        """Number of rows of the embedding."""
        return self.tensors.get("token_embd.weight", (0,))[-1]

    @property
    def weights(self) -> dict[str, int]:
        """Tensor → number of parameters; a layer's tensors are named `blk.<number>.…`."""
        return {k: math.prod(s) for k, s in self.tensors.items() if k not in NO_WEIGHTS}


def read_header(file: Path) -> Header:
    """Read the header of a file.

    Raises:
        ValueError: the file has no header, or an unknown version, or is cut off.
    """
    stat = file.stat()
    return _header(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _header(file: Path, size: int, changed: int) -> Header:
    """Read the header of a file in this state, once for check and plan."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"{file} is not a GGUF file")
        try:
            return _parse_header(stream, size)
        except GARBAGE as error:
            raise ValueError(f"{file} is damaged or cut off ({error})") from error


def _parse_header(stream: BinaryIO, size: int) -> Header:
    """Parse what follows the magic number."""
    version_number = _number(stream, "I")
    if version_number not in (2, 3):
        raise ValueError(f"{stream.name} is of GGUF version {version_number}, 2 and 3 can be read")
    num_tensors, num_values = _number(stream, "Q"), _number(stream, "Q")
    values = {}
    for _ in range(num_values):
        key, kind = _string(stream), _number(stream, "I")
        if kind == ARRAY:
            _skip_array(stream, _number(stream, "I"), _number(stream, "Q"))
        else:
            values[key] = _string(stream) if kind == STRING else _number(stream, FORMATS[kind])
    tensors, last_offset = {}, 0
    for _ in range(num_tensors):
        name = _string(stream)
        if (dimensions := _number(stream, "I")) > MOST_DIMENSIONS:
            raise OverflowError(f"a tensor of {dimensions} dimensions")
        tensors[name] = tuple(_number(stream, "Q") for _ in range(dimensions))
        _, offset = _number(stream, "I"), _number(stream, "Q")  # type, and place of the weights
        last_offset = max(last_offset, offset)
    if stream.tell() + last_offset >= size:
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


def _skip_array(stream: BinaryIO, kind: int, count: int) -> None:
    if kind == STRING:
        for _ in range(count):
            _skip(stream, _number(stream, "Q"))
    elif kind == ARRAY:
        for _ in range(count):
            _skip_array(stream, _number(stream, "I"), _number(stream, "Q"))
    else:
        _skip(stream, count * struct.calcsize(f"<{FORMATS[kind]}"))


def _skip(stream: BinaryIO, length: int) -> None:
    if length > LARGEST:
        raise OverflowError(f"a list of {length} bytes")
    stream.seek(length, 1)


def weights_folder(file: Path) -> Path:
    """Convert the model, if not done yet, to a Hugging Face folder with float32 safetensors."""
    return cached_folder(_cache_name("model", file), lambda folder: _convert(file, folder))


def tokenizer_folder(file: Path) -> Path:
    """Convert the tokenizer, if not done yet, to a Hugging Face folder."""
    return cached_folder(
        _cache_name("tokenizer", file), lambda folder: _convert_tokenizer(file, folder)
    )


def _cache_name(part: str, file: Path) -> str:
    """Name a conversion by its file's content and the versions of the converting libraries."""
    versions = [version(library) for library in ("transformers", "gguf")]
    return f"gguf-{part}-{fingerprint([path_identity(file), *versions])}"


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

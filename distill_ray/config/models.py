"""Where models and tokenizers come from."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.numbers import FreeMapping, Int, PositiveInt

PACKAGE = "pkg://"
"""Begins the place of a file inside an installed Python package."""


def _exactly_one(section: Section, keys: tuple[str, ...]) -> None:
    present = [key for key in keys if getattr(section, key) is not None]
    if len(present) != 1:
        raise ValueError(f"needs exactly one of {', '.join(keys)}, got {present or 'none'}")


class ModelSource(Section):
    """A causal language model: a hub id, a local folder, a GGUF file, or fresh random weights."""

    hub: str | None = None
    """A Hugging Face hub id, such as `org/model`."""
    revision: str = "main"
    """Branch, tag or commit of the hub id."""
    path: str | None = None
    """A local folder with `config.json` and safetensors weights."""
    gguf: str | None = None
    """A GGUF file, or `pkg://package/file.gguf` for one that an installed Python package ships.
    It is dequantised once and kept in the cache, at 4 bytes a parameter."""
    init: FreeMapping | None = None
    """A transformers architecture config with `model_type`; random weights drawn from `seed`."""
    seed: Int = 0
    """Seed of `init` weights."""
    num_hidden_layers: PositiveInt | None = None
    """Keep only this many of the model's transformer layers, the first ones. By default, all."""
    trust_remote_code: bool = False
    """Run code that the model's repository ships. Off unless you set it."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSource:
        _exactly_one(self, ("hub", "path", "gguf", "init"))
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("init needs a model_type, such as llama")
        if self.init is not None and self.num_hidden_layers is not None:
            raise ValueError("num_hidden_layers cuts weights that are there; init has its own")
        return self

    @model_validator(mode="after")
    def _package_form(self) -> ModelSource:
        place = self.gguf or ""
        if place.startswith(PACKAGE) and not re.fullmatch(rf"{PACKAGE}[A-Za-z_]\w*/.+", place):
            raise ValueError(
                f"gguf {place!r} is not of the form {PACKAGE}package/file.gguf, with the package's "
                "import name"
            )
        return self


class TrainedTokenizer(Section):
    """A byte-level BPE tokenizer trained on the train split of this run's corpora."""

    vocab_size: PositiveInt = Field(default=8192, ge=300)
    """Tokens in the vocabulary, the 256 bytes and special tokens included."""
    sample_bytes: PositiveInt = 32_000_000
    """Bytes of text that its training reads."""


class TokenizerSource(Section):
    """The tokenizer, when it isn't the one beside the model's weights."""

    train: TrainedTokenizer | None = None
    """Train one on the corpora."""
    path: str | None = None
    """A local folder."""
    hub: str | None = None
    """A hub id."""

    @model_validator(mode="after")
    def _one_origin(self) -> TokenizerSource:
        _exactly_one(self, ("train", "path", "hub"))
        return self


class StudentConfig(Section):
    """The model to train."""

    model: ModelSource
    tokenizer: TokenizerSource | None = None
    """By default, the one beside the model's weights. `init` models need it."""
    recipes: tuple[str, ...] = ()
    """Names of `adapt.recipes` that prepare the student before it meets a teacher, such as further
    pre-training on the domain's text; the initial student is the last one's best checkpoint."""

    @model_validator(mode="after")
    def _tokenizer_known(self) -> StudentConfig:
        if self.tokenizer is None and self.model.init is not None:
            raise ValueError("an init model has no tokenizer: give tokenizer.train, path or hub")
        return self


class TeacherConfig(Section):
    """A candidate teacher, and how it is prepared for the domain."""

    name: Name
    """Name of the teacher, in results and reports."""
    model: ModelSource
    tokenizer: TokenizerSource | None = None
    """By default, the one beside the weights; for `init` models, the student's."""
    recipes: tuple[str, ...] = ()
    """Names of `adapt.recipes`, applied in order. The last one's checkpoints can teach. Without a
    recipe, the teacher serves as it is."""
    checkpoint: PositiveInt | None = None
    """Which checkpoint of the last recipe serves as this teacher's best, counted from 1. By
    default, the one with the least validation loss. Teachers that differ in nothing else share
    their training, so any checkpoint can be a candidate of its own."""

    @model_validator(mode="after")
    def _checkpoint_is_made(self) -> TeacherConfig:
        if self.checkpoint is not None and not self.recipes:
            raise ValueError("checkpoint counts those of the last recipe, and there is no recipe")
        return self

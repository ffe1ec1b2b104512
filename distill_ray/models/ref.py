"""A model as plain data, so that it can be sent to a worker and loaded there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill_ray.config.models import PACKAGE, ModelSource


@dataclass(frozen=True)
class ModelRef:
    """Describes a model for `models.load`, without weights."""

    kind: str
    """`hub`, `path`, `gguf` or `init`."""
    location: str = ""
    """Hub id, folder, GGUF file (or its place in a package), or URI of an artifact's folder."""
    revision: str = "main"
    init: dict[str, Any] | None = None
    """Architecture config of `init`, with its vocabulary size."""
    seed: int = 0
    layers: int | None = None
    """Number of the model's first layers to keep; None keeps all."""
    trust_remote_code: bool = False
    adapter: str | None = None
    """Folder (or URI) of a peft adapter on top."""
    temperature: float = 1.0
    """As a teacher, its logits are divided by this."""

    @classmethod
    def of(cls, source: ModelSource, tokenizer: Mapping[str, Any] | None = None) -> ModelRef:
        """Make the ref of a config's model.

        Args:
            source: where the model comes from.
            tokenizer: keys of an `init` that the tokenizer decides: `vocab_size` and the ids of
                its special tokens.
        """
        if source.init is not None:
            init = {**(tokenizer or {}), **source.init}
            return cls("init", init=init, seed=source.seed)
        kind = next(k for k in ("hub", "path", "gguf") if getattr(source, k) is not None)
        place = str(getattr(source, kind))
        # Ray's workers have another working directory, and find packages by themselves.
        stays = kind == "hub" or place.startswith(PACKAGE)
        return cls(
            kind,
            place if stays else str(Path(place).absolute()),
            revision=source.revision,
            layers=source.num_hidden_layers,
            trust_remote_code=source.trust_remote_code,
        )

    @property
    def base(self) -> ModelRef:
        """The model below the adapter."""
        return replace(self, adapter=None, temperature=1.0)

    def with_adapter(self, adapter: str) -> ModelRef:
        """Put an adapter on the same base."""
        return replace(self, adapter=adapter)

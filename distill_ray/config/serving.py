"""Where the teacher lives, and what it sends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill_ray.config.base import Section
from distill_ray.config.fingerprint import HOW_COMPUTED, NotInFingerprint
from distill_ray.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class TopKTargets(Section):
    """The teacher's likeliest tokens, and the mass of all others as one."""

    kind: Literal["top_k"] = "top_k"
    k: PositiveInt = 64
    """Tokens to keep of each distribution."""


class SampledTargets(Section):
    """Tokens drawn from the teacher. Unbiased for the forward KL (arXiv 2503.16870)."""

    kind: Literal["samples"] = "samples"
    num_samples: PositiveInt = 64
    """Draws for each token."""


class HiddenTargets(Section):
    """The teacher's last hidden states. Each worker holds its output weights. Exact."""

    kind: Literal["hidden"] = "hidden"


SparseTarget = Annotated[TopKTargets | SampledTargets, Field(discriminator="kind")]
AnyTarget = Annotated[HiddenTargets | TopKTargets | SampledTargets, Field(discriminator="kind")]


class ColocatedServing(Section):
    """The teacher runs in each worker."""

    kind: Literal["colocated"] = "colocated"
    shard: bool = False
    """Shard it over the workers' accelerators (ZeRO-3, no optimiser), if it doesn't fit in each.
    Its output weights stay whole, and each worker's main memory must hold the teacher while it
    loads."""


class PoolServing(Section):
    """The teacher runs in its own processes, on other accelerators, and works ahead."""

    kind: Literal["pool"] = "pool"
    num_actors: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 1
    """Processes that hold the teacher."""
    cpus_per_actor: Annotated[PositiveFloat, NotInFingerprint(HOW_COMPUTED)] = 1.0
    """CPU cores of each."""
    gpus_per_actor: Annotated[NonNegativeFloat, NotInFingerprint(HOW_COMPUTED)] = 0.0
    """GPUs of each; 0 runs the teacher on CPU cores."""
    lookahead: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 2
    """Steps that the pool may be ahead of the student."""
    targets: AnyTarget = HiddenTargets()
    """What the pool sends."""
    num_parity_rows: Annotated[NonNegativeInt, NotInFingerprint(HOW_COMPUTED)] = 1
    """Rows that are compared with a local forward pass before training. 0 skips this if the teacher
    doesn't fit beside the student."""

    @property
    def is_exact(self) -> bool:
        """Whether it sends hidden states, for which each worker has the output weights."""
        return isinstance(self.targets, HiddenTargets)


class CachedServing(Section):
    """The teacher's targets are computed once, beside the shards, and read in every epoch."""

    kind: Literal["cached"] = "cached"
    targets: SparseTarget = TopKTargets()
    """What is stored."""
    num_actors: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 1
    """Processes that compute the targets."""
    rows_per_file: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 256
    """Rows that an interrupted pass can lose, in each process."""


Serving = Annotated[
    ColocatedServing | PoolServing | CachedServing,
    Field(discriminator="kind"),
]

"""Ray Train's trainer, without the actors that have no work in our trainings."""

from __future__ import annotations

from ray.train.torch import TorchTrainer

from distill_ray.runtime.ray_private import WithoutIdleActors


class TorchTrainerWithoutIdleActors(WithoutIdleActors, TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose workers read their rows themselves."""

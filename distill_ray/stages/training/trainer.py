"""Ray Train's trainer, without the actors that have no work in our trainings."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class TorchTrainerWithoutIdleActors(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose workers read their rows themselves.

    Ray starts an actor that deals out datasets also where there are none, and one that frees the
    workers' place should the controller be killed. The latter asks the dashboard, and the end of a
    training waits 12 s for it where there is none; a Ray of our own has none, and ends with us.
    """

    def __init__(self, *arguments: Any, on_cluster: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        cleaner = () if on_cluster else (PlacementGroupCleanerCallback,)
        self._idle = (DatasetsCallback, *cleaner)

    def _create_default_callbacks(self) -> list[Any]:
        return [c for c in super()._create_default_callbacks() if not isinstance(c, self._idle)]

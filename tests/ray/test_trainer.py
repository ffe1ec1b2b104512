"""What Ray Train is spared of."""

from __future__ import annotations

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from distill_ray.stages.training.trainer import TorchTrainerWithoutIdleActors

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


@pytest.mark.parametrize(
    ("on_cluster", "spared"),
    [
        (False, {"DatasetsCallback", "PlacementGroupCleanerCallback"}),
        (True, {"DatasetsCallback"}),
    ],
)
def test_only_actors_without_work_are_left_out(on_cluster: bool, spared: set[str]) -> None:
    one = ScalingConfig(num_workers=1)
    whole = TorchTrainer(print, scaling_config=one)
    lean = TorchTrainerWithoutIdleActors(print, scaling_config=one, on_cluster=on_cluster)
    before, after = (
        [type(c).__name__ for c in trainer._create_default_callbacks()] for trainer in (whole, lean)
    )
    assert spared <= set(before)
    assert after == [name for name in before if name not in spared]

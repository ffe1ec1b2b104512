"""Workers and the actors of a teacher pool are counted together."""

from __future__ import annotations

import pytest

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.serving import PoolServing
from distill_ray.runtime.capacity import capacity_problems


def problems(cpus: float, gpus: float = 0, actors: int = 1, **changes: float) -> list[str]:
    cluster = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}
    pool = {"cpus_per_actor": 1, "gpus_per_actor": 0}
    given = ClusterConfig(**{k: changes.get(k, v) for k, v in cluster.items()})
    asked = PoolServing(num_actors=actors, **{k: changes.get(k, v) for k, v in pool.items()})
    return [str(problem) for problem in capacity_problems(given, cpus, gpus, [asked])]


def test_a_worker_and_an_actor_fit_on_two_processors() -> None:
    assert problems(cpus=2) == []


@pytest.mark.parametrize(
    ("actors", "share"), [(2, 0.5), (10, 0.1)], ids=["halves", "tenths, which add up to 1.0...2"]
)
def test_parts_of_a_processor_add_up(actors: int, share: float) -> None:
    assert problems(cpus=2, actors=actors, cpus_per_actor=share) == []


def test_what_is_beyond_the_machine_is_told_of_both() -> None:
    (problem,) = problems(cpus=4, actors=4)
    assert problem == (
        "distill.serving.num_actors: 1 worker x 1 CPU + 4 actors x 1 CPU = 5 CPUs, the "
        "cluster has 4. The workers leave room for 3."
    )


def test_where_no_actor_fits_the_way_out_is_fewer_workers_or_smaller_shares() -> None:
    (problem,) = problems(cpus=2, num_workers=2)
    assert "2 workers x 1 CPU + 1 actor x 1 CPU = 3 CPUs, the cluster has 2." in problem
    assert problem.endswith("Lower cluster.num_workers or cpus_per_actor.")


def test_accelerators_are_counted_too() -> None:
    (problem,) = problems(cpus=64, gpus=2, gpus_per_worker=1, actors=2, gpus_per_actor=1)
    assert "1 worker x 1 GPU + 2 actors x 1 GPU = 3 GPUs, the cluster has 2." in problem


def test_workers_that_don_t_fit_alone_are_the_problem() -> None:
    (problem,) = problems(cpus=2, num_workers=3)
    assert problem.startswith("cluster.num_workers: 3 workers x 1 CPU = 3 CPUs")

"""A cluster that isn't there. Nothing is started."""

from __future__ import annotations

import pytest
from ray_cluster import free_ports

from distill_ray.config import InputError
from distill_ray.config.cluster import ClusterConfig
from distill_ray.runtime import cluster


@pytest.mark.timeout(60)  # Ray itself tries for minutes.
@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1", "Connection refused"),
        ("[::1]", "Connection refused"),
        ("a..b", "idna"),
        ("nowhere.invalid", "not known|resolution"),
    ],
)
def test_where_nothing_listens_the_error_comes_at_once(host: str, why: str) -> None:
    address = f"{host}:{free_ports(1)[0]}"
    with pytest.raises(InputError, match=why) as error:
        cluster._init(ClusterConfig(address=address))  # Whether or not other tests have a Ray.
    (problem,) = error.value.problems
    assert problem.where == "cluster.address" and address in problem.what

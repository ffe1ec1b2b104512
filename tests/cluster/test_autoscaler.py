"""What Ray's own autoscaler would start for the run, asked of its scheduler; no node is started."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest, ResourceRequestByCount
from ray.core.generated.common_pb2 import LabelSelectorOperator

from distill_ray.config.cluster import ClusterConfig
from distill_ray.runtime.cluster import teacher_nodes

CLUSTER = Path(__file__).parents[2] / "cluster"


def requests(count: int, teacher: bool) -> list[Any]:
    """Workers with a GPU and the shipped config's CPUs, and the selector that our stages give."""
    nodes = teacher_nodes(ClusterConfig(address="auto")) if teacher else None
    selectors = [
        [(key, LabelSelectorOperator.LABEL_OPERATOR_NOT_IN, [value.removeprefix("!")])]
        for key, value in (nodes or {}).items()
    ]
    need = {"CPU": 4, "GPU": 1}
    return [ResourceRequestUtil.make(need, [], selectors or None) for _ in range(count)]


def launched(provider: str, alone: list[Any], gang: list[Any]) -> tuple[Counter[str], int]:
    """Node type → how many would start; and how many demands can never be met."""
    config = prepare_config(yaml.safe_load((CLUSTER / f"{provider}.yaml").read_text()))
    read = AutoscalingConfig(config, skip_content_hash=True)
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=read.get_node_type_configs(),
            max_num_nodes=read.get_max_num_nodes(),
            resource_requests=[ResourceRequestByCount(request=r, count=1) for r in alone],
            gang_resource_requests=[GangResourceRequest(requests=gang)] if gang else [],
        )
    )
    found: Counter[str] = Counter()
    for launch in reply.to_launch:
        found[launch.instance_type] += launch.count
    unmet = reply.infeasible_resource_requests + reply.infeasible_gang_resource_requests
    return found - Counter({"head": 1}), len(unmet)


@pytest.mark.parametrize("provider", ["aws", "gcp"])
@pytest.mark.parametrize(
    ("pool", "workers", "teacher", "nodes"),
    [
        (0, 4, True, {"teacher": 4}),  # adapt, and probes: a teacher in each
        (2, 4, False, {"teacher": 2, "student": 4}),  # distill: a pool beside its workers
        (0, 4, False, {"student": 4}),  # the control
    ],
)
def test_each_stage_gets_nodes_of_its_kind_and_no_more(
    provider: str, pool: int, workers: int, teacher: bool, nodes: dict[str, int]
) -> None:
    found, unmet = launched(provider, requests(pool, teacher=True), requests(workers, teacher))
    assert found == nodes
    assert not unmet


def test_more_than_the_plan_says_is_more_than_the_cluster_may_have() -> None:
    found, unmet = launched("aws", [], requests(5, teacher=True))
    assert not found and unmet == 1


def test_work_without_a_gpu_gets_the_cheaper_node() -> None:
    reading = [ResourceRequestUtil.make({"CPU": 1}, []) for _ in range(4)]
    assert launched("aws", reading, []) == (Counter({"student": 1}), 0)

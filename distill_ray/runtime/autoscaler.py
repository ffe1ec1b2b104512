"""Whether the autoscaler can ever provide what work requests. Used before a run waits for nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from distill_ray.runtime import ray_private

VERDICT_S = 90.0
"""Time for the autoscaler's verdict. It polls every 5 s, unless it is starting a node."""
INFEASIBLE_S = 20.0
"""How long the autoscaler must call a request infeasible: verdicts change as nodes come and go."""
POLL_S = 0.5


def has_autoscaler() -> bool:
    """Whether an autoscaler (Ray's version 2) manages this cluster."""
    return ray_private.has_autoscaler_v2(ray_private.gcs_client(_address()))


def can_provide(bundles: Sequence[Mapping[str, float]], labels: Mapping[str, str] | None) -> bool:
    """Request nodes for all bundles at once, wait for the verdict, and drop the request.

    Ray has a figure for a cluster's largest size (`get_max_resources_from_cluster_config`), but its
    open-source autoscalers never report it (ray-project/ray, pull request 63012). So only a real
    request shows what is infeasible. Nodes that start meanwhile serve the work that comes next.

    Args:
        bundles: resources, each on one node.
        labels: labels that the nodes must have; `!value` excludes a value.

    Returns:
        False also where no verdict comes, since nobody starts nodes then.
    """
    selectors = {"bundle_label_selector": [dict(labels)] * len(bundles)} if labels else {}
    group = placement_group([dict(bundle) for bundle in bundles], **selectors)
    try:
        return _is_feasible(group)
    finally:
        remove_placement_group(group)


def _is_feasible(group: PlacementGroup) -> bool:
    client, name = ray_private.gcs_client(_address()), group.id.hex()
    deadline, request_version, infeasible_since = time.monotonic() + VERDICT_S, None, None
    while time.monotonic() < deadline:
        if group.wait(timeout_seconds=0):
            return True
        status = ray_private.cluster_status(client)
        pending = status.cluster_resource_state.pending_gang_resource_requests
        if request_version is None and _includes(pending, name):
            request_version = status.cluster_resource_state.cluster_resource_state_version
        version = status.autoscaling_state.last_seen_cluster_resource_state_version
        if request_version is not None and version >= request_version:
            if not _includes(status.autoscaling_state.infeasible_gang_resource_requests, name):
                return True
            infeasible_since = infeasible_since or time.monotonic()
            if time.monotonic() - infeasible_since >= INFEASIBLE_S:
                return False
        time.sleep(POLL_S)
    return False


def _includes(requests: Sequence[Any], name: str) -> bool:
    return any(name in request.details for request in requests)


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)

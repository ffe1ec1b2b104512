"""Whether a cluster may ever have what is asked of it, once its autoscaler has started nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

VERDICT_S = 90.0
"""For the autoscaler's verdict; it looks every five seconds, unless it is starting a node."""
SURE_S = 20.0
"""For so long it must be called infeasible: a verdict may pass, as nodes come and go."""
LOOK_S = 0.5


def has_autoscaler() -> bool:
    """Whether an autoscaler (Ray's version 2) cares for this cluster."""
    return bool(is_autoscaler_v2(True, GcsClient(_address())))


def can_provide(bundles: Sequence[Mapping[str, float]], labels: Mapping[str, str] | None) -> bool:
    """Ask the autoscaler for nodes for all bundles at once, and take back what was asked for.

    Ray has a figure for how large a cluster may become (`get_max_resources_from_cluster_config`),
    but its open-source autoscalers never report it (ray-project/ray, pull request 63012): what is
    asked for and called infeasible is all that tells. The nodes that it starts meanwhile are those
    that the work asks for next.

    Args:
        bundles: resources, each to be on one node.
        labels: that the nodes must have; `!value` for one that they must not.

    Returns:
        False too where no verdict comes, as then nobody starts nodes.
    """
    selectors = {"bundle_label_selector": [dict(labels)] * len(bundles)} if labels else {}
    group = placement_group([dict(bundle) for bundle in bundles], **selectors)
    try:
        return _verdict(group)
    finally:
        remove_placement_group(group)


def _verdict(group: PlacementGroup) -> bool:
    client, name = GcsClient(_address()), group.id.hex()
    until, asked_at, refused_at = time.monotonic() + VERDICT_S, None, None
    while time.monotonic() < until:
        if group.wait(timeout_seconds=0):
            return True
        status = _status(client)
        waiting = status.cluster_resource_state.pending_gang_resource_requests
        if asked_at is None and _among(name, waiting):
            asked_at = status.cluster_resource_state.cluster_resource_state_version
        seen = status.autoscaling_state.last_seen_cluster_resource_state_version
        if asked_at is not None and seen >= asked_at:
            if not _among(name, status.autoscaling_state.infeasible_gang_resource_requests):
                return True
            refused_at = refused_at or time.monotonic()
            if time.monotonic() - refused_at >= SURE_S:
                return False
        time.sleep(LOOK_S)
    return False


def _among(name: str, requests: Sequence[Any]) -> bool:
    return any(name in request.details for request in requests)


def _status(client: GcsClient) -> Any:
    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=30))
    return reply


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)

"""JSON Schemas of the cluster files, which allow only the keys that they list.

Ray's own schema leaves open which keys a provider and a node may have, so those are here. KubeRay,
Kueue and Kubernetes are in crds.json, which names its sources.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

STRING = {"type": "string", "minLength": 1}
STRINGS = {"type": "array", "items": STRING, "minItems": 1}
COUNT = {"type": "integer", "minimum": 0}
FREE_MAP = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Make the schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list_of(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": closed(**properties)}


# The parameters of boto3's RunInstances that a cluster may need, and Ray's own `SubnetIds`.
_EBS = closed(
    VolumeSize=COUNT,
    VolumeType={"enum": ["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"]},
    Encrypted={"type": "boolean"},
    DeleteOnTermination={"type": "boolean"},
    Iops=COUNT,
    Throughput=COUNT,
    KmsKeyId=STRING,
    SnapshotId=STRING,
)
AWS_NODE = closed(
    ("InstanceType", "ImageId", "SubnetIds", "SecurityGroupIds", "MetadataOptions"),
    InstanceType=STRING,
    ImageId=STRING,
    KeyName=STRING,
    SubnetIds=STRINGS,
    SecurityGroupIds=STRINGS,
    IamInstanceProfile=closed(Name=STRING, Arn=STRING),
    MetadataOptions=closed(
        ("HttpTokens",),
        HttpTokens={"const": "required"},
        HttpPutResponseHopLimit=COUNT,
        HttpEndpoint={"enum": ["enabled", "disabled"]},
        InstanceMetadataTags={"enum": ["enabled", "disabled"]},
    ),
    InstanceMarketOptions=closed(
        ("MarketType",),
        MarketType={"enum": ["spot", "capacity-block"]},
        SpotOptions=closed(
            SpotInstanceType={"const": "one-time"},
            InstanceInterruptionBehavior={"const": "terminate"},
            MaxPrice=STRING,
        ),
    ),
    BlockDeviceMappings=_list_of(DeviceName=STRING, Ebs=_EBS, VirtualName=STRING),
    EbsOptimized={"type": "boolean"},
    Monitoring=closed(Enabled={"type": "boolean"}),
    Placement=closed(AvailabilityZone=STRING, GroupName=STRING, Tenancy=STRING),
    TagSpecifications=_list_of(ResourceType=STRING, Tags=_list_of(Key=STRING, Value=STRING)),
    UserData=STRING,
)
# The fields of an instance in the Compute Engine API v1 that a cluster may need.
GCP_NODE = closed(
    ("machineType", "networkInterfaces", "disks"),
    machineType=STRING,
    tags=closed(items=STRINGS),
    labels=FREE_MAP,
    networkInterfaces=_list_of(subnetwork=STRING, network=STRING, nicType=STRING),
    scheduling=_list_of(
        preemptible={"type": "boolean"},
        onHostMaintenance={"enum": ["TERMINATE", "MIGRATE"]},
        automaticRestart={"type": "boolean"},
        provisioningModel={"enum": ["SPOT", "STANDARD"]},
        instanceTerminationAction={"enum": ["DELETE", "STOP"]},
    ),
    serviceAccounts=_list_of(email=STRING, scopes=STRINGS),
    guestAccelerators=_list_of(acceleratorType=STRING, acceleratorCount=COUNT),
    shieldedInstanceConfig=closed(
        enableSecureBoot={"type": "boolean"},
        enableVtpm={"type": "boolean"},
        enableIntegrityMonitoring={"type": "boolean"},
    ),
    metadata=closed(items=_list_of(key=STRING, value=STRING)),
    disks=_list_of(
        boot={"type": "boolean"},
        autoDelete={"type": "boolean"},
        type={"enum": ["PERSISTENT", "SCRATCH"]},
        interface={"enum": ["NVME", "SCSI"]},
        initializeParams=closed(diskSizeGb=COUNT, diskType=STRING, sourceImage=STRING),
    ),
)
_COMMON = {"type": STRING, "region": STRING, "availability_zone": STRING}
_COMMON |= {"use_internal_ips": {"const": True}, "cache_stopped_nodes": {"const": False}}
PROVIDERS = {
    "aws": closed(("type", "region", "use_internal_ips", "cache_stopped_nodes"), **_COMMON),
    "gcp": closed(
        ("type", "region", "project_id", "use_internal_ips"), **_COMMON, project_id=STRING
    ),
}
"""Provider → schema of its section: no public addresses, no security group made by Ray."""
NODES = {"aws": AWS_NODE, "gcp": GCP_NODE}
"""Provider → schema of a node type's `node_config`."""
RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")

METADATA = closed(("name",), name=STRING, namespace=STRING, labels=FREE_MAP, annotations=FREE_MAP)
GPU = "nvidia.com/gpu"
POD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
"""Resources that a pod may request by a name without a `/`."""


@cache
def kinds() -> dict[str, dict[str, Any]]:
    """Load the schemas of Kubernetes objects, by `apiVersion kind`."""
    text = (files("distill_ray.cluster") / "crds.json").read_text(encoding="utf-8")
    loaded = _strict(json.loads(text))
    return {
        name: {
            **closed(
                ("apiVersion", "kind", "metadata", "spec"),
                apiVersion=STRING,
                kind=STRING,
                metadata=METADATA,
                spec=spec,
            ),
            "definitions": loaded["definitions"],
        }
        for name, spec in loaded["kinds"].items()
    }


def _strict(node: Any) -> Any:
    """Tighten a schema, so that objects that list their keys may have no others."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: _strict(value) for key, value in node.items()}
    lists_keys = node.get("type") == "object" and isinstance(node.get("properties"), dict)
    if lists_keys and not node.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if node.get("type") == "object" and set(node) <= {"type", "description"}:
        schema["$comment"] = "metadata of a template"
        schema |= {**METADATA, "required": []}
    return schema

"""A run's plan, filled into the cluster files: Ray's launcher on a cloud, KubeRay on Kubernetes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from distill_ray import __version__
from distill_ray.cluster.machines import RESERVE, Machine, choose
from distill_ray.cluster.needs import STUDENT, Group, groups
from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.run import RunConfig
from distill_ray.config.uris import local_path
from distill_ray.core.memory import GIB
from distill_ray.models.inspect import check_model
from distill_ray.stages.preflight.plan import largest_teacher, plan
from distill_ray.stages.reporting.render import render as fill_in

RAY = version("ray")
IMAGE = f"<registry>/distill-ray:{__version__}-ray{RAY}"
FILLS: dict[str, dict[str, str]] = {
    "aws": {
        "region": "us-west-2",
        "zones": "us-west-2a,us-west-2b,us-west-2c",
        "image": IMAGE,
        "ami": "<ami>",
        "subnet": "<private-subnet>",
        "security_group": "<security-group>",
        "head_profile": "<head-instance-profile>",
        "worker_profile": "<worker-instance-profile>",
    },
    "gcp": {
        "region": "us-central1",
        "zone": "us-central1-a",
        "project": "<project>",
        "image": IMAGE,
        "disk_image": "<disk-image>",
        "subnet": "<private-subnet>",
        "worker_account": "<worker-service-account>",
    },
    "kuberay": {"image": IMAGE, "service_account": "distill-ray", "namespace": "default"},
}
"""Provider → values that a plan can't know → default; `<...>` is for the user to fill in."""
KUBERAY = ("raycluster", "rayjob", "kueue", "network")
DISK_GIB = 150
"""Disk space for the system, the image and Ray's spilled objects."""
HEAD_POD = {"cpus": 5.0, "memory_gib": 18, "disk_gib": 50}
"""Requests of head and submitter, for Kueue's quota."""


@dataclass(frozen=True)
class Nodes:
    """The equal nodes of one group."""

    hosts: str
    nodes: int
    machine: Machine
    gpu_mib: int
    """Memory that each GPU must have at least."""
    disk_gib: int
    priority: int
    why: str

    @property
    def cache_gib(self) -> int:
        """Disk space for weights, beside the system's and Ray's."""
        return self.disk_gib - 100

    @property
    def requests(self) -> str:
        """Resource requests of a pod on such a node, as YAML."""
        requested = {
            "cpu": str(self.machine.cpus),
            "memory": f"{self.machine.memory_gib}Gi",
            "ephemeral-storage": f"{self.disk_gib}Gi",
            "nvidia.com/gpu": str(self.machine.gpus),
        }
        return (
            "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in requested.items()) + "}"
        )


def render(
    provider: str, cfg: RunConfig, config: str, fills: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Render the cluster files of one provider.

    Args:
        provider: a key of FILLS.
        cfg: the run.
        config: its file, as the cluster's image has it.
        fills: values that the plan can't know, by the names of FILLS.

    Returns:
        path below the folder → text.

    Raises:
        InputError: a model can't be used or its memory isn't known, no machine fits, the storage
            is one node's own, or a fill has an unknown name.
    """
    filled = _filled(provider, fills or {})
    # The sizes of models on this machine are read, so they must be sound.
    models = {f"teachers.{i}.model": teacher.model for i, teacher in enumerate(cfg.teachers)}
    models["student.model"] = cfg.student.model
    problems = [p for where, model in models.items() for p in check_model(model, where)]
    if not problems and local_path(cfg.storage) is not None:
        what = f"{cfg.storage!r} may be one node's own folder, and nodes come and go."
        fix = "Give a URI that all nodes reach: --storage s3://bucket/runs, or gs://bucket/runs."
        problems = [Problem("storage", what, fix)]
    if problems:
        raise InputError("no cluster can be rendered:", problems)
    nodes = _nodes(provider, cfg)
    context: dict[str, Any] = {
        "name": "distill-ray",
        "config": config,
        "command": (
            f"distill-ray cluster render --provider {provider} {config} --storage {cfg.storage}"
        ),
        "fill": filled,
        "registry": filled["image"].partition("/")[0],
        "storage": cfg.storage,
        "groups": nodes,
        "nodes": sum(group.nodes for group in nodes),
        "ray": RAY,
    }
    if provider != "kuberay":
        return {f"{provider}.yaml": fill_in(f"cluster/{provider}.yaml.j2", context)}
    command = ["distill-ray", "run", config, "--storage", cfg.storage, "--set"]
    context["entrypoint"] = " ".join([*command, "cluster.address=auto"])
    context["quota"] = _quota(nodes)
    return {f"kuberay/{kind}.yaml": _kuberay(kind, context) for kind in KUBERAY}


def _kuberay(kind: str, context: Mapping[str, Any]) -> str:
    """Render one of KubeRay's files."""
    parts = {**context, "autoscaling": kind != "kueue"}
    parts["spec"] = fill_in("cluster/cluster_spec.yaml.j2", parts).rstrip()
    parts["job"] = fill_in("cluster/job_spec.yaml.j2", parts).rstrip()
    return fill_in(f"cluster/{kind}.yaml.j2", parts)


def _filled(provider: str, fills: Mapping[str, str]) -> dict[str, str]:
    """The provider's defaults, replaced by the user's values."""
    known = FILLS[provider]
    wrong = [name for name in fills if name not in known]
    if wrong:
        problems = [
            Problem(f"--fill {name}", f"{provider} has no such place.", did_you_mean(name, known))
            for name in wrong
        ]
        raise InputError("a flag can't be used:", problems)
    return {**known, **fills}


def _nodes(provider: str, cfg: RunConfig) -> list[Nodes]:
    """Choose a machine for each group; one group for all if they would have the same."""
    run_plan = plan(cfg)
    # Beside the system's, space for the weights of every teacher in float32, in steps of 50.
    teacher = largest_teacher(cfg)
    weights = len(cfg.teachers) * 4 * teacher.parameters / GIB if teacher is not None else 0.0
    disk_gib = math.ceil((DISK_GIB + weights) / 50) * 50
    nodes = [_nodes_of(provider, group, disk_gib) for group in groups(cfg, run_plan)]
    if len({group.machine for group in nodes}) == len(nodes):
        return nodes
    return [_nodes_of(provider, group, disk_gib) for group in groups(cfg, run_plan, apart=False)]


def _nodes_of(provider: str, group: Group, disk_gib: int) -> Nodes:
    if provider == "kuberay":
        # A pod of one worker fits on any node with such GPUs.
        gib = math.ceil(group.gpu_gib / RESERVE)
        cpus = math.ceil(group.cpus_per_gpu * group.gpus_per_worker) + 1
        machine = Machine("pod", group.gpus_per_worker, "GPU", gib, cpus, 2 * max(16, gib))
    else:
        machine = choose(
            provider,
            group.gpu_gib,
            group.gpus_per_worker,
            group.cpus_per_gpu,
            bfloat16=group.bfloat16,
        )
    return Nodes(
        group.hosts,
        nodes=math.ceil(group.gpus / machine.gpus),
        machine=machine,
        gpu_mib=math.ceil(group.gpu_gib / RESERVE * 1024),
        disk_gib=disk_gib,
        priority=1 if group.hosts == STUDENT else 0,
        why=f"the plan uses {group.gpu_gib:.1f} GiB of each, in {', '.join(group.stages)}",
    )


def _quota(nodes: Sequence[Nodes]) -> dict[str, int]:
    """Sum the requests of all pods, for Kueue."""

    def total(resource: str) -> int:
        return sum(group.nodes * int(getattr(group.machine, resource)) for group in nodes)

    disk = sum(group.nodes * group.disk_gib for group in nodes)
    return {
        "cpus": math.ceil(total("cpus") + HEAD_POD["cpus"]),
        "memory_gib": math.ceil(total("memory_gib") + HEAD_POD["memory_gib"]),
        "disk_gib": math.ceil(disk + HEAD_POD["disk_gib"]),
        "gpus": total("gpus"),
    }

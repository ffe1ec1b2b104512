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
"""Provider → what a plan can't know → its default; `<...>` is for the user to fill in."""
KUBERAY = ("raycluster", "rayjob", "kueue", "network")
DISK_GIB = 150
"""The system, the image and Ray's spilled objects."""
HEAD_POD = {"cpus": 5.0, "memory_gib": 18, "disk_gib": 50}
"""What head and submitter ask for, for Kueue's quota."""


@dataclass(frozen=True)
class Nodes:
    """Equal nodes of one group."""

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
        """Room for weights: what the system and Ray leave."""
        return self.disk_gib - 100

    @property
    def requests(self) -> str:
        """What a pod of it asks for, as YAML."""
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
    """The cluster files of one provider.

    Args:
        provider: a key of FILLS.
        cfg: the run.
        config: its file, as the cluster's image has it.
        fills: what the plan can't know, by the names of FILLS.

    Returns:
        path below the folder → text.

    Raises:
        InputError: a model can't be used or its memory isn't known, no machine fits, the storage
            is one node's own, or a fill has a name that there isn't.
    """
    filled = _filled(provider, fills or {})
    _require_models(cfg)
    _require_shared(cfg.storage)
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
    return {f"kuberay/{kind}.yaml": _kuberay(kind, context, nodes) for kind in KUBERAY}


def _kuberay(kind: str, context: Mapping[str, Any], nodes: Sequence[Nodes]) -> str:
    parts = {**context, "autoscaling": kind != "kueue", "quota": _quota(nodes)}
    parts["spec"] = fill_in("cluster/cluster_spec.yaml.j2", parts).rstrip()
    parts["job"] = fill_in("cluster/job_spec.yaml.j2", parts).rstrip()
    return fill_in(f"cluster/{kind}.yaml.j2", parts)


def _filled(provider: str, fills: Mapping[str, str]) -> dict[str, str]:
    known = FILLS[provider]
    wrong = [name for name in fills if name not in known]
    if wrong:
        problems = [
            Problem(f"--fill {name}", f"{provider} has no such place.", did_you_mean(name, known))
            for name in wrong
        ]
        raise InputError("a flag can't be used:", problems)
    return {**known, **fills}


def _require_models(cfg: RunConfig) -> None:
    """Those on this machine are sound: their sizes are read."""
    sources = {f"teachers.{i}.model": teacher.model for i, teacher in enumerate(cfg.teachers)}
    sources["student.model"] = cfg.student.model
    problems = [p for where, source in sources.items() for p in check_model(source, where)]
    if problems:
        raise InputError("no cluster can be rendered:", problems)


def _require_shared(storage: str) -> None:
    if "://" not in storage or storage.startswith("file://"):
        what = f"{storage!r} may be one node's own folder, and nodes come and go."
        fix = "Give a URI that all nodes reach: --storage s3://bucket/runs, or gs://bucket/runs."
        raise InputError("no cluster can be rendered:", [Problem("storage", what, fix)])


def _nodes(provider: str, cfg: RunConfig) -> list[Nodes]:
    """A machine for each group; one kind for all where the student's would be the same."""
    run_plan, disk_gib = plan(cfg), _disk_gib(cfg)
    nodes = [_nodes_of(provider, group, disk_gib) for group in groups(cfg, run_plan)]
    if len({group.machine for group in nodes}) == len(nodes):
        return nodes
    return [_nodes_of(provider, group, disk_gib) for group in groups(cfg, run_plan, apart=False)]


def _nodes_of(provider: str, group: Group, disk_gib: int) -> Nodes:
    if provider == "kuberay":
        machine = _pod(group)
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


def _pod(group: Group) -> Machine:
    """What a pod of one worker asks for: any node with such GPUs will do."""
    gib = math.ceil(group.gpu_gib / RESERVE)
    cpus = math.ceil(group.cpus_per_gpu * group.gpus_per_worker) + 1
    return Machine("pod", group.gpus_per_worker, "GPU", gib, cpus, 2 * max(16, gib))


def _disk_gib(cfg: RunConfig) -> int:
    """Room for the weights of every teacher in float32 beside the system's, in steps of 50."""
    teacher = largest_teacher(cfg)
    weights = len(cfg.teachers) * 4 * teacher.parameters / GIB if teacher is not None else 0.0
    return math.ceil((DISK_GIB + weights) / 50) * 50


def _quota(nodes: Sequence[Nodes]) -> dict[str, int]:
    def total(resource: str) -> int:
        return sum(group.nodes * int(getattr(group.machine, resource)) for group in nodes)

    disk = sum(group.nodes * group.disk_gib for group in nodes)
    return {
        "cpus": math.ceil(total("cpus") + HEAD_POD["cpus"]),
        "memory_gib": math.ceil(total("memory_gib") + HEAD_POD["memory_gib"]),
        "disk_gib": math.ceil(disk + HEAD_POD["disk_gib"]),
        "gpus": total("gpus"),
    }

"""The shipped cluster files: what render makes, valid, closed to the world, and without a typo."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from distill_ray.cluster.render import render
from distill_ray.cluster.schemas import kinds
from distill_ray.cluster.validate import document_problems, validate
from distill_ray.config import RunConfig, load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = ["aws.yaml", "gcp.yaml"]
FILES += [f"kuberay/{kind}.yaml" for kind in ("raycluster", "rayjob", "kueue", "network")]
STORAGE = {"gcp": "gs://your-bucket/runs"}
OWN_NAMES = {"labels", "matchLabels", "annotations", "file_mounts", "metadata.storage"}
"""Below these, a key is a name of the user's choice."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def launchers() -> Iterator[dict[str, Any]]:
    for name in ("aws.yaml", "gcp.yaml"):
        yield from documents(name)


def workers(config: dict[str, Any]) -> dict[str, Any]:
    types = config["available_node_types"]
    return {name: node for name, node in types.items() if name != config["head_node_type"]}


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec below a document."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


def ray_clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in FILES:
        for document in documents(name):
            if document.get("kind") in ("RayCluster", "RayJob"):
                yield name, document["spec"].get("rayClusterSpec", document["spec"])


def pinned(package: str) -> str:
    found = re.search(
        rf'"{package}(?:\[[a-z,]+\])?==([\d.]+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert found is not None
    return found[1]


@pytest.mark.parametrize("provider", ["aws", "gcp", "kuberay"])
def test_the_shipped_files_are_what_render_makes(provider: str, cloud: RunConfig) -> None:
    storage = STORAGE.get(provider, cloud.storage)
    made = render(provider, cloud.model_copy(update={"storage": storage}), "configs/cloud.yaml")
    assert made == {name: (CLUSTER / name).read_text() for name in made}
    shipped = {str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*.yaml")}
    assert set(made) <= shipped == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_valid(name: str) -> None:
    found = validate(CLUSTER / name)
    assert len(found.objects) == len(documents(name))
    assert ("<registry>" in found.open_places) == (name != "kuberay/network.yaml")


@pytest.mark.heavy
@pytest.mark.parametrize("name", FILES)
def test_a_misspelt_key_is_refused_wherever_it_stands(name: str) -> None:
    tried, missed = set(), []
    for document in documents(name):
        for path in key_paths(document):
            pattern = tuple("*" if isinstance(part, int) else part for part in path)
            if (document.get("kind"), pattern) in tried:
                continue
            tried.add((document.get("kind"), pattern))
            if not list(document_problems(misspelt(document, path))):
                missed.append(".".join(map(str, pattern)))
    assert not missed
    assert len(tried) > 5


def test_the_schemas_are_sound_and_leave_no_key_open() -> None:
    for name, schema in kinds().items():
        Draft7Validator.check_schema(schema)
        listed = [n for n in objects(schema) if n.get("type") == "object" and n.get("properties")]
        assert listed, name
        assert all(node["additionalProperties"] is False for node in listed)


def objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list):
            yield from objects(value)


def key_paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key that means something to a cloud, to Ray or to Kubernetes."""
    names = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in names:
        here = (*path, key)
        own = (path and path[-1] in OWN_NAMES) or ".".join(map(str, here)) in OWN_NAMES
        node_type = path == ("available_node_types",)
        if isinstance(key, str) and not own and not node_type:
            yield here
        if isinstance(value, dict | list) and not own:
            yield from key_paths(value, here)


def misspelt(document: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """The document with two letters of that key in the wrong order, or one too many."""
    wrong = copy.deepcopy(document)
    place: Any = wrong
    for part in path[:-1]:
        place = place[part]
    key = path[-1]
    swapped = key[:-2] + key[-1] + key[-2]
    name = swapped if swapped != key else key + key[-1]
    items = [(name if k == key else k, v) for k, v in place.items()]
    place.clear()
    place.update(items)
    return wrong


def test_all_versions_are_the_pinned_ones() -> None:
    ray = pinned("ray")
    for _, spec in ray_clusters():
        assert spec["rayVersion"] == ray
    texts = {name: (CLUSTER / name).read_text() for name in FILES if "network" not in name}
    for name, text in texts.items():
        images = set(re.findall(r"<registry>/distill-ray:[\w.-]+", text))
        assert len(images) == 1 and images.pop().endswith(f"-ray{ray}"), name


def test_a_head_is_on_demand_and_works_for_ray_alone() -> None:
    for config in launchers():
        head = config["available_node_types"][config["head_node_type"]]
        assert head["resources"] == {"CPU": 0, "GPU": 0} and head["max_workers"] == 0
        assert not {"InstanceMarketOptions", "scheduling"} & set(head["node_config"])
        assert any("--num-cpus=0" in command for command in config["head_start_ray_commands"])
    for _, spec in ray_clusters():
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        affinity = spec["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        assert "SPOT" in str(affinity["requiredDuringSchedulingIgnoredDuringExecution"])


def test_workers_are_spot_nodes_that_come_and_go() -> None:
    for config in launchers():
        assert (
            sum(node["max_workers"] for node in workers(config).values()) == config["max_workers"]
        )
        for name, node in workers(config).items():
            assert node["min_workers"] == 0 and node["idle_timeout_s"] > 0
            assert node["labels"] == {"distill-ray/hosts": name, "distill-ray/market": "spot"}
            assert re.fullmatch(r"--shm-size=\d+g", node["docker"]["worker_run_options"][0])
            machine = node["node_config"]
            spot = machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
            assert spot or {"preemptible": True} in machine["scheduling"]
        watch = f"distill-ray cluster watch --provider {config['provider']['type']}"
        assert any(watch in command for command in config["worker_start_ray_commands"])
        assert not any("watch" in command for command in config["head_start_ray_commands"])


def test_pods_come_and_go_by_the_second_autoscaler() -> None:
    scaling = [spec for name, spec in ray_clusters() if "kueue" not in name]
    assert len(scaling) == 2
    for spec in scaling:
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        # The second version takes a pod that restarts for a node that it has lost.
        assert {pod["restartPolicy"] for pod in pods(spec)} == {"Never"}
        for group in spec["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
            assert group["idleTimeoutSeconds"] > 0
            keys = {rule["key"] for rule in group["template"]["spec"]["tolerations"]}
            assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= keys


def test_a_pod_that_is_stopped_drains_its_node_within_its_grace() -> None:
    for _, spec in ray_clusters():
        for group in spec["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert command[:3] == ["distill-ray", "cluster", "drain"]
            assert (
                int(command[command.index("--seconds") + 1]) < pod["terminationGracePeriodSeconds"]
            )


def test_pods_have_shared_memory_room_and_requests() -> None:
    for _, spec in ray_clusters():
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
            mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
            shared, asked = mounts["/dev/shm"], container["resources"]
            assert shared["medium"] == "Memory" and asked["requests"] == asked["limits"]
            assert gib(shared["sizeLimit"]) < gib(asked["requests"]["memory"])
            disks = sum(gib(v["sizeLimit"]) for v in volumes.values() if "medium" not in v)
            assert disks <= gib(asked["requests"]["ephemeral-storage"])


def gib(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity[:-2])


def test_nothing_is_open_to_the_world() -> None:
    for config in launchers():
        text = yaml.safe_dump(config)
        assert "0.0.0.0" not in text and "accessConfigs" not in text
        assert config["provider"]["use_internal_ips"] is True
        # Without groups of its own on every type, Ray makes one that lets the world try port 22.
        if config["provider"]["type"] == "aws":
            types = config["available_node_types"].values()
            assert all(node["node_config"]["SecurityGroupIds"] for node in types)
            assert all(
                node["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for node in types
            )
        assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        starts = [c for c in config["head_start_ray_commands"] if "ray start" in c]
        assert all("--dashboard-host=127.0.0.1" in start for start in starts)
    for name, spec in ray_clusters():
        assert spec["authOptions"] == {"mode": "token"}, name
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert not spec["headGroupSpec"].get("enableIngress")


def test_no_pod_is_root_or_can_become_it() -> None:
    found = [pod for name in FILES for document in documents(name) for pod in pods(document)]
    assert len(found) >= 9
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_no_file_holds_a_secret() -> None:
    for path in [*CLUSTER.rglob("*.*"), CLUSTER / "Dockerfile"]:
        text = path.read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z]{20,}", text)
        assert "RAY_AUTH_TOKEN=" not in text, path


def test_the_autoscaler_of_ray_reads_the_node_types() -> None:
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    for config in launchers():
        read = AutoscalingConfig(prepare_config(config), skip_content_hash=True)
        types = read.get_node_type_configs()
        assert types["student"].priority > types["teacher"].priority
        assert types["teacher"].labels["distill-ray/hosts"] == "teacher"
        assert types["teacher"].idle_timeout_s == 600
        assert types["teacher"].max_worker_nodes == 4


def test_kueue_gets_a_job_of_fixed_size_with_exactly_its_quota() -> None:
    flavor, queue, local, job = documents("kuberay/kueue.yaml")
    spec = job["spec"]
    # What Kueue's webhook for RayJobs refuses otherwise.
    assert spec["suspend"] is True and spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert "enableInTreeAutoscaling" not in cluster and "autoscalerOptions" not in cluster
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    assert [f["name"] for f in group["flavors"]] == [flavor["metadata"]["name"]]
    quota = {r["name"]: r["nominalQuota"] for r in group["flavors"][0]["resources"]}
    assert list(quota) == group["coveredResources"]
    asked = {"nvidia.com/gpu": 0, "memory": 0}
    for workers_ in cluster["workerGroupSpecs"]:
        assert workers_["replicas"] == workers_["minReplicas"] == workers_["maxReplicas"]
        requests = workers_["template"]["spec"]["containers"][0]["resources"]["requests"]
        asked["nvidia.com/gpu"] += workers_["replicas"] * int(requests["nvidia.com/gpu"])
        asked["memory"] += workers_["replicas"] * gib(requests["memory"])
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    submitter = spec["submitterPodTemplate"]["spec"]["containers"][0]["resources"]["requests"]
    assert int(quota["nvidia.com/gpu"]) == asked["nvidia.com/gpu"]
    rest = gib(quota["memory"]) - asked["memory"] - gib(head["memory"]) - gib(submitter["memory"])
    assert 0 <= rest <= 1


def test_a_cluster_s_name_leaves_room_for_what_kuberay_appends() -> None:
    for name in FILES[2:]:
        for document in documents(name):
            if document["kind"] in ("RayCluster", "RayJob"):
                assert len(document["metadata"]["name"]) <= 47


def test_the_job_runs_a_config_that_is_there_on_the_cluster_it_is_in() -> None:
    (job,) = documents("kuberay/rayjob.yaml")
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["distill-ray", "run"] and "cluster.address=auto" in words
    assert load_config(ROOT / words[2]).cluster.address == "auto"
    assert job["spec"]["entrypointNumCpus"] == 0, "on the head, which has none"


def test_the_network_lets_in_the_cluster_and_its_operator_alone() -> None:
    (policy,) = documents("kuberay/network.yaml")
    part = {"app.kubernetes.io/part-of": "distill-ray"}
    assert policy["spec"]["podSelector"]["matchLabels"] == part
    own, operator = policy["spec"]["ingress"]
    assert own["from"] == [{"podSelector": {"matchLabels": part}}]
    assert (
        operator["from"][0]["podSelector"]["matchLabels"] and operator["ports"][0]["port"] == 8265
    )
    for _, spec in ray_clusters():
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            assert part.items() <= group["template"]["metadata"]["labels"].items()

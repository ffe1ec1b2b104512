"""From a plan to machines: how many GPUs, of how much memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import config

from distill_ray.cluster.machines import MACHINES, RESERVE, choose
from distill_ray.cluster.needs import Group, groups
from distill_ray.cluster.render import render
from distill_ray.config import InputError, RunConfig
from distill_ray.config.models import ModelSource, StudentConfig
from distill_ray.config.serving import CachedServing, ColocatedServing, PoolServing
from distill_ray.core.memory import GIB
from distill_ray.stages.preflight.plan import plan

MISSING = StudentConfig(model=ModelSource(path="nowhere"))


def with_cluster(cfg: RunConfig, **changes: Any) -> RunConfig:
    return cfg.model_copy(update={"cluster": cfg.cluster.model_copy(update=changes)})


def with_serving(cfg: RunConfig, serving: Any) -> RunConfig:
    distill = cfg.distill.model_copy(update={"serving": serving})
    return cfg.model_copy(update={"distill": distill})


def asked(cfg: RunConfig) -> list[Group]:
    return groups(cfg, plan(cfg))


def types(cfg: RunConfig, provider: str = "aws") -> dict[str, Any]:
    made = yaml.safe_load(render(provider, cfg, "run.yaml")[f"{provider}.yaml"])
    return {k: v for k, v in made["available_node_types"].items() if k != "head"}


def needs_gib(cfg: RunConfig, stage: str) -> float:
    totals = [w.need.total for w in plan(cfg).work if w.stage == stage and w.need is not None]
    return max(totals) / GIB


def test_the_student_of_a_pool_needs_gpus_of_its_own_size(cloud: RunConfig) -> None:
    teacher, student = asked(cloud)
    assert (teacher.hosts, student.hosts) == ("teacher", "student")
    assert teacher.gpus == student.gpus == 4
    assert teacher.gpu_gib == pytest.approx(needs_gib(cloud, "adapt"))
    control = next(w for w in plan(cloud).work if w.what == "control without a teacher")
    assert control.need is not None
    assert student.gpu_gib == pytest.approx(control.need.total / GIB)
    assert set(types(cloud)) == {"teacher", "student"}


def test_a_teacher_in_each_worker_needs_one_size_for_all(cloud: RunConfig) -> None:
    (group,) = asked(with_serving(cloud, ColocatedServing()))
    assert group.hosts == "teacher" and group.gpus == 4
    assert set(group.stages) == {"adapt", "probe", "distill"}


def test_teachers_are_counted_apart_and_a_stage_at_a_time(cloud: RunConfig) -> None:
    pool = cloud.distill.serving.model_copy(update={"num_actors": 6})
    assert [group.gpus for group in asked(with_serving(cloud, pool))] == [6, 4]
    cached = with_serving(cloud, CachedServing(num_actors=5))
    assert [group.gpus for group in asked(cached)] == [5, 4]
    assert [group.gpus for group in asked(with_cluster(cached, num_workers=8))] == [8, 8]


def test_probes_side_by_side_count(cloud: RunConfig) -> None:
    probe = cloud.probe.model_copy(update={"max_concurrent_trials": 5})
    assert asked(cloud.model_copy(update={"probe": probe}))[0].gpus == 5
    # Two teachers with three seeds are six trials: no more can be at work.
    probe = cloud.probe.model_copy(update={"max_concurrent_trials": 50})
    assert asked(cloud.model_copy(update={"probe": probe}))[0].gpus == 6


def test_workers_that_share_a_gpu_share_its_memory(cloud: RunConfig) -> None:
    alone, shared = asked(cloud)[1], asked(with_cluster(cloud, gpus_per_worker=0.5))[1]
    assert (alone.gpus, shared.gpus) == (4, 2)
    assert shared.gpu_gib == pytest.approx(2 * alone.gpu_gib)
    assert shared.cpus_per_gpu == 2 * alone.cpus_per_gpu


def test_where_one_size_fits_both_there_is_one_kind_for_both_at_a_time(cloud: RunConfig) -> None:
    pool = with_cluster(cloud, memory_gib_per_worker=60.0)
    recipe = pool.adapt.recipes["domain"].model_copy(update={"micro_batch_size": 1})
    small = cloud.student.model
    cfg = pool.model_copy(
        update={
            "adapt": pool.adapt.model_copy(update={"recipes": {"domain": recipe}}),
            "teachers": tuple(t.model_copy(update={"model": small}) for t in pool.teachers),
        }
    )
    assert [group.gpus for group in asked(cfg)] == [4, 4]
    (only,) = types(cfg).values()
    assert only["labels"]["distill-ray/hosts"] == "teacher"
    assert only["max_workers"] == 6, "four workers, and a pool of two beside them"


def test_a_machine_holds_what_the_plan_says(cloud: RunConfig) -> None:
    for provider in MACHINES:
        by_name = {machine.name: machine for machine in MACHINES[provider]}
        for group, node in zip(asked(cloud), types(cloud, provider).values()):
            machine = node["node_config"]
            chosen = by_name[machine.get("InstanceType") or machine["machineType"]]
            assert chosen.gpu_gib * RESERVE >= group.gpu_gib
            assert node["resources"] == {"CPU": chosen.cpus, "GPU": chosen.gpus}
            assert node["max_workers"] * chosen.gpus >= group.gpus
            assert (node["max_workers"] - 1) * chosen.gpus < group.gpus


def test_machines_stand_in_the_order_in_which_they_are_tried() -> None:
    for machines in MACHINES.values():
        sizes = [(machine.gpu_gib, machine.gpus) for machine in machines]
        assert sizes == sorted(sizes)
    assert choose("aws", 10, 1, 4).gpu == "T4"
    assert choose("aws", 10, 1, 4, bfloat16=True).gpu == "L4", "a T4 has no bfloat16"
    assert choose("aws", 10, 2, 4).gpus == 4, "one worker's GPUs are in one machine"
    assert choose("aws", 10, 1, 11).cpus > 11


def test_a_demand_that_no_machine_meets_is_refused(cloud: RunConfig) -> None:
    with pytest.raises(InputError, match=r"no machine of gcp has 1 GPUs of \d+ GiB"):
        choose("gcp", 200, 1, 1)
    with pytest.raises(InputError, match="with 400 CPUs for each"):
        render("aws", with_cluster(cloud, cpus_per_worker=400.0), "run.yaml")


def test_kubernetes_is_asked_for_memory_by_the_gpu_s_label(cloud: RunConfig) -> None:
    made = yaml.safe_load(render("kuberay", cloud, "run.yaml")["kuberay/raycluster.yaml"])
    for group, spec in zip(asked(cloud), made["spec"]["workerGroupSpecs"]):
        affinity = spec["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (rule,) = term["matchExpressions"]
        assert (rule["key"], rule["operator"]) == ("nvidia.com/gpu.memory", "Gt")
        assert int(rule["values"][0]) / 1024 == pytest.approx(group.gpu_gib / RESERVE, abs=0.01)
        assert spec["maxReplicas"] == group.gpus


@pytest.mark.parametrize(
    ("changes", "flags", "said"),
    [
        ({"storage": "runs"}, {}, "may be one node's own folder"),
        ({"storage": "file:///runs"}, {}, "may be one node's own folder"),
        ({}, {"subnett": "x"}, "Did you mean 'subnet'"),
        ({"student": MISSING}, {}, "student.model.path: no such folder"),
    ],
)
def test_what_cannot_work_on_a_cluster_is_refused(
    cloud: RunConfig, changes: dict[str, Any], flags: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        render("aws", cloud.model_copy(update=changes), "run.yaml", flags)


def test_a_run_without_gpus_is_refused(cloud: RunConfig) -> None:
    with pytest.raises(InputError, match=r"cluster\.gpus_per_worker: is 0"):
        render("aws", with_cluster(cloud, gpus_per_worker=0.0), "run.yaml")


def test_models_of_unknown_size_are_named_or_their_memory_stated(
    tmp_path: Path, cloud: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"the size of a hub model isn't known.*eight: domain"):
        render("aws", cloud, "run.yaml")
    stated = with_cluster(cloud, memory_gib_per_worker=60.0)
    assert {group.gpu_gib for group in asked(stated)} == {60.0}


def test_what_is_filled_in_stands_in_the_file_as_a_value(cloud: RunConfig) -> None:
    odd = 'a: "b" # {c}'
    made = yaml.safe_load(render("aws", cloud, "run.yaml", {"subnet": odd})["aws.yaml"])
    assert made["available_node_types"]["head"]["node_config"]["SubnetIds"] == [odd]


def test_a_pool_on_cpus_asks_for_no_gpu(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["cluster"] = {"address": "auto", "num_workers": 2, "gpus_per_worker": 1}
    cfg = RunConfig.model_validate(data)
    cfg = with_serving(cfg, PoolServing(num_actors=3))
    assert [group.gpus for group in asked(cfg)] == [2, 2]

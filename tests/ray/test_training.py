"""Ray Train against something simpler: the plain loop, and one worker against two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill_ray.config import RunConfig
from distill_ray.config.training import EqualStagesSchedule
from distill_ray.engine.job import Job, TeachingSpec, build_session
from distill_ray.engine.loop import distill
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import data_spec
from distill_ray.stages.order import Order
from distill_ray.stages.shard import ShardSet, shard
from distill_ray.stages.training import local, train

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]

CLOSE = 1e-4


@pytest.fixture(scope="module")
def shards(tiny: RunConfig, ray_here: None) -> ShardSet:
    return shard(Run.open(tiny, "tiny.yaml"))


def job(cfg: RunConfig, shards: ShardSet, folder: Path) -> Job:
    """A distillation with two rungs, on rows with very unequal supervised counts."""

    def ref(hidden: int, seed: int) -> ModelRef:
        source = cfg.teachers[0].model.model_copy(update={"seed": seed})
        made = ModelRef.of(source, shards.counts["tokenizer"])
        return replace(made, init={**(made.init or {}), "hidden_size": hidden})

    rungs = []
    for number in range(2):
        load_model(ref(48, number)).save_pretrained(folder / str(number))
        rungs.append(ModelRef("path", str(folder / str(number))))
    schedule = EqualStagesSchedule()
    return Job(
        name="parity",
        student=ref(16, 9),
        training=cfg.distill,
        data=data_spec(shards, 0, 8),
        objective=cfg.distill.objective,
        teaching=TeachingSpec({"t": rungs}, "t", schedule=schedule.kind),
        validate_every=10,
    )


def through_ray(
    cfg: RunConfig, shards: ShardSet, work: Job, workers: int, stages: tuple[int, ...]
) -> list[Order]:
    """The job once for each ZeRO stage, in one group of workers."""
    cluster = cfg.cluster.model_copy(update={"num_workers": workers})
    run = Run.open(cfg.model_copy(update={"cluster": cluster}), "tiny.yaml")
    orders = []
    for stage in stages:
        training = work.training.model_copy(update={"zero_stage": stage})
        made = run.artifact("parity", f"{workers}x{stage}", {"workers": workers, "stage": stage})
        orders.append(
            Order("distill", replace(work, training=training), made, shards.artifact, 1000)
        )
    train(run, orders)
    return orders


def test_one_and_two_workers_give_the_loss_curve_of_the_plain_loop(
    tiny: RunConfig, shards: ShardSet, tmp_path: Path
) -> None:
    work = job(tiny, shards, tmp_path)
    run = Run.open(tiny, "tiny.yaml")
    order = Order("distill", work, run.artifact("parity", "plain", {}), shards.artifact, 1000)
    session = build_session(replace(local(order), backend="plain"), torch.device("cpu"))
    for _ in distill(session):
        pass
    plain = session.history
    assert len({row["tokens"] for row in plain}) > 5, "rows should be unequal"
    assert plain[-1]["loss"] < plain[0]["loss"]
    assert [row["rung"] for row in plain] == [0] * 20 + [1] * 20
    with session.backend.whole() as model:
        weights = {name: w.detach().clone() for name, w in model.state_dict().items()}
    done = through_ray(tiny, shards, work, 1, (0,)) + through_ray(tiny, shards, work, 2, (0, 2, 3))
    for order in done:
        curve = order.curve()["history"]
        assert [row["rung"] for row in curve] == [row["rung"] for row in plain]
        assert [row["tokens"] for row in curve] == [row["tokens"] for row in plain]
        for name in ("loss", "grad_norm", "validation.task.ce", "validation.task.kl"):
            expected = [row[name] for row in plain if name in row]
            found = [row[name] for row in curve if name in row]
            assert found == pytest.approx(expected, rel=CLOSE), (order.artifact.key, name)
        exported = load_model(order.rung_refs()[-1]).state_dict()
        for name, expected_weight in weights.items():
            torch.testing.assert_close(exported[name], expected_weight, rtol=1e-3, atol=1e-4)

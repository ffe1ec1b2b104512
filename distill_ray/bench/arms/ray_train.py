"""The same steps in a Ray Train worker, its teacher beside it or in a pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from distill_ray.bench.arms.engine import session_of
from distill_ray.bench.arms.inputs import load_pair
from distill_ray.bench.turns import Turns
from distill_ray.bench.work import StepWork
from distill_ray.config.training import ObjectiveConfig, PoolServing, TrainingConfig
from distill_ray.engine.job import DataSpec, Job, TeachingSpec
from distill_ray.engine.loop import train_step
from distill_ray.engine.session import Session
from distill_ray.runtime.cluster import Mailbox
from distill_ray.runtime.progress import Event
from distill_ray.stages.pooled import Pooled
from distill_ray.stages.teacher_pool import Pool, start_actors

STEPS = 4
"""Steps of a turn. A pool works ahead within a turn, never while another arm works."""


def step(turns: Turns, *, work: StepWork) -> None:
    """Steps of the loop in a worker; each is told as a run's progress is."""
    _take(turns, work, None)


def pooled(turns: Turns, *, work: StepWork) -> None:
    """The same, the teacher in an actor of as many threads as the worker has."""
    threads = float(torch.get_num_threads())
    _take(turns, work, PoolServing(cpus_per_actor=threads, lookahead=1, parity_rows=0))


class Gate:
    """Passes turns from the benchmark to the worker, and losses back."""

    def __init__(self) -> None:
        self._go: asyncio.Queue[bool] = asyncio.Queue()
        self._done: asyncio.Queue[list[float]] = asyncio.Queue()

    async def turn(self, go: bool = True) -> list[float]:
        """Have the worker take a turn, or end; its losses."""
        await self._go.put(go)
        return await self._done.get() if go else []

    async def built(self) -> list[float]:
        """Wait until the worker has built its session."""
        return await self._done.get()

    async def next(self, losses: list[float]) -> bool:
        """Hand over losses and wait for the next turn."""
        await self._done.put(losses)
        return await self._go.get()


def _take(turns: Turns, work: StepWork, serving: PoolServing | None) -> None:
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=2**28,
        log_to_driver=False,
    )
    gate = ray.remote(num_cpus=0)(Gate).remote()
    box = ray.remote(num_cpus=0)(Mailbox).remote()
    job = _job(work)
    pool = None
    if serving is not None:
        pool = Pool(start_actors(job, serving), box, "bench", 600.0)
    payload = {
        "work": work,
        "serving": serving,
        "job": job,
        "pool": pool,
        "gate": gate,
        "box": box,
        "threads": torch.get_num_threads(),
        "steps": STEPS * turns.total,
    }
    scaling = ray.train.ScalingConfig(num_workers=1, use_gpu=turns.device.type == "cuda")
    trainer = ray.train.torch.TorchTrainer(
        _worker, train_loop_config=payload, scaling_config=scaling
    )
    thread = threading.Thread(target=trainer.fit, daemon=True)
    thread.start()
    ray.get(gate.built.remote())
    for _ in turns:
        losses = ray.get(gate.turn.remote())
        turns.done(losses, amount=STEPS)
    ray.get(gate.turn.remote(False))
    thread.join(timeout=60)
    ray.shutdown()


def _worker(payload: Mapping[str, Any]) -> None:
    torch.set_num_threads(payload["threads"])
    device = ray.train.torch.get_device()
    session = _session(payload, device)
    losses: list[float] = []
    while ray.get(payload["gate"].next.remote(losses)):
        session.optim = replace(session.optim, steps=session.step + STEPS)
        losses = [_one(session, payload["box"]) for _ in range(STEPS)]


def _session(payload: Mapping[str, Any], device: torch.device) -> Session:
    work = payload["work"]
    pair = load_pair(work, device)
    session = session_of(pair, work, device, payload["steps"])
    if payload["pool"] is not None:
        assert session.teaching is not None
        session.teaching.source = Pooled(
            payload["serving"], payload["job"], payload["pool"], device
        )
    return session


def _one(session: Session, box: Any) -> float:
    loss, *_ = train_step(session)
    session.step += 1
    box.push.remote(Event("progress", "bench", f"loss {loss:.3f}", done=session.step))
    return loss


def _job(work: StepWork) -> Job:
    """What a pool must know of the work."""
    training = TrainingConfig(
        tokens=work.tokens, batch_rows=work.rows, micro_batch_rows=work.rows, mix={"bench": 1.0}
    )
    return Job(
        name="bench",
        student=work.student,
        training=training.model_copy(update={"precision": work.precision}),
        data=DataSpec(Path(), Path(), {}, work.length, work.seed, 1),
        objective=ObjectiveConfig(alpha=1.0),
        teaching=TeachingSpec({"teacher": [work.teacher]}, "teacher"),
    )

"""The same steps in a Ray Train worker, its teacher beside it or in a pool."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from distill_ray.bench.arms.engine import one_step, session_of
from distill_ray.bench.arms.inputs import load_pair
from distill_ray.bench.arms.sharded_rows import STEPS, job, rows, shard_folder
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.harness.memory import meter
from distill_ray.bench.suites.work import StepWork
from distill_ray.config.serving import PoolServing
from distill_ray.engine.build import mixed_rows
from distill_ray.engine.session import Session
from distill_ray.models.load import config_of
from distill_ray.runtime.cluster import EventQueue
from distill_ray.runtime.progress import Event
from distill_ray.stages.serving.pool import Pool, start_actors
from distill_ray.stages.serving.pool_client import PoolTeacherSource


@dataclass(frozen=True)
class Turn:
    """What the worker did, by its own meters."""

    losses: tuple[float, ...] = ()
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None


def step(turns: ArmClient, *, work: StepWork) -> None:
    """Steps of the loop in a worker that reads Ray Data's Parquet; each is told as progress is."""
    _take(turns, work, None)


def pooled(turns: ArmClient, *, work: StepWork) -> None:
    """The same, the teacher in an actor of as many threads as the worker has."""
    threads = float(torch.get_num_threads())
    _take(turns, work, PoolServing(cpus_per_actor=threads, lookahead=1, num_parity_rows=0))


class Gate:
    """Passes turns from the benchmark to the worker, and losses back."""

    def __init__(self) -> None:
        self._go: asyncio.Queue[bool] = asyncio.Queue()
        self._done: asyncio.Queue[Turn] = asyncio.Queue()

    async def turn(self, go: bool = True) -> Turn:
        """Have the worker take a turn, or end."""
        await self._go.put(go)
        return await self._done.get() if go else Turn()

    async def built(self) -> Turn:
        """Wait until the worker has built its session."""
        return await self._done.get()

    async def next(self, turn: Turn) -> bool:
        """Hand over a turn and wait for the next."""
        await self._done.put(turn)
        return await self._go.get()


def _take(turns: ArmClient, work: StepWork, serving: PoolServing | None) -> None:
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=2**28,
        log_to_driver=False,
    )
    gate = ray.remote(num_cpus=0)(Gate).remote()
    box = ray.remote(num_cpus=0)(EventQueue).remote()
    steps = STEPS * turns.total
    with TemporaryDirectory() as base:
        shared = min(config_of(ref).vocab_size for ref in (work.teacher, work.student))
        dataset = rows(work, shared, steps)
        ray.data.from_items(dataset).write_parquet(str(shard_folder(Path(base))))
        spec = job(work, Path(base), steps)
        pool = None
        if serving is not None:
            pool = Pool(start_actors(spec, serving), box, "bench", 600.0)
        payload = {
            "work": work,
            "serving": serving,
            "job": spec,
            "pool": pool,
            "gate": gate,
            "box": box,
            "threads": torch.get_num_threads(),
        }
        _drive(turns, payload)
    ray.shutdown()


def _drive(turns: ArmClient, payload: Mapping[str, Any]) -> None:
    gate = payload["gate"]
    scaling = ray.train.ScalingConfig(num_workers=1, use_gpu=turns.device.type == "cuda")
    trainer = ray.train.torch.TorchTrainer(
        _worker, train_loop_config=dict(payload), scaling_config=scaling
    )
    thread = threading.Thread(target=trainer.fit, daemon=True)
    thread.start()
    ray.get(gate.built.remote())
    for _ in turns:
        turn = ray.get(gate.turn.remote())
        turns.done(
            turn.losses,
            amount=STEPS,
            cpu_seconds=turn.cpu_seconds,
            peak_bytes=turn.peak_bytes,
        )
    ray.get(gate.turn.remote(False))
    thread.join(timeout=60)


def _worker(payload: Mapping[str, Any]) -> None:
    torch.set_num_threads(payload["threads"])
    device = ray.train.torch.get_device()
    session = _session(payload, device)
    watch = meter(device)
    watch.start()
    turn = Turn()
    while ray.get(payload["gate"].next.remote(turn)):
        began = time.process_time()
        session.optim = replace(session.optim, steps=session.step + STEPS)
        losses = tuple(_one(session, payload["box"]) for _ in range(STEPS))
        turn = Turn(losses, time.process_time() - began, watch.peak())


def _session(payload: Mapping[str, Any], device: torch.device) -> Session:
    work, spec = payload["work"], payload["job"]
    pair = load_pair(work, device)
    session = session_of(pair, work, device, spec.steps)
    session.source = mixed_rows(spec)
    if payload["pool"] is not None:
        assert session.teaching is not None
        session.teaching.source = PoolTeacherSource(
            payload["serving"], spec, payload["pool"], device
        )
    return session


def _one(session: Session, box: Any) -> float:
    loss = one_step(session)
    box.push.remote(Event("progress", "bench", f"loss {loss:.3f}", completed=session.step))
    return loss

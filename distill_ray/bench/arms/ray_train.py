"""Steps in a Ray Train worker, with the teacher in the worker or in a pool of actors."""

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
from distill_ray.models.load import config_of
from distill_ray.runtime.cluster import EventQueue
from distill_ray.runtime.progress import Event
from distill_ray.stages.serving.pool import Pool, start_actors
from distill_ray.stages.serving.pool_client import PoolTeacherSource


@dataclass(frozen=True)
class Turn:
    """What the worker did in a turn, by its own meters."""

    losses: tuple[float, ...] = ()
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None


def step(turns: ArmClient, *, work: StepWork) -> None:
    """Take steps in a worker that reads Ray Data's Parquet and reports each step as progress."""
    _take(turns, work, None)


def pooled(turns: ArmClient, *, work: StepWork) -> None:
    """Take the same steps with the teacher in an actor of as many threads as the worker."""
    threads = float(torch.get_num_threads())
    _take(turns, work, PoolServing(cpus_per_actor=threads, lookahead=1, num_parity_rows=0))


class Gate:
    """Passes turns from the benchmark to the worker, and losses back."""

    def __init__(self) -> None:
        self._go: asyncio.Queue[bool] = asyncio.Queue()
        self._done: asyncio.Queue[Turn] = asyncio.Queue()

    async def turn(self, go: bool = True) -> Turn:
        """Let the worker take a turn, or end."""
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
    events = ray.remote(num_cpus=0)(EventQueue).remote()
    steps = STEPS * turns.total
    with TemporaryDirectory() as base:
        shared = min(config_of(ref).vocab_size for ref in (work.teacher, work.student))
        dataset = rows(work, shared, steps)
        ray.data.from_items(dataset).write_parquet(str(shard_folder(Path(base))))
        spec = job(work, Path(base), steps)
        pool = None
        if serving is not None:
            pool = Pool(start_actors(spec, serving), events, "bench", 600.0)
        payload = {
            "work": work,
            "serving": serving,
            "job": spec,
            "pool": pool,
            "gate": gate,
            "events": events,
            "threads": torch.get_num_threads(),
        }
        # `fit` blocks, so it runs in a thread while this one passes the turns on.
        scaling = ray.train.ScalingConfig(num_workers=1, use_gpu=turns.device.type == "cuda")
        trainer = ray.train.torch.TorchTrainer(
            _worker, train_loop_config=payload, scaling_config=scaling
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
    ray.shutdown()


def _worker(payload: Mapping[str, Any]) -> None:
    """The Ray Train worker: builds a session, then takes turns when the gate says so."""
    torch.set_num_threads(payload["threads"])
    device = ray.train.torch.get_device()
    work, spec = payload["work"], payload["job"]
    pair = load_pair(work, device)
    session = session_of(pair, work, device, spec.steps)
    session.source = mixed_rows(spec)
    if payload["pool"] is not None:
        assert session.teaching is not None
        session.teaching.source = PoolTeacherSource(
            payload["serving"], spec, payload["pool"], device
        )
    watch = meter(device)
    watch.start()
    turn = Turn()
    while ray.get(payload["gate"].next.remote(turn)):
        began = time.process_time()
        session.optim = replace(session.optim, steps=session.step + STEPS)
        losses = []
        for _ in range(STEPS):
            loss = one_step(session)
            progress = Event("progress", "bench", f"loss {loss:.3f}", completed=session.step)
            payload["events"].push.remote(progress)
            losses.append(loss)
        turn = Turn(tuple(losses), time.process_time() - began, watch.peak())

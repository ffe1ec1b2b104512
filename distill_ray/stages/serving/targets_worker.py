"""The Ray side of targets: files of rows, shared out over a pool of actors."""

from __future__ import annotations

import gc
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from distill_ray.config.checksums import bytes_sha256
from distill_ray.config.serving import CachedServing
from distill_ray.data.batches import Stream
from distill_ray.engine.build import load_streams, teacher_bank
from distill_ray.engine.teachers.targets import (
    RowTargets,
    TargetCounts,
    file_of,
    read_footer,
    targets_of,
)
from distill_ray.runtime.capacity import actor_problems
from distill_ray.runtime.cluster import (
    require_capacity,
    silence_logger,
    teacher_nodes,
    worker_device,
    worker_resources,
)
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage, is_full
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.target_files import (
    TargetFile,
    TargetItem,
    TargetResult,
    spec_of,
)

log = logging.getLogger(__name__)

MAX_BLOCKS = 1000
"""Parts that Ray Data is given; more would cost it more than they even out."""
FULL = "full"
"""What a worker says of a file that the storage had no room for."""


def over_items(
    run: Run, training_job: TrainingJob, items: Sequence[TargetItem]
) -> Iterator[TargetResult]:
    """Make the file of each item, or find it made, and yield what each holds as it is done.

    Raises:
        InputError: the cluster can't hold the actors.
        ray.exceptions.RayActorError: more of them died than `cluster.max_failures`.
    """
    silence_logger("ray.data")
    ray.data.DataContext.get_current().enable_progress_bars = False
    pending, failures = {(item["folder"], item["file"]): item for item in items}, 0
    while pending:
        try:
            for result in _pass(run, training_job, list(pending.values())):
                del pending[result["folder"], result["file"]]
                yield result
        except ray.exceptions.RayActorError:
            failures += 1
            if failures > run.cfg.cluster.max_failures:
                raise
            log.warning("an actor died; going on with the %d files that are left", len(pending))
        finally:
            # Ray Data's actors end when nothing refers to them, and what ran the pass is a cycle
            # of objects: until it is collected, they would hold the CPUs that training waits for.
            gc.collect()


def _pass(run: Run, training_job: TrainingJob, items: list[TargetItem]) -> Iterator[TargetResult]:
    """Give all items to a new pool of actors, checkpoint by checkpoint: teachers seldom change."""
    assert isinstance(training_job.serving, CachedServing)
    cfg, actors = run.cfg.cluster, min(training_job.serving.num_actors, len(items))
    resources, available = worker_resources(cfg), ray.cluster_resources()
    problems = actor_problems(cfg, actors, available.get("CPU", 0), available.get("GPU", 0))
    require_capacity(problems, [resources] * actors, teacher_nodes(cfg), run.progress)
    data = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS))
    with warnings.catch_warnings():
        # How to say it from Ray 2.64 on isn't known yet; ours is pinned.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = data.map(
            Writer,
            fn_constructor_args=(training_job, worker_device(cfg)),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU"),
            label_selector=teacher_nodes(cfg),
            # A dead actor ends the pass. Ray Data would start another, and should that one run
            # out of memory too, another, without end.
            max_restarts=0,
            max_task_retries=0,
        )
    yield from results.iter_rows()


class _FullError(Exception):
    """The storage has no room."""


class Writer:
    """Writes files of targets, with the teacher of the last one in memory."""

    def __init__(self, training_job: TrainingJob, device: str) -> None:
        self._training_job, self._device = training_job, torch.device(device)
        self._local_spec = training_job.local_spec()
        self._bank = teacher_bank(self._local_spec, self._device)
        self._streams: dict[str, dict[str, Stream]] = {}

    def __call__(self, item: TargetItem) -> TargetResult:
        """Write the item's file, and say what it holds, or why there is none."""
        problem = ""
        try:
            content = self._write(item)
        except (_FullError, FloatingPointError) as error:
            content, problem = _describe(b"", TargetCounts()), str(error)
        return {"folder": item["folder"], "file": item["file"], **content, "problem": problem}

    def _write(self, item: TargetItem) -> TargetFile:
        folder, path = Storage(item["folder"]), item["file"]
        if folder.exists(path):
            data = folder.read_bytes(path)
            try:
                return _describe(data, read_footer(pq.ParquetFile(pa.BufferReader(data)))[1])
            except (OSError, ValueError):  # It is torn; ArrowInvalid is a ValueError.
                pass
        data, counts = file_of(self._targets(item), spec_of(self._training_job, item["split"]))
        try:
            folder.write_bytes(path, data)
        except OSError as error:
            raise (_FullError(FULL) if is_full(error) else error) from None
        return _describe(data, counts)

    def _targets(self, item: TargetItem) -> Iterator[RowTargets]:
        self._bank.use(item["teacher"], int(item["checkpoint_index"]))
        stream, spec = self._stream(item), spec_of(self._training_job, item["split"])
        generator = torch.Generator(self._device)
        generator.manual_seed(zlib.crc32(f"{self._local_spec.data.seed} {item['file']}".encode()))
        size = self._local_spec.training.micro_batch_size
        # Rows of similar length share a batch.
        numbers = sorted(map(int, item["numbers"]), key=lambda n: stream.rows.lengths[n])
        for start in range(0, len(numbers), size):
            batch = stream.batch(numbers[start : start + size]).to(self._device)
            yield from targets_of(self._bank, batch, spec, generator)

    def _stream(self, item: TargetItem) -> Stream:
        split = item["split"]
        if split not in self._streams:
            self._streams[split] = load_streams(self._local_spec.data, split)
        return self._streams[split][item["stream"]]


def _describe(data: bytes, counts: TargetCounts) -> TargetFile:
    return {
        "rows": counts.rows,
        "tokens": counts.tokens,
        "captured": counts.captured,
        "ids": counts.ids,
        "bytes": len(data),
        "sha256": bytes_sha256(data),
    }

"""`python -m distill_ray.bench.arms.shard_ours`: the shard stage on a Ray of its own."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import ray

from distill_ray.bench.arms.shard import Outcome, serve
from distill_ray.bench.suites.work import ShardWork
from distill_ray.config.run import RunConfig
from distill_ray.data.rows import SPLITS
from distill_ray.runtime.cluster import shutdown
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.shard import shard

STREAM = "text"
TASK_ROWS = 200


def sharded(work: ShardWork, folder: Path) -> Outcome:
    """Run the shard stage of a config with one corpus and the least that a run must have."""
    _import_libraries()
    phases = Phases()
    cfg = RunConfig.model_validate(config(work, folder))
    run = Run.open(cfg, "bench.yaml", phases)
    run.ray()
    import_libraries: Any = ray.remote(num_cpus=1)(_import_libraries)
    ray.get([import_libraries.remote() for _ in range(work.processes)])
    ready_at = time.monotonic()
    counts = shard(run).counts
    done_at = time.monotonic()
    shutdown()

    def of_corpus(table: dict[str, int]) -> dict[str, int]:
        return {split: table.get(f"{STREAM}/{split}", 0) for split in SPLITS}

    duplicates = counts.streams[STREAM].left_out.get("duplicate")
    return Outcome(
        rows=of_corpus(counts.rows),
        tokens=of_corpus(counts.tokens),
        packed=of_corpus(counts.packed),
        duplicates=duplicates.rows if duplicates else 0,
        ready_at=ready_at,
        done_at=done_at,
        phases=phases.seconds(ready_at, done_at),
    )


class Phases:
    """Notes when parts of each phase of the stage are finished."""

    def __init__(self) -> None:
        self._finished: list[tuple[str, float]] = []

    def emit(self, event: Event) -> None:
        """Note that a part of a phase is finished."""
        if event.stage == "shard" and event.kind == "progress":
            self._finished.append((event.text, time.monotonic()))

    def seconds(self, start: float, end: float) -> dict[str, float]:
        """Phase → seconds between the last part of the phase before and its own last part."""
        seconds: dict[str, float] = {}
        before = start
        for phase, now in [*self._finished, ("the rest", end)]:
            seconds[phase] = seconds.get(phase, 0.0) + now - before
            before = now
        return seconds


def _import_libraries() -> None:
    """Import what driver and workers of the stage import, so that it counts as start."""
    importlib.import_module("distill_ray.stages.shard")
    importlib.import_module("ray.data")
    from transformers import AutoTokenizer

    assert AutoTokenizer


def config(work: ShardWork, folder: Path) -> dict[str, Any]:
    """A valid run on the files, whose task, models and training are as small as can be."""
    model = {
        "init": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2 * work.length,
            "tie_word_embeddings": True,
        }
    }
    training = {"token_budget": 64 * work.length, "global_batch_size": 1, "micro_batch_size": 1}
    mix = {STREAM: 1, "parity.labelled": 1}
    task = folder / "task.jsonl"
    questions = (
        {"text": f"Is {number} odd?", "label": ("no", "yes")[number % 2]}
        for number in range(TASK_ROWS)
    )
    task.write_text("".join(json.dumps(row) + "\n" for row in questions))
    return {
        "name": "bench",
        "storage": str(folder / "runs"),
        "student": {"model": model, "tokenizer": {"path": work.tokenizer}},
        "teachers": [{"name": "teacher", "model": model}],
        "corpora": {
            "sequence_length": work.length,
            "validation_fraction": work.validation,
            "test_fraction": work.test,
            "sources": [
                {"name": STREAM, "source": {"jsonl": str(Path(work.files[0]).parent)}},
            ],
        },
        "tasks": [
            {"name": "parity", "source": {"jsonl": str(task)}, "prompt": "{text}\nAnswer:"},
        ],
        "probe": {**training, "mix": mix},
        "distill": {**training, "mix": mix},
        "cluster": {"num_workers": 1},
    }


if __name__ == "__main__":
    serve(sharded)

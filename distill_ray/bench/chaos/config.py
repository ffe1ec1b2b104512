"""The small run that `bench chaos` disturbs: generated rows, random weights, no download."""

from __future__ import annotations

import json
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import yaml

NAME, FILE = "chaos", "chaos.yaml"
WORKERS = 2
STEPS, SAVE_EVERY = 400, 20
ROWS, LENGTH = 8, 64
PARTS = ("pump", "valve", "motor", "sensor", "filter", "cable", "bearing", "display")
FAULTS = ("leaks", "is blocked", "overheats", "is loose", "is worn", "rattles", "is dirty", "fails")
WHERE = ("upper", "lower", "left", "right", "inner", "outer")
WHEN = ("at the start", "under load", "at night", "after the service", "now and then")


def write(folder: Path) -> Path:
    """Write the run's rows and config; return the config's file."""
    # Reports of faults; the label is the part.
    rows = [
        {"text": f"the {where} {part} {fault} {when}", "label": part}
        for part, fault, where, when in product(PARTS, FAULTS, WHERE, WHEN)
    ]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("\n".join(f"It says that {row['text']}." for row in rows))
    file = folder / FILE
    file.write_text(yaml.safe_dump(_config(folder)))
    return file


def _config(folder: Path) -> dict[str, Any]:
    """A config of all stages; only the student's training has a budget that matters."""
    mix = {"faults.labelled": 1, "faults.prompts": 2, "notes": 1}
    return {
        "name": NAME,
        "storage": str(folder / "made"),
        "student": {"model": _model(64, 1), "tokenizer": {"train": {"vocab_size": 384}}},
        "teachers": [
            {"name": "wide", "model": _model(128, 2), "recipes": ["all"]},
            {"name": "narrow", "model": _model(96, 3), "recipes": ["all"]},
        ],
        "corpora": {
            "sequence_length": LENGTH,
            "sources": [{"name": "notes", "source": {"text": str(folder / "text.txt")}}],
        },
        "tasks": [
            {
                "name": "faults",
                "source": {"jsonl": str(folder / "task.jsonl")},
                "prompt": "{text}\nPart:",
                "num_labelled_rows": 400,
            }
        ],
        "adapt": {
            "recipes": {
                "all": _training(60, mix={"faults.labelled": 2, "notes": 1}, num_checkpoints=5)
            }
        },
        "probe": _training(80, mix=mix, seeds=[0, 1], num_curve_points=2, race=None),
        "distill": _training(
            STEPS,
            mix=mix,
            save_steps=SAVE_EVERY,
            eval_steps=40,
            zero_stage=2,
            # Switches by the number of steps alone, so also where sums differ by rounding.
            schedule={"kind": "equal_periods"},
        ),
        "cluster": {"num_workers": WORKERS, "object_store_gib": 0.1, "max_failures": 20},
    }


def _model(hidden: int, seed: int) -> dict[str, Any]:
    init = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2 * LENGTH,
        "tie_word_embeddings": True,
        "initializer_range": 0.06,
    }
    return {"init": init, "seed": seed}


def _training(steps: int, **more: Any) -> dict[str, Any]:
    budget = {
        "token_budget": steps * ROWS * LENGTH,
        "global_batch_size": ROWS,
        "micro_batch_size": 2,
    }
    return {**budget, "learning_rate": 2e-3, **more}


def copied(finished_run: Path, folder: Path, stage: str) -> Path:
    """Copy a finished run without the artifacts of one of its stages.

    Args:
        finished_run: the finished run's storage.
        folder: the copy's storage, which doesn't exist yet. Its files are hard links, which is safe
            because storage never writes into an existing file.
        stage: the stage to be run again.
    """

    def ignored(source: str, names: list[str]) -> set[str]:
        return {stage, ".state"} if Path(source) == finished_run / NAME else set()

    shutil.copytree(finished_run, folder, copy_function=os.link, ignore=ignored)
    return folder

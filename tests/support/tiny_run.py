"""A tiny run on generated findings: its rows, models and config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ORGANS = ("heart", "lung", "liver", "kidney", "skin", "eye")
FINDINGS = ("pain", "swelling", "failure", "infection", "injury", "ulcer", "fibrosis", "stone")
SIDES = ("left", "right", "both", "upper", "lower", "inner", "outer")


def rows() -> list[dict[str, str]]:
    """Short findings whose organ is the label, of very unequal lengths."""
    return [
        {"text": f"{finding} of the {side} {organ}" + ", chronic" * (i % 4), "label": organ}
        for i, (organ, finding, side) in enumerate(
            (o, f, s) for o in ORGANS for f in FINDINGS for s in SIDES
        )
    ]


def write_jsonl(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def tiny_model(hidden: int, seed: int) -> dict[str, Any]:
    init = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.06,
    }
    return {"init": init, "seed": seed}


def training(**changes: Any) -> dict[str, Any]:
    base = {
        "token_budget": 20480,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "learning_rate": 3e-3,
    }
    return {**base, **changes}


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A whole run on generated findings: two teachers, two workers."""
    items = rows()
    write_jsonl(folder / "task.jsonl", items)
    (folder / "corpus.txt").write_text("\n".join(f"There is {r['text']}." for r in items))
    mix = {"findings": 1, "organ.labelled": 2}
    data: dict[str, Any] = {
        "name": "tiny",
        "storage": str(folder / "runs"),
        "student": {
            "model": tiny_model(16, 1),
            "tokenizer": {"train": {"vocab_size": 320}},
        },
        "teachers": [
            {"name": "wide", "model": tiny_model(48, 2), "recipes": ["full"]},
            {"name": "narrow", "model": tiny_model(32, 3), "recipes": ["full", "lora"]},
        ],
        "corpora": {
            "sequence_length": 64,
            "validation_fraction": 0.15,
            "test_fraction": 0.15,
            "sources": [{"name": "findings", "source": {"text": str(folder / "corpus.txt")}}],
        },
        "tasks": [
            {
                "name": "organ",
                "source": {"jsonl": str(folder / "task.jsonl")},
                "prompt": "{text}\nOrgan:",
                "num_labelled_rows": 120,
            }
        ],
        "adapt": {
            "recipes": {
                "full": training(mix=mix),
                "lora": training(mix=mix, method="lora", lora={"rank": 4}),
            }
        },
        "probe": training(
            mix={"organ.labelled": 1, "organ.prompts": 2},
            seeds=[0, 1],
            race=None,
            num_curve_points=2,
            token_budget=10240,
        ),
        "distill": training(
            mix={"organ.labelled": 1, "organ.prompts": 2, "findings": 1},
            eval_steps=5,
            save_steps=4,
        ),
        "cluster": {"num_workers": 2, "object_store_gib": 0.1},
    }
    return {**data, **changes}

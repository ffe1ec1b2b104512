"""The student as a Hugging Face folder that stands on its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from distill_ray.config.data import TaskConfig
from distill_ray.data.prompt_format import task_prompt_format
from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef
from distill_ray.stages.reporting.lineage import Inputs
from distill_ray.stages.results.local_files import local_ref

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_student(inputs: Inputs, card: str, folder: Path) -> None:
    """Fill a folder with weights, config, tokenizer and model card.

    Args:
        inputs: of the report.
        card: text of `README.md`.
        folder: an empty one.
    """
    write_weights(inputs.students.distilled.ref, folder, inputs.run.cfg.distill.precision)
    _copy(inputs.shards.artifact.local() / "tokenizer", folder)
    if inputs.run.cfg.student.tokenizer is not None:
        # The config's ids are those of another tokenizer: generation would end at a wrong token.
        tokenizer = inputs.shards.tokenizer()
        ids = {key: getattr(tokenizer, key) for key in SPECIAL_IDS}
        for file in _configs(folder):
            config = json.loads(file.read_text())
            file.write_text(json.dumps(config | ids, indent=2, sort_keys=True) + "\n")
    chats = [task for task in inputs.run.cfg.tasks if task.chat]
    if chats:
        end_turns(folder, {turn_end(inputs.shards.tokenizer(), task) for task in chats})
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_weights(student: ModelRef, folder: Path, precision: str) -> None:
    """Weights and config that plain transformers loads: adapters are merged into their base.

    Args:
        student: what was trained.
        folder: an existing one.
        precision: of merged weights.
    """
    if student.adapter is None:
        _copy(Path(local_ref(student).location), folder)
        return
    # Saving imports DeepSpeed, which would tell the terminal what it takes this machine for.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    model = load_frozen(local_ref(student), precision=precision, device=torch.device("cpu"))
    model.save_pretrained(str(folder), safe_serialization=True)


def _copy(source: Path, folder: Path) -> None:
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        shutil.copyfile(file, folder / file.name)


def turn_end(tokenizer: Any, task: TaskConfig) -> int:
    """Id of the token that ends the assistant's turn of a task."""
    form = task_prompt_format(tokenizer, task)
    return form.answer("").end


def end_turns(folder: Path, ends: set[int]) -> None:
    """Let generation end where a turn does, as training taught it."""
    for file in _configs(folder):
        config = json.loads(file.read_text())
        known = config.get("eos_token_id")
        known = known if isinstance(known, list) else [] if known is None else [known]
        if not ends <= {*known}:
            config["eos_token_id"] = sorted({*known, *ends})
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _configs(folder: Path) -> list[Path]:
    names = ("config.json", "generation_config.json")
    return [folder / name for name in names if (folder / name).exists()]

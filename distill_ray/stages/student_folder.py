"""The student as a Hugging Face folder that stands on its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill_ray.runtime.storage import Storage
from distill_ray.stages.lineage import Inputs

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_student(inputs: Inputs, card: str, folder: Path) -> None:
    """Fill a folder with weights, config, tokenizer and model card.

    Args:
        inputs: of the report.
        card: text of `README.md`.
        folder: an empty one.
    """
    weights = Storage(inputs.students.distilled.ref.location).get()
    tokenizer = inputs.shards.artifact.local() / "tokenizer"
    for file in [*_files(weights), *_files(tokenizer)]:
        shutil.copyfile(file, folder / file.name)
    if inputs.run.cfg.student.tokenizer is not None:
        # The config's ids are those of another tokenizer: generation would end at a wrong token.
        _set_special_ids(folder, inputs.shards.tokenizer())
    (folder / "README.md").write_text(card, encoding="utf-8")


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _set_special_ids(folder: Path, tokenizer: Any) -> None:
    ids = {key: getattr(tokenizer, key) for key in SPECIAL_IDS}
    for file in (folder / "config.json", folder / "generation_config.json"):
        if file.exists():
            config = json.loads(file.read_text())
            file.write_text(json.dumps(config | ids, indent=2, sort_keys=True) + "\n")

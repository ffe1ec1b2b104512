"""Config keys of 0.1 and their names since 0.2: the table of errors, upgrades and docs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TRAINING = {
    "tokens": "token_budget",
    "batch_rows": "global_batch_size",
    "micro_batch_rows": "micro_batch_size",
    "warmup": "warmup_ratio",
    "final_learning_rate": "min_lr_ratio",
    "clip": "max_grad_norm",
    "max_bad_steps": "max_skipped_steps",
    "attention": "attn_implementation",
    "compile": "torch_compile",
}
SOURCE = {"limit": "max_rows", "dataset_split": "split"}
FACTORS = {
    "ease": "learnability",
    "peak": "accuracy_above_chance",
    "domain": "domain_knowledge",
}
ROW_SOURCES = (
    "corpora.sources.*.source",
    "tasks.*.source",
    "tasks.*.prompts",
    "tasks.*.shifted.*.source",
)
RUN_KEYS: dict[str, dict[str, str]] = {
    "corpora": {
        "validation": "validation_fraction",
        "test": "test_fraction",
    },
    **dict.fromkeys(ROW_SOURCES, SOURCE),
    "tasks.*": {"labelled_rows": "num_labelled_rows"},
    "student.model": {"layers": "num_hidden_layers"},
    "teachers.*.model": {"layers": "num_hidden_layers"},
    "adapt": {"validation_rows": "num_validation_rows", "save_every": "save_steps"},
    "adapt.recipes.*": {
        **TRAINING,
        "checkpoints": "num_checkpoints",
        "patience": "early_stopping_patience",
    },
    "adapt.recipes.*.mixing": {"between": "interpolation"},
    "audit": {
        "bins": "num_bins",
        "bootstrap": "num_bootstrap",
        "text_rows": "num_text_rows",
        "generate": "num_generated",
        "questions_per_part": "questions_per_chunk",
        "attempts": "max_attempts",
    },
    "probe": {
        **TRAINING,
        "rungs": "num_curve_points",
        "questions": "num_questions",
        "control_tokens": "control_token_budget",
        "gradients": "num_gradients",
        "validation_rows": "num_validation_rows",
        "max_concurrent": "max_concurrent_trials",
    },
    "probe.mixing": {"between": "interpolation"},
    "rank": {
        "draws": "num_draws",
        "size_advantage": "min_size_ratio",
        "min_valid": "min_valid_answers",
    },
    "rank.early": FACTORS,
    "rank.late": FACTORS,
    "distill": {
        **TRAINING,
        "first": "first_teacher",
        "several": "ensemble",
        "at_switch": "on_switch",
        "validate_every": "eval_steps",
        "validation_rows": "num_validation_rows",
        "checkpoints": "num_checkpoints",
        "keep": "select_checkpoint",
        "save_every": "save_steps",
    },
    "distill.mixing": {"between": "interpolation"},
    "distill.on_switch": {"warmup": "warmup_ratio"},
    "distill.schedule": {
        "stages": "num_periods",
        "every": "interval",
        "probe_rows": "num_probe_rows",
    },
    "distill.serving": {"actors": "num_actors", "parity_rows": "num_parity_rows"},
    "distill.serving.targets": {"samples": "num_samples"},
    "evaluate": {"bootstrap": "num_bootstrap", "text_rows": "num_text_rows"},
    "cluster": {
        "resize_every_s": "resize_interval_s",
        "checkpoint_every_s": "save_interval_s",
    },
}
"""Section of a run → old key → new key. `*` is an item of a list, or a name of the user's."""
STUDY_KEYS: dict[str, dict[str, str]] = {
    "": {
        "untouched": "held_out_domains",
        "rungs": "num_curve_points",
        "resamples": "num_bootstrap",
    },
    "arms": {"strongest": "most_accurate", "equal_stages": "equal_periods"},
    "arms.*": {"begin": "first_teacher"},
}
"""The same of a study, beside the runs and `distill` sections in it."""
REMOVED: dict[str, dict[str, str]] = {
    "corpora": dict.fromkeys(
        ("buckets", "num_shards"), "is gone: files get their size from the data"
    ),
}
"""Section of a run → key that is no more → why it can be left out."""
RUN_VALUES: dict[str, dict[str, str]] = {
    "distill.schedule.kind": {"equal_stages": "equal_periods"},
}
"""Key of a run → old value → new value."""
STUDY_VALUES: dict[str, dict[str, str]] = {
    "arms.*.first_teacher": {"strongest": "most_accurate"},
    "default": {"strongest": "most_accurate", "equal_stages": "equal_periods"},
}
RUNS_IN_STUDY = ("run", "domains.*")
"""Where a study holds runs, or parts of them."""
FREE = ("init", "options")
"""Mappings whose keys are another library's or the user's, which are never renamed."""
TAGGED = ("schedule", "serving", "targets")
"""Sections of several kinds: an error's place names the kind behind them."""


@dataclass(frozen=True)
class Renames:
    """All renames of one kind of file, by section."""

    keys: dict[str, dict[str, str]]
    values: dict[str, dict[str, str]]
    removed: dict[str, dict[str, str]]

    def key(self, path: Sequence[str], key: str) -> str | None:
        """The new name of a key in the section at `path` (of new names), if it has one."""
        return self._at(self.keys, path).get(key)

    def without(self, path: Sequence[str], key: str) -> str | None:
        """Why a key of the section at `path` is no more, if that is so."""
        return self._at(self.removed, path).get(key)

    def value(self, path: Sequence[str], value: str) -> str | None:
        """The new name of a value of the key at `path`, if it has one."""
        return self._at(self.values, path).get(value)

    @staticmethod
    def _at(table: dict[str, dict[str, str]], path: Sequence[str]) -> dict[str, str]:
        merged: dict[str, str] = {}
        for pattern, renames in table.items():
            parts = pattern.split(".") if pattern else []
            if len(parts) == len(path) and all(p in ("*", part) for p, part in zip(parts, path)):
                merged |= renames
        return merged


RUN = Renames(RUN_KEYS, RUN_VALUES, REMOVED)


def _in_study(table: dict[str, dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    for prefix in RUNS_IN_STUDY:
        for section, renames in table.items():
            yield f"{prefix}.{section}", renames
    for section, renames in table.items():
        if re.match(r"distill\b", section):
            yield f"arms.*.{section}", renames


STUDY = Renames(
    {**STUDY_KEYS, **dict(_in_study(RUN_KEYS))},
    {**STUDY_VALUES, **dict(_in_study(RUN_VALUES))},
    dict(_in_study(REMOVED)),
)


def markdown_table() -> str:
    """The renamed keys and values for the changelog, a row for each pair of names."""
    places: dict[tuple[str, str], list[str]] = {}
    for prefix, table in (("", RUN_KEYS), ("study", STUDY_KEYS)):
        for section, renames in table.items():
            for old, new in renames.items():
                place = ".".join(part for part in (prefix, section) if part)
                places.setdefault((f"`{old}`", f"`{new}`"), []).append(place)
    for prefix, table in (("", RUN_VALUES), ("study", STUDY_VALUES)):
        for key, renames in table.items():
            for old, new in renames.items():
                place = f"value of {'.'.join(part for part in (prefix, key) if part)}"
                places.setdefault((f"`{old}`", f"`{new}`"), []).append(place)
    for section, removed in REMOVED.items():
        for old, why in removed.items():
            places[f"`{old}`", why] = [section]
    rows = [f"| {', '.join(where)} | {old} | {new} |" for (old, new), where in places.items()]
    return "\n".join(["| where | 0.1 | 0.2 |", "|---|---|---|", *rows])

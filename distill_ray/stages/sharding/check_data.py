"""Whether the data hold what the config asks of them: rows, labels, streams to train on."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig, all_sources
from distill_ray.data.rows import SPLITS
from distill_ray.stages.results.shard_set import ShardSet


def require_rows(cfg: RunConfig, rows: Mapping[str, int]) -> None:
    """Refuse streams that came out empty, before anything is made from the others.

    Args:
        cfg: the config.
        rows: `<stream>/<split>` → number of clean rows.

    Raises:
        InputError: carries every problem found.
    """
    problems = []
    labelled = {task.labelled_stream for task in cfg.tasks}
    for stream, source in all_sources(cfg).items():
        counts = {split: rows.get(f"{stream}/{split}", 0) for split in SPLITS}
        if not sum(counts.values()):
            what = f"{source.location} has no row with text in column {source.text_column!r}."
            fix = "Give rows, or name the column with text_column."
            problems.append(Problem(stream, what, fix))
        elif stream in labelled and not all(counts.values()):
            empty = ", ".join(split for split in SPLITS if not counts[split])
            what = f"{sum(counts.values())} rows leave none for {empty}."
            fix = "Give more rows, or raise the fractions of corpora."
            problems.append(Problem(stream, what, fix))
        elif not counts["train"] and "shifted" not in stream:
            problems.append(Problem(stream, "no row is left to train on.", "Give more rows."))
    if problems:
        raise InputError("the input holds too little:", problems)


def answers_of(cfg: RunConfig, text: pa.Table) -> dict[str, dict[str, str]]:
    """Find the answer text of each task's labels.

    Args:
        cfg: the config.
        text: columns of the clean rows.

    Raises:
        InputError: a declared label never occurs, or a label of the data isn't declared.
    """
    answers: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    for i, task in enumerate(cfg.tasks):
        rows = text.filter(pc.equal(text["stream"], task.labelled_stream))
        occurring = {label for label in pc.unique(rows["label"]).to_pylist() if label is not None}
        labels = task.labels or sorted(occurring)
        declared = task.answers or {label: task.answer.format(label=label) for label in labels}
        answers[task.name] = declared
        where, fix = f"tasks.{i}.answers", ""
        if occurring:
            fix = f"The data's labels: {', '.join(sorted(occurring)[:20])}."
        for label in sorted(set(declared) - occurring):
            problems.append(Problem(where, f"label {label!r} never occurs in the data.", fix))
        if not occurring:
            fix = "Name the column with label_column."
            problems.append(Problem(f"tasks.{i}", "no row has a label.", fix))
        for label in sorted(occurring - set(declared)):
            fix = "Add it to answers, or filter those rows."
            problems.append(Problem(where, f"the data's label {label!r} has no answer.", fix))
    if problems:
        raise InputError("labels and answers don't fit:", problems)
    return answers


def require_streams(shards: ShardSet) -> None:
    """Refuse a mix that draws on a stream without rows.

    Raises:
        InputError: carries every problem found.
    """
    packed = shards.counts.packed
    problems = [
        Problem(
            f"{where}.mix.{stream}",
            "this stream has no row to train on.",
            "Lower the task's num_labelled_rows or give it prompts, or take it out of the mix.",
        )
        for where, training in shards.cfg.trainings()
        for stream in sorted(training.streams)
        if not packed.get(f"{stream}/train")
    ]
    held_out = {name.partition("/")[0] for name in packed if name.endswith("/validation")}
    for where, training in shards.cfg.trainings():
        tasks = {name.partition(".")[0] for name in training.streams if "." in name}
        if not (held_out & training.streams or tasks & {n.partition(".")[0] for n in held_out}):
            what = "none of its streams has a validation row."
            problems.append(Problem(f"{where}.mix", what, "Raise corpora.validation_fraction."))
    if problems:
        raise InputError("the data don't fit the config:", problems)

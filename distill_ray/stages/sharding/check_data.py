"""Whether the data hold what the config asks of them: rows, labels, streams to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig, labelled_streams
from distill_ray.data.prompt_format import task_prompt_format
from distill_ray.data.rows import SPLITS
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.sharding.deduplicate import REASONS, Removals
from distill_ray.stages.sharding.files import clean_row
from distill_ray.stages.sharding.parts import Piece, stream_numbers
from distill_ray.stages.sharding.summary import StreamTally, reason_text


def require_rows(cfg: RunConfig, tallies: Mapping[str, StreamTally]) -> None:
    """Refuse streams that came out empty, before anything is made from the others.

    Args:
        cfg: the config.
        tallies: stream → its sums, after all removals.

    Raises:
        InputError: carries every problem found.
    """
    problems = []
    labelled = {task.labelled_stream for task in cfg.tasks}
    for stream, tally in tallies.items():
        counts = {split: tally.rows[split] for split in SPLITS}
        gone = _what_went(tally)
        if not sum(counts.values()):
            what = f"none of its {tally.read:,} rows stays{gone}." if gone else "it has no rows."
            problems.append(Problem(f"{stream} ({tally.where})", what, "Give more rows."))
        elif stream in labelled and not all(counts.values()):
            empty = ", ".join(split for split in SPLITS if not counts[split])
            what = f"{sum(counts.values()):,} rows leave none for {empty}{gone}."
            fix = "Give more rows, or raise the fractions of corpora."
            problems.append(Problem(stream, what, fix))
        elif not counts["train"] and "shifted" not in stream:
            what = f"no row is left to train on{gone}."
            problems.append(Problem(stream, what, "Give more rows."))
    if problems:
        raise InputError("the input holds too little:", problems)


def _what_went(tally: StreamTally) -> str:
    """Why a stream lacks rows, as the end of a sentence."""
    gone = [f"{rows:,} {reason_text(reason)}" for reason, rows in (+tally.left_out).most_common(3)]
    return f" ({'; '.join(gone)})" if gone else ""


def refuse_conflicts(
    cfg: RunConfig, out: Storage, pieces: Sequence[Piece], removals: Removals
) -> None:
    """Refuse texts with several labels, unless the task says which counts.

    Raises:
        InputError: names a text and two of its labels for each stream.
    """
    numbers, problems = stream_numbers(cfg), []
    for i, task in enumerate(cfg.tasks):
        if task.on_conflict != "error":
            continue
        for stream in labelled_streams(task):
            rows = sum(
                count
                for (number, _, reason), count in removals.counts.items()
                if reason == "conflict" and number == numbers[stream]
            )
            if not rows:
                continue
            example = next(
                e
                for e in removals.examples
                if REASONS[e["reason"]] == "conflict" and e["stream"] == numbers[stream]
            )
            one = clean_row(out, example["part"], example["row"])
            other = clean_row(out, example["kept_part"], example["kept_row"])
            readers = {piece.number: piece.reader for piece in pieces}
            files = {readers[example[key]].source.location for key in ("part", "kept_part")}
            what = (
                f"{rows} rows of {', '.join(sorted(files))} have a text that has several labels, "
                f"such as {one['text'][:80]!r}: {one['label']!r} and {other['label']!r}."
            )
            fix = "Mend the rows, or set on_conflict: majority, or drop."
            problems.append(Problem(f"tasks.{i}", what, fix))
    if problems:
        raise InputError("labels contradict each other:", problems)


def answers_of(
    cfg: RunConfig, labels: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, str]]:
    """Find the answer text of each task's labels.

    Args:
        cfg: the config.
        labels: task → label → rows.

    Raises:
        InputError: a declared label never occurs, or a label of the data isn't declared.
    """
    answers: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    for i, task in enumerate(cfg.tasks):
        occurring = {*labels[task.name]}
        known = task.labels or sorted(occurring)
        declared = task.answers or {label: task.answer.format(label=label) for label in known}
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


def refuse_equal_answers(
    cfg: RunConfig, answers: Mapping[str, Mapping[str, str]], tokenizer: Any
) -> None:
    """Refuse labels whose answers are the same tokens: no model could tell them apart.

    Raises:
        InputError: names the labels.
    """
    problems = []
    for i, task in enumerate(cfg.tasks):
        form = task_prompt_format(tokenizer, task)
        labels_of: dict[tuple[int, ...], list[str]] = {}
        for label, text in answers[task.name].items():
            labels_of.setdefault(tuple(form.answer(text).ids), []).append(label)
        for ids, labels in labels_of.items():
            if len(labels) > 1 or not ids:
                names = ", ".join(map(repr, labels))
                what = f"the answers of {names} are the same {len(ids)} tokens."
                if not ids:
                    what = f"the answer of {names} is empty."
                problems.append(Problem(f"tasks.{i}.answers", what, "Word them differently."))
    if problems:
        raise InputError("labels can't be told apart:", problems)


def refuse_long_templates(
    cfg: RunConfig, answers: Mapping[str, Mapping[str, str]], tokenizer: Any
) -> None:
    """Refuse a task whose template and longest answer fill a row: its texts can't be truncated.

    Raises:
        InputError: names the templates.
    """
    length, problems = cfg.corpora.sequence_length, []
    for i, task in enumerate(cfg.tasks):
        if task.on_long_row == "error":  # Its long rows are counted.
            continue
        form = task_prompt_format(tokenizer, task)
        ends = [form.answer(text) for text in answers[task.name].values()]
        room = max(end.size for end in ends)
        templates = {f"tasks.{i}.prompt": task.prompt} | {
            f"tasks.{i}.shifted.{j}.prompt": shifted.prompt
            for j, shifted in enumerate(task.shifted)
            if shifted.prompt is not None
        }
        for where, template in templates.items():
            try:
                form.prompt_of(template, "", length - room)
            except ValueError as error:
                what = f"{error}, which {length:,} leave beside the longest answer."
                fix = "Raise corpora.sequence_length, or shorten the template."
                problems.append(Problem(where, what, fix))
    if problems:
        raise InputError("templates are too long:", problems)


def refuse_long_rows(cfg: RunConfig, tallies: Mapping[str, StreamTally]) -> None:
    """Refuse rows that are longer than a packed row where `on_long_row` is `error`.

    Raises:
        InputError: counts them, stream by stream.
    """
    problems = []
    for stream, tally in tallies.items():
        if tally.on_long_row == "error" and tally.long:
            what = (
                f"{tally.long:,} of {sum(tally.rows.values()):,} rows of {stream} are longer than "
                f"{cfg.corpora.sequence_length:,} tokens, such as {tally.long_examples[0]}."
            )
            fix = (
                f"Raise corpora.sequence_length (the longest needs {max(tally.lengths):,}), or set "
                "on_long_row: truncate_left, truncate_right or truncate_middle."
            )
            problems.append(Problem(tally.where, what, fix))
    if problems:
        raise InputError("rows are too long:", problems)


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

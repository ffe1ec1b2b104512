"""Corpora and tasks → ShardSet: read, clean, deduplicate, split, tokenize, pack, write.

The unit of work is a bucket of content keys. Equal texts share a bucket, so duplicates and leaks
between streams are found inside it, and the result is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill_ray.config.data import TaskConfig
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.config.fingerprint import path_identity
from distill_ray.config.models import ModelSource
from distill_ray.config.run import RunConfig
from distill_ray.core.plugins import source_digest
from distill_ray.data.rows import SPLITS
from distill_ray.data.tokenizer import train_tokenizer
from distill_ray.models.packages import file_of
from distill_ray.models.tokenizers import tokenizer_of
from distill_ray.models.vocab import tokenizer_file
from distill_ray.runtime.artifacts import Building
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage
from distill_ray.stages.preflight.check_tokenizers import chat_problems
from distill_ray.stages.results.shard_set import ShardCounts, ShardSet, TokenizerSummary
from distill_ray.stages.sharding.vocabulary import vocabulary_fits

VERSION = 5
"""Raised when the stage's output changes for equal input."""

TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
"""Where a tokenizer's folder may hold its chat template."""


def shard(run: Run) -> ShardSet:
    """Make the shard set, or find it made."""
    artifact = run.artifact("shard", "", _identity(run.cfg))
    if artifact.is_complete():
        if run.storage.local:
            artifact.local()  # Damage is told now, not by workers.
        run.reused("shard")
    else:
        with run.stage("shard"):
            tokenizer = _pretrained_tokenizer(run.cfg)
            run.ray()
            with artifact.building() as building:
                _build(run, building, tokenizer)
    shards = ShardSet(artifact, run.cfg)
    _require_streams(shards)
    vocabulary_fits(run, shards)
    return shards


def _require_streams(shards: ShardSet) -> None:
    """Refuse a mix that draws on a stream without rows."""
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


def _identity(cfg: RunConfig) -> dict[str, object]:
    from distill_ray.config.run import all_sources

    read = {
        source.location: _content(source.format, source.location)
        for source in all_sources(cfg).values()
    }
    return {
        "version": VERSION,
        "corpora": cfg.corpora,
        "tasks": [config_identity(task) for task in cfg.tasks],
        "tokenizer": cfg.student.tokenizer or cfg.student.model,
        "tokenizer_file": _tokenizer_content(cfg),
        "content": read,
    }


def _tokenizer_content(cfg: RunConfig) -> Any:
    """What identifies a tokenizer on this machine, and its template where a task is a chat."""
    source = cfg.student.tokenizer or cfg.student.model
    if isinstance(source, ModelSource) and source.gguf is not None:
        return path_identity(file_of(source.gguf))
    if source.path is None:
        return None
    folder = Path(source.path)
    chat = any(task.chat for task in cfg.tasks)
    templates = {name: path_identity(folder / name) for name in TEMPLATE_FILES if chat}
    return {"tokenizer": tokenizer_file(folder), **templates}


def _content(kind: str, location: str) -> Any:
    """What identifies the rows of a source beyond its config, as far as this machine can tell."""
    if kind == "callable":
        return source_digest(location)
    return None if "://" in location else path_identity(Path(location))


def _build(run: Run, building: Building, pretrained: Any) -> None:
    from distill_ray.config.run import all_sources
    from distill_ray.stages.sharding.pack_worker import Deduplicate, PackBucket, over_buckets
    from distill_ray.stages.sharding.sources import write_fragments

    cfg, out = run.cfg, building.storage
    corpora = [corpus.name for corpus in cfg.corpora.sources]
    run.note("shard", "reading and splitting", completed=0, total=4)
    write_fragments(cfg, out.sub("fragments").uri)
    run.raise_if_interrupted()
    run.note("shard", "removing duplicates and leaks", completed=1, total=4)
    questions_of = frozenset(all_sources(cfg)) - set(corpora)
    counts = over_buckets(cfg.corpora.num_shards, Deduplicate(out.uri, questions_of))
    out.delete("fragments")
    _require_rows(cfg, counts["rows"])
    with out.reading("text") as folder:
        text = pq.read_table(folder, columns=["stream", "split", "label", "key", "text"])
    answers = _all_answers(cfg, text)
    run.raise_if_interrupted()
    run.note("shard", "making the tokenizer", completed=2, total=4)
    tokenizer = _write_tokenizer(
        _trained_tokenizer(cfg, text) if pretrained is None else pretrained, out
    )
    run.raise_if_interrupted()
    run.note("shard", "tokenizing and packing", completed=3, total=4)
    plans = [_plan(task, answers[task.name], text) for task in cfg.tasks]
    grouped = cfg.corpora.batching == "grouped"
    pack = PackBucket(out.uri, corpora, plans, cfg.corpora.sequence_length, grouped)
    counts = {**counts, **over_buckets(cfg.corpora.num_shards, pack)}
    tables = {table: dict(sorted(items.items())) for table, items in counts.items()}
    empty: dict[str, dict[str, int]] = {name: {} for name in ("packed", "tokens", "too_long")}
    record = ShardCounts(**{**empty, **tables}, tokenizer=tokenizer, answers=answers)
    building.counts |= record.model_dump()


def _require_rows(cfg: RunConfig, rows: Mapping[str, int]) -> None:
    """Refuse streams that came out empty, before anything is made from the others."""
    problems = list(_empty(cfg, rows))
    if problems:
        raise InputError("the input holds too little:", problems)


def _empty(cfg: RunConfig, rows: Mapping[str, int]) -> Iterator[Problem]:
    from distill_ray.config.run import all_sources

    labelled = {task.labelled_stream for task in cfg.tasks}
    for stream, source in all_sources(cfg).items():
        counts = {split: rows.get(f"{stream}/{split}", 0) for split in SPLITS}
        if not sum(counts.values()):
            what = f"{source.location} has no row with text in column {source.text_column!r}."
            yield Problem(stream, what, "Give rows, or name the column with text_column.")
        elif stream in labelled and not all(counts.values()):
            bare = ", ".join(split for split in SPLITS if not counts[split])
            what = f"{sum(counts.values())} rows leave none for {bare}."
            yield Problem(stream, what, "Give more rows, or raise the fractions of corpora.")
        elif not counts["train"] and "shifted" not in stream:
            yield Problem(stream, "no row is left to train on.", "Give more rows.")


def _all_answers(cfg: RunConfig, text: pa.Table) -> dict[str, dict[str, str]]:
    """Task → label → answer text.

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
        problems += _label_problems(f"tasks.{i}", set(declared), occurring)
        answers[task.name] = declared
    if problems:
        raise InputError("labels and answers don't fit:", problems)
    return answers


def _label_problems(where: str, declared: set[str], occurring: set[str]) -> Iterator[Problem]:
    fix = f"The data's labels: {', '.join(sorted(occurring)[:20])}." if occurring else ""
    for label in sorted(declared - occurring):
        yield Problem(f"{where}.answers", f"label {label!r} never occurs in the data.", fix)
    if not occurring:
        yield Problem(where, "no row has a label.", "Name the column with label_column.")
    for label in sorted(occurring - declared):
        fix = "Add it to answers, or filter those rows."
        yield Problem(f"{where}.answers", f"the data's label {label!r} has no answer.", fix)


def _pretrained_tokenizer(cfg: RunConfig) -> Any:
    """The student's tokenizer, or None where it is trained on the text.

    Raises:
        InputError: it can't be loaded, or doesn't serve for a task.
    """
    source = cfg.student.tokenizer
    if source is not None and source.train is not None:
        return None
    try:
        tokenizer = tokenizer_of(source or cfg.student.model)
    except (OSError, ValueError) as error:
        problem = Problem("student.tokenizer", f"it can't be loaded ({error}).")
        raise InputError("the student's tokenizer can't be used:", [problem]) from error
    problems = list(_tokenizer_problems(cfg, tokenizer))
    if problems:
        raise InputError("the student's tokenizer can't be used:", problems)
    return tokenizer


def _tokenizer_problems(cfg: RunConfig, tokenizer: Any) -> Iterator[Problem]:
    if tokenizer.eos_token_id is None:
        fix = "Give it an eos_token, or choose another with student.tokenizer."
        yield Problem("student.tokenizer", "it has no end-of-sequence token.", fix)
    yield from chat_problems(cfg, tokenizer)


def _trained_tokenizer(cfg: RunConfig, text: pa.Table) -> Any:
    source = cfg.student.tokenizer
    assert source is not None and source.train is not None
    return train_tokenizer(_sample(text, source.train.sample_bytes), source.train.vocab_size)


def _write_tokenizer(tokenizer: Any, out: Storage) -> TokenizerSummary:
    """Write the student's tokenizer and return what a model's config must say of it."""
    with out.folder("tokenizer") as folder:
        tokenizer.save_pretrained(str(folder))
    return TokenizerSummary(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _sample(text: pa.Table, size_bytes: int) -> Iterator[str]:
    """Train texts in the order of their keys, which is random yet fixed."""
    remaining = size_bytes
    for value in text.filter(pc.equal(text["split"], "train")).sort_by("key")["text"]:
        yield value.as_py()
        remaining -= len(value.as_py().encode())
        if remaining <= 0:
            return


def _plan(task: TaskConfig, answers: Mapping[str, str], text: pa.Table) -> Any:
    from distill_ray.stages.sharding.pack_worker import TaskSpec

    labelled = pc.and_(pc.equal(text["stream"], task.labelled_stream), pc.is_valid(text["label"]))
    in_train = pc.and_(labelled, pc.equal(text["split"], "train"))
    keys = text.filter(in_train).sort_by("key")["key"]
    num_labelled = min(task.num_labelled_rows or len(keys), len(keys))
    return TaskSpec(
        labelled=task.labelled_stream,
        prompts=task.prompts_stream,
        template=task.prompt,
        answers=answers,
        chat=task.chat,
        system=task.system,
        last_key=keys[num_labelled - 1].as_py() if num_labelled else "",
    )

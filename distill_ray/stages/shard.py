"""Corpora and tasks → ShardSet: read, clean, deduplicate, split, tokenize, pack, write.

The unit of work is a bucket of content keys. Equal texts share a bucket, so duplicates and leaks
between streams are found inside it, and the result is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill_ray.config.data import TaskConfig
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.config.fingerprint import path_identity
from distill_ray.config.models import ModelSource
from distill_ray.config.run import RunConfig, all_sources
from distill_ray.core.plugins import source_digest
from distill_ray.data.tokenizer import train_tokenizer
from distill_ray.models.packages import file_of
from distill_ray.models.tokenizers import tokenizer_of
from distill_ray.models.vocab import tokenizer_file
from distill_ray.runtime.artifacts import Building
from distill_ray.runtime.run import Run
from distill_ray.stages.preflight.check_tokenizers import chat_problems
from distill_ray.stages.results.shard_set import ShardCounts, ShardSet, TokenizerSummary
from distill_ray.stages.sharding.check_data import answers_of, require_rows, require_streams
from distill_ray.stages.sharding.vocabulary import vocabulary_fits

if TYPE_CHECKING:
    from distill_ray.stages.sharding.pack_worker import TaskSpec

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
    require_streams(shards)
    vocabulary_fits(run, shards)
    return shards


def _identity(cfg: RunConfig) -> dict[str, object]:
    """What decides the shards: config, and content as far as this machine can tell."""
    content: dict[str, Any] = {}
    for source in all_sources(cfg).values():
        location = source.location
        if source.format == "callable":
            content[location] = source_digest(location)
        else:
            content[location] = None if "://" in location else path_identity(Path(location))
    tokenizer = cfg.student.tokenizer or cfg.student.model
    tokenizer_content: Any = None
    if isinstance(tokenizer, ModelSource) and tokenizer.gguf is not None:
        tokenizer_content = path_identity(file_of(tokenizer.gguf))
    elif tokenizer.path is not None:
        folder = Path(tokenizer.path)
        # The template only where a task is a chat.
        files = TEMPLATE_FILES if any(task.chat for task in cfg.tasks) else ()
        templates = {name: path_identity(folder / name) for name in files}
        tokenizer_content = {"tokenizer": tokenizer_file(folder), **templates}
    return {
        "version": VERSION,
        "corpora": cfg.corpora,
        "tasks": [config_identity(task) for task in cfg.tasks],
        "tokenizer": tokenizer,
        "tokenizer_file": tokenizer_content,
        "content": content,
    }


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
    problems = []
    if tokenizer.eos_token_id is None:
        fix = "Give it an eos_token, or choose another with student.tokenizer."
        problems.append(Problem("student.tokenizer", "it has no end-of-sequence token.", fix))
    problems += chat_problems(cfg, tokenizer)
    if problems:
        raise InputError("the student's tokenizer can't be used:", problems)
    return tokenizer


def _build(run: Run, building: Building, tokenizer: Any) -> None:
    """Fill the artifact.

    Args:
        run: the run.
        building: the artifact.
        tokenizer: the student's, or None for one that is trained on the text.
    """
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
    require_rows(cfg, counts["rows"])
    with out.reading("text") as folder:
        text = pq.read_table(folder, columns=["stream", "split", "label", "key", "text"])
    answers = answers_of(cfg, text)
    run.raise_if_interrupted()
    run.note("shard", "making the tokenizer", completed=2, total=4)
    if tokenizer is None:
        source = cfg.student.tokenizer
        assert source is not None and source.train is not None
        sample = _sample(text, source.train.sample_bytes)
        tokenizer = train_tokenizer(sample, source.train.vocab_size)
    with out.folder("tokenizer") as folder:
        tokenizer.save_pretrained(str(folder))
    run.raise_if_interrupted()
    run.note("shard", "tokenizing and packing", completed=3, total=4)
    specs = [_task_spec(task, answers[task.name], text) for task in cfg.tasks]
    grouped = cfg.corpora.batching == "grouped"
    pack = PackBucket(out.uri, corpora, specs, cfg.corpora.sequence_length, grouped)
    counts = {**counts, **over_buckets(cfg.corpora.num_shards, pack)}
    tables = {table: dict(sorted(items.items())) for table, items in counts.items()}
    empty: dict[str, dict[str, int]] = {name: {} for name in ("packed", "tokens", "too_long")}
    summary = TokenizerSummary(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    record = ShardCounts(**{**empty, **tables}, tokenizer=summary, answers=answers)
    building.counts |= record.model_dump()


def _sample(text: pa.Table, size_bytes: int) -> Iterator[str]:
    """Yield train texts in the order of their keys, which is random yet fixed."""
    remaining = size_bytes
    for value in text.filter(pc.equal(text["split"], "train")).sort_by("key")["text"]:
        yield value.as_py()
        remaining -= len(value.as_py().encode())
        if remaining <= 0:
            return


def _task_spec(task: TaskConfig, answers: Mapping[str, str], text: pa.Table) -> TaskSpec:
    """How a task's rows become samples; its labels go to the first keys of the train split."""
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

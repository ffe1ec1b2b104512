"""Corpora and tasks → ShardSet: read, clean, deduplicate, split, tokenize, pack, write.

The unit of work is a part: a few megabytes of one source. Which part holds a row depends on the
input's bytes alone, so the result is the same for any number of workers. A part's report is
written last, so a killed run goes on with the parts that have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_ray.config.data import RowSource
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.config.fingerprint import path_identity
from distill_ray.config.models import ModelSource
from distill_ray.config.run import RunConfig, labelled_streams, shifted_stream
from distill_ray.core.plugins import source_digest
from distill_ray.data.rows import SPLITS
from distill_ray.data.tokenizer import train_tokenizer
from distill_ray.models.packages import file_of
from distill_ray.models.tokenizers import tokenizer_of
from distill_ray.models.vocab import tokenizer_file
from distill_ray.runtime.artifacts import Building
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage
from distill_ray.stages.preflight.check_tokenizers import chat_problems, conversation_problems
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.files import local_paths
from distill_ray.stages.reading.inspection import TEXT_FORMAT
from distill_ray.stages.results.shard_set import ShardCounts, ShardSet, TokenizerSummary
from distill_ray.stages.sharding.check_data import (
    answers_of,
    refuse_conflicts,
    refuse_equal_answers,
    refuse_long_rows,
    refuse_long_templates,
    require_rows,
    require_streams,
)
from distill_ray.stages.sharding.files import SCRATCH
from distill_ray.stages.sharding.labels import label_counts, last_labelled_key
from distill_ray.stages.sharding.parts import (
    Piece,
    StreamPart,
    plan_stream_parts,
    stream_numbers,
    stream_rules,
)
from distill_ray.stages.sharding.summary import (
    StreamTally,
    format_notes,
    notes,
    packed_counts,
    remove,
)
from distill_ray.stages.sharding.vocabulary import vocabulary_fits

VERSION = 6
"""Raised when the stage's output changes for equal input."""

BAD_TOKENIZER = "the student's tokenizer can't be used:"
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
            with artifact.building(resumable=True) as building:
                _build(run, building, tokenizer)
            for line in building.counts["notes"]:
                run.progress.emit(Event("note", "shard", line))
    shards = ShardSet(artifact, run.cfg)
    require_streams(shards)
    vocabulary_fits(run, shards)
    return shards


def _identity(cfg: RunConfig) -> dict[str, object]:
    """What decides the shards: config, and content as far as this machine can tell."""
    tokenizer = cfg.student.tokenizer or cfg.student.model
    tokenizer_content: Any = None
    if isinstance(tokenizer, ModelSource) and tokenizer.gguf is not None:
        tokenizer_content = path_identity(file_of(tokenizer.gguf))
    elif tokenizer.path is not None:
        folder = Path(tokenizer.path)
        # The template, because conversations and chats are rendered by it.
        templates = {name: path_identity(folder / name) for name in TEMPLATE_FILES}
        tokenizer_content = {"tokenizer": tokenizer_file(folder), **templates}
    return {
        "version": VERSION,
        "corpora": cfg.corpora,
        "tasks": [config_identity(task) for task in cfg.tasks],
        "tokenizer": tokenizer,
        "tokenizer_file": tokenizer_content,
        "content": {where: _content(source) for where, source in cfg.sources()},
    }


def _content(source: RowSource) -> Any:
    """What identifies a source's rows; None for what isn't on this machine."""
    if source.format == "callable":
        return source_digest(source.location)
    # By name, not by folder: a submitted job finds the same files elsewhere.
    try:
        return [(path.name, path_identity(path)) for path in local_paths(source)] or None
    except ReadError:  # Told with all others, once the parts are planned.
        return None


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
        raise InputError(BAD_TOKENIZER, [problem]) from error
    problems = []
    if tokenizer.eos_token_id is None:
        fix = "Give it an eos_token, or choose another with student.tokenizer."
        problems.append(Problem("student.tokenizer", "it has no end-of-sequence token.", fix))
    problems += chat_problems(cfg, tokenizer)
    if problems:
        raise InputError(BAD_TOKENIZER, problems)
    return tokenizer


def _build(run: Run, building: Building, tokenizer: Any) -> None:
    """Fill the artifact.

    Args:
        run: the run.
        building: the artifact.
        tokenizer: the student's, or None for one that is trained on the text.
    """
    from distill_ray.stages.sharding.removal import remove_duplicates
    from distill_ray.stages.sharding.similar import remove_contaminated, remove_near_duplicates

    cfg, out, numbers = run.cfg, building.storage, stream_numbers(run.cfg)
    parts = plan_stream_parts(cfg)
    talks = {part.reader.stream for part in parts if part.reader.row_format != TEXT_FORMAT}
    if problems := list(conversation_problems(cfg, talks, tokenizer)):
        raise InputError(BAD_TOKENIZER, problems)
    tallies, pieces = _read(run, out, parts)
    readers = {piece.number: piece.reader for piece in pieces}
    num_rows = sum(sum(tally.rows.values()) for tally in tallies.values())
    removals = remove_duplicates(run, out, [*readers], num_rows, stream_rules(cfg))
    refuse_conflicts(cfg, out, pieces, removals)
    remove(out, tallies, removals, numbers)
    remove(out, tallies, remove_contaminated(run, out, pieces), numbers)
    remove(out, tallies, remove_near_duplicates(run, out, pieces), numbers)
    rows = {
        f"{stream}/{split}": tally.rows[split]
        for stream, tally in tallies.items()
        for split in SPLITS
        if tally.rows[split]
    }
    require_rows(cfg, tallies)
    run.raise_if_interrupted()

    labels = _count_labels(cfg, out, pieces, tallies)
    answers = answers_of(cfg, {task.name: labels[task.labelled_stream] for task in cfg.tasks})
    tokenizer = tokenizer or _trained_tokenizer(run, out, pieces, tallies)
    refuse_equal_answers(cfg, answers, tokenizer)
    refuse_long_templates(cfg, answers, tokenizer)
    with out.folder("tokenizer") as folder:
        tokenizer.save_pretrained(str(folder))
    run.raise_if_interrupted()

    reports = _pack(run, building, pieces, answers, tallies)
    refuse_long_rows(cfg, tallies)
    unknown = {
        stream: foreign
        for task in cfg.tasks
        for stream in (shifted_stream(task, s.name) for s in task.shifted)
        if (
            foreign := Counter(
                {k: v for k, v in labels[stream].items() if k not in answers[task.name]}
            )
        )
    }
    record = ShardCounts(
        rows=dict(sorted(rows.items())),
        packed=packed_counts(reports, "packed"),
        tokens=packed_counts(reports, "tokens"),
        streams={name: tally.counts() for name, tally in tallies.items()},
        answers=answers,
        tokenizer=TokenizerSummary(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        notes=[
            *format_notes(part.reader for part in parts),
            *notes(tallies, cfg.corpora.sequence_length, unknown),
        ],
    )
    building.counts |= record.model_dump()
    for folder_name in SCRATCH:
        out.delete(folder_name)


def _read(
    run: Run, out: Storage, parts: Sequence[StreamPart]
) -> tuple[dict[str, StreamTally], list[Piece]]:
    """Read and clean all parts, and add up what each stream holds.

    Returns:
        stream → its sums, and all pieces in order.

    Raises:
        InputError: rows can't be read, and aren't to be skipped.
    """
    from distill_ray.stages.sharding.read_worker import ReadPart
    from distill_ray.stages.sharding.runner import over_parts

    tallies: dict[str, StreamTally] = {}
    for reader in (part.reader for part in parts):
        tally = StreamTally(reader.where, reader.on_long_row, reader.is_labelled)
        tallies.setdefault(reader.stream, tally)
    items = [(part.number, part) for part in parts]
    reports: dict[int, Mapping[str, Any]] = {}
    for number, report in over_parts(run, out, "read", items, ReadPart(out.uri)):
        if "faults" in report:
            where = parts[number].reader.where
            problems = [Problem(where, fault) for fault in report["faults"]]
            raise InputError("the input can't be read:", problems)
        reports[number] = report
    pieces: list[Piece] = []
    for part in parts:  # In their order, whichever was done first.
        tallies[part.reader.stream].add_read(reports[part.number])
        pieces += [Piece(number, part.reader) for number in reports[part.number]["pieces"]]
    return tallies, pieces


def _count_labels(
    cfg: RunConfig, out: Storage, pieces: Sequence[Piece], tallies: Mapping[str, StreamTally]
) -> dict[str, Counter[str]]:
    """Stream with labels → label → rows."""
    labels = {}
    for task in cfg.tasks:
        for stream in labelled_streams(task):
            labels[stream] = tallies[stream].labels = label_counts(out, pieces, stream)
    return labels


def _trained_tokenizer(
    run: Run, out: Storage, pieces: Sequence[Piece], tallies: Mapping[str, StreamTally]
) -> Any:
    """A tokenizer that is trained on the train texts."""
    from distill_ray.stages.sharding.tokenizer_sample import tokenizer_sample

    run.note("shard", "training the tokenizer")
    source = run.cfg.student.tokenizer
    assert source is not None and source.train is not None
    train_bytes = sum(tally.size_bytes["train"] for tally in tallies.values())
    sample = tokenizer_sample(run, out, pieces, train_bytes, source.train.sample_bytes)
    return train_tokenizer(sample, source.train.vocab_size)


def _pack(
    run: Run,
    building: Building,
    pieces: Sequence[Piece],
    answers: Mapping[str, Mapping[str, str]],
    tallies: Mapping[str, StreamTally],
) -> list[dict[str, Any]]:
    """Tokenize and pack all pieces, and add up what each stream holds.

    Returns:
        the pieces' reports in order, without what is added up at once: the lengths of samples would
        fill the driver's memory.

    Raises:
        InputError: the chat template refuses a conversation.
    """
    from distill_ray.stages.sharding.pack_worker import CorpusSpec, PackPart, TaskSpec
    from distill_ray.stages.sharding.runner import over_parts

    cfg, out = run.cfg, building.storage
    readers = {piece.number: piece.reader for piece in pieces}
    on_long_row = {piece.reader.stream: piece.reader.on_long_row for piece in pieces}
    corpora = {
        corpus.name: CorpusSpec(corpus.conversation, on_long_row[corpus.name])
        for corpus in cfg.corpora.sources
    }
    tasks = [
        # The labels go to the first keys of the train split.
        TaskSpec(task, answers[task.name], last_labelled_key(out, pieces, task))
        for task in cfg.tasks
    ]
    grouped = cfg.corpora.batching == "grouped"
    work = PackPart(out.uri, corpora, tasks, cfg.corpora.sequence_length, grouped)
    items = [(piece.number, (piece.number, piece.reader.stream)) for piece in pieces]
    reports: dict[int, dict[str, Any]] = {}
    for number, report in over_parts(run, out, "pack", items, work):
        if report["faults"]:
            problems = [Problem(readers[number].where, f) for f in report["faults"][:5]]
            raise InputError("the chat template refuses conversations:", problems)
        building.digests |= report.pop("files")
        tallies[readers[number].stream].add_lengths(report.pop("lengths"))
        reports[number] = report
    for piece in pieces:  # In their order, whichever was done first.
        tallies[piece.reader.stream].add_packed(reports[piece.number])
    return [reports[piece.number] for piece in pieces]

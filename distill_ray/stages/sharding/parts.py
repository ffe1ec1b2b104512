"""A run's sources → numbered parts of a bounded size: what one task reads, packs and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distill_ray.config.data import CorporaConfig, RowSource
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig, StreamSource, labelled_streams
from distill_ray.stages.reading.batches import Part
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.inspection import TEXT_FORMAT, row_format
from distill_ray.stages.reading.parts import input_bytes, plan_parts
from distill_ray.stages.reading.row_formats import ROW_FORMATS
from distill_ray.stages.sharding.deduplicate import StreamRules

NUM_PARTS = 64
"""Parts of an input whose parts are neither of the smallest nor of the largest size."""
SMALLEST, LARGEST = 4 << 20, 64 << 20
"""Bytes of a part, as they are stored."""
LARGEST_PIECE = 2 * LARGEST
"""Bytes of a piece's text."""
BYTES_A_TOKEN, ROWS_A_PART = 4, 512
"""A part fills so many rows, so that few of them have room left."""


@dataclass(frozen=True)
class StreamReader:
    """How rows of one source become rows of the TEXT contract."""

    number: int
    """Of its stream."""
    stream: str
    source: RowSource
    where: str
    """Place in the config."""
    row_format: str
    """`text`, or a format of conversations."""
    is_labelled: bool
    """Whether labels are read."""
    split: str | None
    """The split of all its rows; None where `validation` and `test` are shares of its groups."""
    validation: float
    test: float
    seed: int
    filters: tuple[str, ...]
    on_long_row: str
    """What happens to a row that is longer than a packed row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        source = self.source
        if self.row_format != TEXT_FORMAT:
            return (*ROW_FORMATS[self.row_format].columns, source.group_column)
        labels = (source.label_column,) if self.is_labelled else ()
        return (source.text_column, *labels, source.group_column)


@dataclass(frozen=True)
class StreamPart:
    """What one task reads."""

    number: int
    reader: StreamReader
    part: Part
    piece_bytes: int
    """Text of a piece, about: a part that can't be cut before it is read may hold more."""


@dataclass(frozen=True)
class Piece:
    """Rows of a part that are written and packed together."""

    number: int
    """Names its files; see `piece_number`."""
    reader: StreamReader


MOST_PIECES = 10_000
"""Of a part."""
MOST_PARTS = (1 << 30) // MOST_PIECES


def piece_number(part: int, place: int) -> int:
    """The number of a part's piece. Less than 2^30: `similar.py` packs it into 64 bits."""
    if place >= MOST_PIECES:
        raise ValueError(f"a file or function holds over {MOST_PIECES} pieces: give several files")
    return part * MOST_PIECES + place


def stream_numbers(cfg: RunConfig) -> dict[str, int]:
    """Stream → its number."""
    names = dict.fromkeys(source.stream for source in cfg.stream_sources())
    return {name: number for number, name in enumerate(names)}


def stream_rules(cfg: RunConfig) -> StreamRules:
    """What decides between rows of equal content."""
    numbers, corpora = stream_numbers(cfg), {corpus.name for corpus in cfg.corpora.sources}
    majority = set()
    for task in cfg.tasks:
        if task.on_conflict == "majority":
            majority |= {*labelled_streams(task)}
    return StreamRules(
        protected=[name not in corpora for name in numbers],
        prompts_of={
            numbers[task.prompts_stream]: numbers[task.labelled_stream]
            for task in cfg.tasks
            if task.prompts_stream in numbers
        },
        majority=[name in majority for name in numbers],
    )


def plan_stream_parts(cfg: RunConfig) -> list[StreamPart]:
    """Cut all sources into parts. Their number and content depend on the input's bytes alone.

    Raises:
        InputError: a source can't be opened, or isn't what the config says; carries every problem.
    """
    problems: list[Problem] = []
    readers: list[StreamReader] = []
    total = 0
    for source in cfg.stream_sources():
        try:
            readers.append(_reader(cfg, source))
            total += input_bytes(source.source)
        except ReadError as error:
            problems.append(fault_problem(source.where, error))
        except InputError as error:
            problems += error.problems
    problems += _mixed_formats(readers)
    if problems:
        raise InputError("the input can't be read:", problems)
    size = part_bytes(total, cfg.corpora)
    parts = [
        (reader, part)
        for reader in readers
        for part in plan_parts(reader.source, size, reader.columns)
    ]
    assert len(parts) <= MOST_PARTS, "a part has 64 MiB of an input of this size"
    return [StreamPart(number, *pair, piece_bytes=2 * size) for number, pair in enumerate(parts)]


def _mixed_formats(readers: Sequence[StreamReader]) -> Iterator[Problem]:
    """Splits of one stream of which some hold conversations, and others texts."""
    first: dict[str, StreamReader] = {}
    for reader in readers:
        other = first.setdefault(reader.stream, reader)
        if (reader.row_format == TEXT_FORMAT) != (other.row_format == TEXT_FORMAT):
            what = (
                f"{reader.source.location} is read with row_format {reader.row_format}, "
                f"{other.source.location} with {other.row_format}: one stream holds either "
                "texts or conversations."
            )
            yield Problem(reader.where, what, "Make two corpora of them, or set row_format.")


def part_bytes(total: int, corpora: CorporaConfig) -> int:
    """Bytes of a part of an input of so many bytes."""
    row_filling = corpora.sequence_length * BYTES_A_TOKEN * ROWS_A_PART
    return max(min(total // NUM_PARTS, LARGEST), SMALLEST, min(row_filling, LARGEST))


def fault_problem(where: str, error: ReadError) -> Problem:
    """A fault of an input as a problem of the config's key that names the input."""
    return Problem(where, str(error.fault))


def _reader(cfg: RunConfig, source: StreamSource) -> StreamReader:
    """How a source is read, by what its first rows look like.

    Raises:
        ReadError: they aren't what the config says.
    """
    tasks = {name: task for task in cfg.tasks for name in labelled_streams(task)}
    corpora = {corpus.name: corpus for corpus in cfg.corpora.sources}
    found_format = row_format(source.source, is_corpus=source.stream in corpora)
    validation, test = cfg.corpora.validation_fraction, cfg.corpora.test_fraction
    given = _given_splits(cfg, source)
    return StreamReader(
        number=stream_numbers(cfg)[source.stream],
        stream=source.stream,
        source=source.source,
        where=source.where,
        row_format=found_format,
        is_labelled=source.stream in tasks,
        split=source.split if source.split != "train" or len(given) == 3 else None,
        validation=0.0 if "validation" in given else validation,
        test=0.0 if "test" in given else test,
        seed=cfg.corpora.split_seed,
        filters=corpora[source.stream].filters if source.stream in corpora else (),
        on_long_row=_on_long_row(cfg, source.stream, found_format),
    )


def _on_long_row(cfg: RunConfig, stream: str, found_format: str) -> str:
    """What happens to a stream's long rows."""
    for corpus in cfg.corpora.sources:
        if corpus.name == stream:
            default = "split" if found_format == TEXT_FORMAT else "error"
            return corpus.on_long_row or default
    return next(task.on_long_row for task in cfg.tasks if stream.startswith(f"{task.name}."))


def _given_splits(cfg: RunConfig, source: StreamSource) -> set[str]:
    if source.split is None:
        return set()
    same = (s for s in cfg.stream_sources() if s.stream == source.stream)
    return {s.split for s in same if s.split is not None}


def pieces_of(pieces: Sequence[Piece], stream: str) -> Iterator[Piece]:
    """The pieces of one stream."""
    return (piece for piece in pieces if piece.reader.stream == stream)

"""The shard stage's result: packed rows, their text and the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.config.run import RunConfig, shifted_stream, task_templates
from distill_ray.data.examples import Cut, Questions, questions
from distill_ray.data.prompt_format import SIDES, task_prompt_format
from distill_ray.data.rows import TEXT
from distill_ray.data.tokenizer import load_tokenizer
from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.record import Record

LENGTHS = ("p50", "p90", "p99", "max")
BEFORE_FILTERS = ("bad", "empty")
AFTER_FILTERS = (
    "duplicate", "leak", "conflict", "contaminated", "near_duplicate", "unsupervised",
)  # fmt: skip
"""Why rows are left out, in the order of the work; between them, what filters say."""


class TokenizerSummary(Record):
    """What a model's config must say of the tokenizer."""

    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None


class LeftOut(Record):
    """Rows of a stream that were left out for one reason."""

    rows: int
    examples: list[str]
    """A few of them."""


class StreamCounts(Record):
    """What became of a stream's rows."""

    num_read: int
    """Rows that the files hold, blank lines not counted."""
    left_out: dict[str, LeftOut]
    """Reason → rows: `bad`, `empty`, `duplicate`, `near_duplicate`, `leak`, `conflict`,
    `contaminated`, `unsupervised`, or what a filter says."""
    kept: int
    long: LeftOut
    """Rows that are longer than a packed row: split or truncated, as `on_long_row` says."""
    tokens: int
    """Without padding."""
    supervised: int
    """Tokens whose prediction the data or the teacher supervise."""
    reasoning: int
    """Tokens of reasoning."""
    lengths: dict[str, int]
    """`p50`, `p90`, `p99` and `max` of a sample's tokens, before it is cut."""
    labels: dict[str, int]
    """The ten most frequent labels → rows."""
    num_labels: int
    files: dict[str, dict[str, int]]
    """File → reason → rows, for bad and empty rows; at most 20 files."""


class ShardCounts(Record):
    """The counts in a shard set's manifest, most of them by `<stream>/<split>`."""

    rows: dict[str, int]
    packed: dict[str, int]
    """Packed rows."""
    tokens: dict[str, int]
    streams: dict[str, StreamCounts]
    """Stream → what became of its rows. A task's prompts are counted with its labelled rows, but
    for those with a source of their own."""
    answers: dict[str, dict[str, str]]
    """Task → label → answer text."""
    tokenizer: TokenizerSummary
    notes: list[str]
    """What a reader should know of the input, one line each."""


def left_out_reasons(counts: ShardCounts) -> list[str]:
    """Why rows of any stream were left out, in the order of the work."""
    occurring = {reason for stream in counts.streams.values() for reason in stream.left_out}
    filters = sorted(occurring - {*BEFORE_FILTERS, *AFTER_FILTERS})
    return [r for r in (*BEFORE_FILTERS, *filters, *AFTER_FILTERS) if r in occurring]


class VocabularyFits(Record):
    """`fit.json`: how teachers' vocabularies fit the student's."""

    teachers: dict[str, float]
    """Teacher → share of the student's tokens that are in its vocabulary."""


@dataclass(frozen=True)
class ShardSet(Result):
    """Packed rows of every stream and split, the text they came from, and the tokenizer."""

    cfg: RunConfig

    @cached_property
    def counts(self) -> ShardCounts:
        """Counts of its rows, the answers' texts, and the tokenizer's size."""
        return ShardCounts.of_counts(self.artifact)

    def tokenizer(self) -> Any:
        """The tokenizer of the student and of every row."""
        return load_tokenizer(self.artifact.local() / "tokenizer")

    def text(self, split: str, streams: Iterable[str] | None = None) -> pa.Table:
        """Text rows of a split, those of all streams by default."""
        folder = self.artifact.local() / "text"
        names = sorted(p.name for p in folder.iterdir()) if streams is None else streams
        files = [file for name in names for file in sorted((folder / name).glob("*.parquet"))]
        tables = [
            pq.read_table(file, filters=[("split", "=", split)], schema=TEXT) for file in files
        ]
        return pa.concat_tables([TEXT.empty_table(), *tables])


def held_out_questions(shards: ShardSet, split: str) -> list[Questions]:
    """Each task's questions of a held-out split, followed by those of its shifted sets."""
    tokenizer = shards.tokenizer()
    result = []
    for task in shards.cfg.tasks:
        templates = task_templates(task)
        sets = {task.name: task.labelled_stream} | {
            f"{task.name}.{s.name}": shifted_stream(task, s.name) for s in task.shifted
        }
        answers = shards.counts.answers[task.name]
        form = task_prompt_format(tokenizer, task)
        cut = None
        if task.on_long_row != "error":  # Else no row is too long.
            cut = Cut(shards.cfg.corpora.sequence_length, SIDES[task.on_long_row])
        for name, stream in sets.items():
            table = shards.text(split, [stream]).sort_by("row_id")
            scored = table.slice(0, task.max_examples).to_pylist()
            result.append(
                questions(
                    name,
                    scored,
                    template=templates[stream],
                    answers=answers,
                    prompt_format=form,
                    cut=cut,
                )
            )
    return result


def task_questions(shards: ShardSet, split: str) -> list[Questions]:
    """The tasks' own questions of a held-out split, without those of shifted sets."""
    tasks = {task.name for task in shards.cfg.tasks}
    return [q for q in held_out_questions(shards, split) if q.name in tasks]

"""The shard stage's result: packed rows, their text and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill_ray.config.run import RunConfig
from distill_ray.data.examples import Questions, questions
from distill_ray.data.prompt_format import make_prompt_format
from distill_ray.data.rows import TEXT
from distill_ray.data.tokenizer import load_tokenizer
from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.record import Record


class TokenizerSummary(Record):
    """What a model's config must say of the tokenizer."""

    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None


class ShardCounts(Record):
    """The counts in a shard set's manifest, most of them by `<stream>/<split>`."""

    rows: dict[str, int]
    packed: dict[str, int]
    """Packed rows."""
    tokens: dict[str, int]
    too_long: dict[str, int]
    """Samples that are longer than a row."""
    removed: dict[str, int]
    """`duplicates` and `leaks`."""
    answers: dict[str, dict[str, str]]
    """Task → label → answer text."""
    tokenizer: TokenizerSummary


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

    def text(self, split: str) -> pa.Table:
        """Text rows of a split."""
        folder = self.artifact.local() / "text"
        return pq.read_table(folder, filters=[("split", "=", split)], schema=TEXT)


def held_out_questions(shards: ShardSet, split: str) -> list[Questions]:
    """Each task's questions of a held-out split, followed by those of its shifted sets."""
    from distill_ray.config.run import shifted_stream

    tokenizer, table = shards.tokenizer(), shards.text(split)
    result = []
    for task in shards.cfg.tasks:
        sets = [(task.name, task.labelled_stream, task.prompt)]
        sets += [
            (f"{task.name}.{s.name}", shifted_stream(task, s.name), s.prompt or task.prompt)
            for s in task.shifted
        ]
        answers = shards.counts.answers[task.name]
        form = make_prompt_format(tokenizer, chat=task.chat, system=task.system)
        for name, stream, template in sets:
            rows = table.filter(pc.equal(table["stream"], stream)).sort_by("row_id").to_pylist()
            scored = rows[: task.max_examples]
            result.append(
                questions(name, scored, template=template, answers=answers, prompt_format=form)
            )
    return result


def task_questions(shards: ShardSet, split: str) -> list[Questions]:
    """The tasks' own questions of a held-out split, without those of shifted sets."""
    tasks = {task.name for task in shards.cfg.tasks}
    return [q for q in held_out_questions(shards, split) if q.name in tasks]

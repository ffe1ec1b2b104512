"""A part's clean rows → the text that stays and packed rows of tokens, on a Ray worker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill_ray.config.data import ConversationConfig, TaskConfig
from distill_ray.config.run import task_templates
from distill_ray.data.chat_template import ChatTemplate, corpus_template
from distill_ray.data.conversation import Conversation
from distill_ray.data.packing import Sample, Samples, labelled_sample, prompt_sample
from distill_ray.data.prompt_format import SIDES, task_prompt_format
from distill_ray.data.tokenizer import encode_batch, end_id, load_tokenizer, start_ids
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sharding.files import kept_rows, write_table

BATCH_ROWS = 1024
"""Texts that are tokenized at once."""
MAX_ROW_GROUP_TOKENS = 1 << 20
"""Tokens of a row group of packed rows, about."""
NUM_EXAMPLES = 3

Rows = dict[str, list[Any]]
"""Columns of the TEXT contract as plain values."""


@dataclass(frozen=True)
class CorpusSpec:
    """How rows of running text, or conversations, become samples."""

    conversation: ConversationConfig
    on_long_row: str


@dataclass(frozen=True)
class TaskSpec:
    """How rows of a task become samples."""

    task: TaskConfig
    answers: Mapping[str, str]
    """Label → answer text."""
    last_key: str
    """Train rows with a key beyond this one give their label up."""


@dataclass
class _Counts:
    """What became of a part's rows, by `<stream>/<split>`."""

    packed: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    supervised: Counter[str] = field(default_factory=Counter)
    reasoning: Counter[str] = field(default_factory=Counter)
    long: Counter[str] = field(default_factory=Counter)
    unsupervised: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Tokens of a sample, before it is cut → samples."""
    long_examples: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Path → SHA-256."""

    def plain(self) -> dict[str, Any]:
        tables = ("packed", "tokens", "supervised", "reasoning", "long", "unsupervised")
        plain: dict[str, Any] = {name: dict(+getattr(self, name)) for name in tables}
        plain["lengths"] = {name: sorted(counts.items()) for name, counts in self.lengths.items()}
        return plain | {
            "long_examples": self.long_examples,
            "faults": self.faults,
            "files": self.files,
        }


@lru_cache(maxsize=2)
def _tokenizer(uri: str) -> Any:
    """The tokenizer of a shard set that is being built; a process loads it once."""
    with Storage(uri).reading("tokenizer") as folder:
        return load_tokenizer(Path(folder))


@dataclass(frozen=True)
class PackPart:
    """Writes a part's final text rows and packed rows."""

    uri: str
    corpora: Mapping[str, CorpusSpec]
    tasks: Sequence[TaskSpec]
    length: int
    grouped: bool = False
    """A row for each sample, instead of rows that are filled."""

    def __call__(self, item: tuple[int, str]) -> dict[str, Any]:
        """Pack the part of this number and stream.

        Returns:
            Counts, `faults` of conversations that the template refuses, and examples of long rows.
        """
        number, stream = item
        out, tokenizer, counts = Storage(self.uri), _tokenizer(self.uri), _Counts()
        table = kept_rows(out, number).sort_by("key")  # Random, and independent of the files.
        counts.files |= write_table(out, f"text/{stream}/{number:06d}.parquet", table)
        samples: dict[tuple[str, str], list[Samples]] = defaultdict(list)
        if stream in self.corpora:
            parts = self._corpus_samples(tokenizer, table, stream, counts)
        else:
            parts = self._task_samples(tokenizer, table, stream, counts)
        for name, split, batch in parts:
            samples[name, split].append(batch)
        for (name, split), batches in samples.items():
            joined, place = Samples.concatenated(batches), f"{name}/{split}"
            if not joined.sources:
                continue
            prefix = f"{name}:{split}:{number:06d}"
            if self.grouped:
                packed = joined.rows_of_their_own(prefix)
                rows = max(1, MAX_ROW_GROUP_TOKENS * len(packed) // max(1, len(joined.ids)))
            else:
                packed = joined.pack(self.length, end_id(tokenizer), prefix)
                rows = max(1, MAX_ROW_GROUP_TOKENS // self.length)
            file = f"packed/{place}/{number:06d}.parquet"
            counts.files |= write_table(out, file, packed, rows)
            counts.packed[place] += len(packed)
            counts.tokens[place] += len(joined.ids)
            counts.supervised[place] += int((joined.label_mask | joined.teacher_mask).sum())
        return counts.plain()

    def _corpus_samples(
        self, tokenizer: Any, table: pa.Table, stream: str, counts: _Counts
    ) -> Iterator[tuple[str, str, Samples]]:
        spec = self.corpora[stream]
        start, end = start_ids(tokenizer), end_id(tokenizer)
        template: ChatTemplate | None = None
        for split, rows in _batches(table):
            if rows["turns"].null_count == len(rows):
                ids = encode_batch(tokenizer, rows["text"].to_pylist())
                samples = Samples.of_texts(rows["row_id"].to_pylist(), ids, start, end)
            else:
                if template is None:
                    template = corpus_template(tokenizer, spec.conversation)
                plain = rows.select(["turns", "tools"]).to_pylist()
                conversations = [Conversation.from_row(row) for row in plain]
                samples = _rendered(template, rows, conversations, f"{stream}/{split}", counts)
            fitting = self._fitted(samples, spec.on_long_row, f"{stream}/{split}", counts)
            if rows["turns"].null_count < len(rows):  # A cut may part the answers from a piece.
                taught = fitting.teaching
                counts.unsupervised[f"{stream}/{split}"] += int((~taught).sum())
                fitting = fitting.chosen(taught)
            yield stream, split, fitting

    def _fitted(self, samples: Samples, on_long_row: str, place: str, counts: _Counts) -> Samples:
        """Samples that fit into a row."""
        lengths, times = np.unique(samples.lengths, return_counts=True)
        counts.lengths[place].update(dict(zip(lengths.tolist(), times.tolist())))
        long = samples.lengths > self.length
        if not long.any():
            return samples
        counts.long[place] += int(long.sum())
        for index in np.flatnonzero(long)[: NUM_EXAMPLES - len(counts.long_examples)].tolist():
            counts.long_examples.append(
                f"{samples.sources[index]}: {samples.lengths[index]} tokens"
            )
        if on_long_row == "split":
            return samples.split_long(self.length)
        if on_long_row == "error":  # The stage refuses the run, once all are counted.
            return samples.chosen(~long)
        return samples.truncate(self.length, SIDES[on_long_row])

    def _task_samples(
        self, tokenizer: Any, table: pa.Table, stream: str, counts: _Counts
    ) -> Iterator[tuple[str, str, Samples]]:
        specs = {name: spec for spec in self.tasks for name in task_templates(spec.task)}
        spec, task = specs[stream], specs[stream].task
        template = task_templates(task)[stream]
        is_trained_on = stream in (task.labelled_stream, task.prompts_stream)
        form = task_prompt_format(tokenizer, task)
        answers = {label: form.answer(text) for label, text in spec.answers.items()}
        for split, rows in _batches(table):
            plain: Rows = {
                name: rows[name].to_pylist() for name in ("row_id", "key", "text", "label")
            }
            prompts = form.prompts([template.format(text=text) for text in plain["text"]])
            by_stream: dict[str, list[Sample]] = {
                task.labelled_stream: [],
                task.prompts_stream: [],
            }
            for row_id, key, text, label, prompt in zip(*plain.values(), prompts):
                in_budget = split != "train" or key <= spec.last_key
                answer = None
                if stream != task.prompts_stream and label is not None and in_budget:
                    answer = answers.get(label)  # A shifted set may have other labels.
                room = 0 if answer is None else answer.size
                size = len(prompt) + room
                name = task.prompts_stream if answer is None else task.labelled_stream
                place = f"{name if is_trained_on else stream}/{split}"
                counts.lengths[place][size] += 1
                if size > self.length:
                    counts.long[place] += 1
                    if len(counts.long_examples) < NUM_EXAMPLES:
                        counts.long_examples.append(f"{row_id}: {size} tokens")
                    if task.on_long_row == "error":  # The stage refuses the run.
                        continue
                    side = SIDES[task.on_long_row]
                    prompt = form.prompt_of(template, text, self.length - room, side)
                if not is_trained_on:
                    continue
                if answer is None:
                    sample = prompt_sample(row_id, prompt)
                else:
                    sample = labelled_sample(
                        row_id, prompt, answer.ids, answer.end, answer.trailing
                    )
                by_stream[name].append(sample)
            for name, samples in by_stream.items():
                yield name, split, Samples.of(samples)


def _rendered(
    template: ChatTemplate,
    rows: pa.Table,
    conversations: Iterable[Conversation],
    place: str,
    counts: _Counts,
) -> Samples:
    """Samples of conversations; those that the template refuses are faults."""
    samples = []
    row_ids, texts = rows["row_id"].to_pylist(), rows["text"].to_pylist()
    for row_id, text, rendered in zip(row_ids, texts, template.samples_many(conversations)):
        if isinstance(rendered, ValueError):
            counts.faults.append(f"the conversation that begins {text[:60]!r}: {rendered}.")
            continue
        for item in rendered:
            counts.reasoning[place] += item.reasoning_tokens
            if any(item.label_mask):
                samples.append(Sample(row_id, item.ids, item.label_mask, item.label_mask))
            else:
                counts.unsupervised[place] += 1
    return Samples.of(samples)


def _batches(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each split, in batches."""
    for split in pc.unique(table["split"]).to_pylist():
        of_split = table.filter(pc.equal(table["split"], split))
        for first in range(0, len(of_split), BATCH_ROWS):
            yield split, of_split.slice(first, BATCH_ROWS)

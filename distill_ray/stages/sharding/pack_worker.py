"""The work on one bucket, on a Ray worker. Files are named by bucket, so a retry replaces them."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from distill_ray.data.packing import (
    Sample,
    labelled_sample,
    pack,
    prompt_sample,
    split_long,
    text_sample,
    unpacked,
)
from distill_ray.data.prompt_format import Answer, PromptFormat, make_prompt_format
from distill_ray.data.rows import PACKED, TEXT
from distill_ray.data.tokenizer import encode, end_id, load_tokenizer, start_ids
from distill_ray.data.transforms import Row, deduplicate
from distill_ray.runtime.storage import Storage

Counts = dict[str, Counter[str]]
"""Name of a table of counts → its entries."""


def over_buckets(buckets: int, work: Any) -> Counts:
    """Run `work(bucket)` on each bucket in parallel, and add up the counts it returns."""
    items = [{"bucket": i} for i in range(buckets)]
    data = ray.data.from_items(items, override_num_blocks=buckets)
    totals: Counts = defaultdict(Counter)
    rows = data.flat_map(
        lambda item: [
            {"table": table, "entry": entry, "count": count}
            for table, counter in work(item["bucket"]).items()
            for entry, count in counter.items()
        ]
    )
    for row in rows.iter_rows():
        totals[row["table"]][row["entry"]] += row["count"]
    return totals


@dataclass(frozen=True)
class Deduplicate:
    """Fragments of a bucket → its file of text rows."""

    uri: str
    protected: frozenset[str]
    """Streams whose held-out texts no stream may train on."""

    def __call__(self, bucket: int) -> Counts:
        """Write the text rows that stay."""
        out = Storage(self.uri)
        rows: list[Row] = []
        with out.reading(f"fragments/bucket={bucket}") as folder:
            for file in sorted(folder.glob("*.parquet")):
                rows += pq.ParquetFile(file).read(columns=TEXT.names).to_pylist()
        unique = deduplicate(rows, self.protected)
        write_parquet(out, f"text/{bucket:05d}.parquet", unique.rows, TEXT)
        return {
            "rows": Counter(f"{r['stream']}/{r['split']}" for r in unique.rows),
            "removed": Counter(duplicates=unique.duplicates, leaks=unique.leaks),
        }


@dataclass(frozen=True)
class TaskSpec:
    """How rows of a task become samples."""

    labelled: str
    prompts: str
    template: str
    answers: Mapping[str, str]
    chat: bool
    system: str | None
    last_key: str
    """Train rows with a key beyond this one give their label up."""


@dataclass(frozen=True)
class PackBucket:
    """A bucket's text rows → packed rows of every stream and split."""

    uri: str
    corpora: Sequence[str]
    tasks: Sequence[TaskSpec]
    length: int
    grouped: bool = False
    """A row for each sample, instead of rows that are filled."""

    def __call__(self, bucket: int) -> Counts:
        """Write the packed rows of each stream and split."""
        out = Storage(self.uri)
        with out.reading("tokenizer") as folder:
            tokenizer = load_tokenizer(folder)
        data = pa.BufferReader(out.read_bytes(f"text/{bucket:05d}.parquet"))
        rows = pq.read_table(data, schema=TEXT).to_pylist()
        samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for stream, split, sample in self._samples(rows, tokenizer):
            samples[stream, split].append(sample)
        counts: Counts = {"packed": Counter(), "tokens": Counter(), "too_long": Counter()}
        for (stream, split), all_samples in samples.items():
            fitting = [s for s in all_samples if len(s.ids) <= self.length]
            prefix = f"{stream}:{split}:{bucket:05d}"
            packed = list(
                unpacked(fitting, prefix)
                if self.grouped
                else pack(fitting, self.length, end_id(tokenizer), prefix)
            )
            name = f"{stream}/{split}"
            write_parquet(out, f"packed/{name}/{bucket:05d}.parquet", packed, PACKED)
            counts["packed"][name] += len(packed)
            counts["tokens"][name] += sum(len(s.ids) for s in fitting)
            counts["too_long"][name] += len(all_samples) - len(fitting)
        return {table: +counter for table, counter in counts.items()}

    def _samples(self, rows: Iterable[Row], tokenizer: Any) -> Iterator[tuple[str, str, Sample]]:
        start, end = start_ids(tokenizer), end_id(tokenizer)
        tasks = [_TokenizedTask.of(spec, tokenizer) for spec in self.tasks]
        by_stream = {name: t for t in tasks for name in (t.spec.labelled, t.spec.prompts)}
        for row in rows:
            stream, split = row["stream"], row["split"]
            if stream in self.corpora:
                text = text_sample(row["row_id"], start + encode(tokenizer, row["text"]), end)
                for part in split_long([text], self.length):
                    yield stream, split, part
            elif stream in by_stream:
                name, sample = by_stream[stream].sample(row)
                yield name, split, sample


@dataclass(frozen=True)
class _TokenizedTask:
    """A task whose texts can become tokens."""

    spec: TaskSpec
    prompt_format: PromptFormat
    answers: Mapping[str, Answer]

    @classmethod
    def of(cls, spec: TaskSpec, tokenizer: Any) -> _TokenizedTask:
        prompt_format = make_prompt_format(tokenizer, chat=spec.chat, system=spec.system)
        answers = {label: prompt_format.answer(text) for label, text in spec.answers.items()}
        return cls(spec, prompt_format, answers)

    def sample(self, row: Row) -> tuple[str, Sample]:
        """Make a labelled sample, or a prompt of a row without a label or beyond their budget."""
        spec = self.spec
        prompt = self.prompt_format.prompt(spec.template.format(text=row["text"]))
        in_budget = row["split"] != "train" or row["key"] <= spec.last_key
        if row["stream"] == spec.labelled and row["label"] is not None and in_budget:
            answer = self.answers[row["label"]]
            sample = labelled_sample(row["row_id"], prompt, answer.ids, answer.end, answer.trailing)
            return spec.labelled, sample
        return spec.prompts, prompt_sample(row["row_id"], prompt)


def write_parquet(storage: Storage, path: str, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write rows as one compressed file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    storage.write_bytes(path, buffer.getvalue())

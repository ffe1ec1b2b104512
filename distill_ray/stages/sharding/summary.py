"""Reports of parts → what became of every stream's rows, as counts and as lines for the reader."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill_ray.data.rows import SPLITS
from distill_ray.data.transforms import normalise
from distill_ray.runtime.storage import Storage
from distill_ray.stages.reading.inspection import TEXT_FORMAT
from distill_ray.stages.results.shard_set import LeftOut, StreamCounts
from distill_ray.stages.sharding.deduplicate import REASONS, Removals
from distill_ray.stages.sharding.files import clean_row
from distill_ray.stages.sharding.parts import StreamReader

MOST_LABELS, MOST_FILES, MOST_EXAMPLES = 10, 20, 3
EXAMPLE_CHARS = 200
PERCENTILES = (50, 90, 99)


@dataclass
class StreamTally:
    """Sums over a stream's parts."""

    where: str
    """Place of its source in the config."""
    on_long_row: str
    """What happens to its long rows."""
    is_labelled: bool = False
    """Whether its rows should have labels."""
    read: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    """Split → clean rows, duplicates included; `remove` takes those that go."""
    size_bytes: Counter[str] = field(default_factory=Counter)
    """Split → bytes of the texts, duplicates included."""
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    files: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    labels: Counter[str] = field(default_factory=Counter)
    long: int = 0
    long_examples: list[str] = field(default_factory=list)
    tokens: int = 0
    supervised: int = 0
    reasoning: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def add_read(self, report: Mapping[str, Any]) -> None:
        """Add what reading a part reported."""
        self.read += report["read"]
        self.rows.update(report["rows"])
        self.size_bytes.update(report["size_bytes"])
        self.left_out.update(report["left_out"])
        for reason, text in report["filtered_examples"].items():
            self.add_example(reason, text)
        for file, reasons in report["files"].items():
            self.files[file].update(reasons)

    def add_example(self, reason: str, text: str) -> None:
        """Keep the first few that differ."""
        if len(self.examples[reason]) < MOST_EXAMPLES and text not in self.examples[reason]:
            self.examples[reason].append(text)

    def add_packed(self, report: Mapping[str, Any]) -> None:
        """Add what packing a part reported."""
        self.long += sum(report["long"].values())
        self.long_examples += report["long_examples"][: MOST_EXAMPLES - len(self.long_examples)]
        for name in ("tokens", "supervised", "reasoning"):
            setattr(self, name, getattr(self, name) + sum(report[name].values()))
        self.left_out["unsupervised"] += sum(report["unsupervised"].values())

    def add_lengths(self, lengths_by_split: Mapping[str, Iterable[tuple[int, int]]]) -> None:
        """Add the lengths of a piece's samples, with how many there are of each."""
        for lengths in lengths_by_split.values():
            self.lengths.update(dict(lengths))

    def counts(self) -> StreamCounts:
        """The sums as the manifest has them."""
        return StreamCounts(
            num_read=self.read,
            left_out={
                reason: LeftOut(rows=count, examples=self.examples.get(reason, []))
                for reason, count in sorted((+self.left_out).items())
            },
            kept=sum(self.rows.values()),
            long=LeftOut(rows=self.long, examples=self.long_examples),
            tokens=self.tokens,
            supervised=self.supervised,
            reasoning=self.reasoning,
            lengths=percentiles(self.lengths),
            labels=dict(self.labels.most_common(MOST_LABELS)),
            num_labels=len(self.labels),
            files={file: dict(self.files[file]) for file in sorted(self.files)[:MOST_FILES]},
        )


def remove(
    out: Storage,
    tallies: Mapping[str, StreamTally],
    removals: Removals,
    numbers: Mapping[str, int],
) -> None:
    """Take away the rows that go, and keep a few of them as examples.

    Args:
        out: where the parts' rows are.
        tallies: stream → its sums.
        removals: the rows that go.
        numbers: stream → its number.
    """
    names = {number: name for name, number in numbers.items()}
    for (stream, split, reason), count in removals.counts.items():
        tally = tallies[names[stream]]
        tally.left_out[reason] += count
        tally.rows[SPLITS[split]] -= count
    for example in removals.examples:
        text = example.get("text") or clean_row(out, example["part"], example["row"])["text"]
        reason = REASONS[example["reason"]]
        tallies[names[example["stream"]]].add_example(reason, text[:EXAMPLE_CHARS])


def percentiles(lengths: Mapping[int, int]) -> dict[str, int]:
    """`p50`, `p90`, `p99` (nearest rank) and `max` of values with their counts."""
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    ranks = np.cumsum([lengths[value] for value in values.tolist()])
    places = {
        f"p{share}": int(values[np.searchsorted(ranks, np.ceil(ranks[-1] * share / 100))])
        for share in PERCENTILES
    }
    return {**places, "max": int(values[-1])}


def format_notes(readers: Iterable[StreamReader]) -> Iterator[str]:
    """A line for each source whose rows are read as conversations because of their columns."""
    for where, reader in {reader.where: reader for reader in readers}.items():
        if reader.row_format != TEXT_FORMAT and reader.source.row_format is None:
            yield (
                f"{reader.stream}: {where} is read as conversations, by its columns "
                f"(row_format: {reader.row_format})."
            )


def notes(
    tallies: Mapping[str, StreamTally], length: int, unknown_labels: Mapping[str, Counter[str]]
) -> Iterator[str]:
    """Lines on what was left out, cut or guessed.

    Args:
        tallies: stream → its sums.
        length: tokens of a packed row.
        unknown_labels: stream → labels that its task doesn't have → rows.
    """
    for name, tally in tallies.items():
        counts = tally.counts()
        for reason, left_out in counts.left_out.items():
            example = f", for example {left_out.examples[0][:80]!r}" if left_out.examples else ""
            of_rows = f"{left_out.rows:,} of {counts.num_read:,} rows"
            if reason == "unsupervised":  # A row may give several samples, or pieces.
                of_rows = f"{left_out.rows:,} samples of {counts.num_read:,} rows"
            yield f"{name}: {of_rows} {reason_text(reason)}{example}."
        unlabelled = counts.kept - sum(tally.labels.values())
        if tally.is_labelled and unlabelled:
            use = "aren't asked" if ".shifted." in name else "serve as prompts"
            yield f"{name}: {unlabelled:,} of {counts.kept:,} rows have no label: they {use}."
        for alike in _alike(tally.labels):
            yield f"{name}: the labels {alike} differ in white space or case alone."
        if counts.long.rows:
            done = "split" if tally.on_long_row == "split" else "truncated"
            yield (
                f"{name}: {counts.long.rows:,} of {counts.kept:,} rows are longer than "
                f"{length:,} tokens: {done} ({', '.join(counts.long.examples)})."
            )
        if counts.reasoning:
            share = counts.reasoning / max(1, counts.tokens)
            yield f"{name}: {share:.1%} of the tokens are reasoning."
    for name, unknown in unknown_labels.items():
        shown = ", ".join(f"{label!r} ({count:,})" for label, count in unknown.most_common(5))
        yield (
            f"{name}: {sum(unknown.values()):,} rows have a label that the task doesn't have, so "
            f"they aren't asked: {shown}."
        )


def _alike(labels: Iterable[str]) -> Iterator[str]:
    """Labels that are one and the same but for white space and case, in words."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        spellings[normalise(label)].append(label)
    for same in spellings.values():
        if len(same) > 1:
            yield ", ".join(map(repr, same))


REASON_TEXTS = {
    "bad": "can't be read and were skipped (bad_rows in the shard set)",
    "empty": "have no text",
    "duplicate": "have the text of another row",
    "near_duplicate": "are nearly equal to another row",
    "leak": "are left out of a split because a later one holds their text",
    "conflict": "have a text with several labels",
    "contaminated": "share text with a test",
    "unsupervised": "have nothing to learn",
}


def reason_text(reason: str) -> str:
    """Why rows were left out, as what is said of them."""
    return REASON_TEXTS.get(reason, "didn't pass a filter: " + reason)


def packed_counts(reports: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    """`<stream>/<split>` → the sum of a count over all parts."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report[name])
    return dict(sorted(total.items()))

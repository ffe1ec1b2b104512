"""ShardSet → rows as training reads them, token by token, with what supervises each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.run import RunConfig
from distill_ray.data.rows import PACKED, SPLITS
from distill_ray.data.transforms import Row
from distill_ray.stages.results.shard_set import ShardSet

BY = {
    (False, False): "none",
    (True, False): "data",
    (False, True): "teacher",
    (True, True): "both",
}
"""(label_mask, teacher_mask) of a prediction → who supervises it."""
PADDING = "padding"


@dataclass(frozen=True)
class Token:
    """A token, and who supervises its prediction."""

    id: int
    text: str
    """What it adds to the text; nothing where a character's bytes go on in the next token."""
    by: str
    """`data`, `teacher`, `both`, `none` or `padding`."""


@dataclass(frozen=True)
class SampleShown:
    """One sample of a row, or its padding."""

    source: str | None
    """row_id of the text row; None for padding."""
    tokens: list[Token]
    after: str = "none"
    """Who supervises the prediction behind the last token, of a token that isn't there: an
    unlabelled prompt's answer."""


@dataclass(frozen=True)
class RowShown:
    """One row of a stream."""

    stream: str
    split: str
    columns: Row = field(repr=False)
    """The row of the PACKED contract."""
    samples: list[SampleShown]

    @property
    def tokens(self) -> list[Token]:
        """All tokens in order, padding included."""
        return [token for sample in self.samples for token in sample.tokens]

    @property
    def predictions(self) -> list[str]:
        """Who supervises each prediction, those behind a last token included."""
        after = [sample.after for sample in self.samples if sample.after != "none"]
        return [token.by for token in self.tokens] + after


def refuse_unknown(cfg: RunConfig, stream: str | None, split: str) -> None:
    """Refuse a stream or split that the run doesn't have.

    Raises:
        InputError: with the nearest one that it has.
    """
    problems = [
        Problem(flag, f"no {name!r}.", did_you_mean(name, known))
        for flag, name, known in (("--stream", stream, cfg.streams()), ("--split", split, SPLITS))
        if name is not None and name not in known
    ]
    if problems:
        raise InputError("this can't be shown:", problems)


def show(shards: ShardSet, *, rows: int, split: str, stream: str | None = None) -> list[RowShown]:
    """Read the first rows of each stream that has some in this split, or of one stream.

    Raises:
        InputError: there is no row to show.
    """
    refuse_unknown(shards.cfg, stream, split)
    tokenizer = shards.tokenizer()
    names = [stream] if stream is not None else list(shards.cfg.streams())
    shown = []
    for name in names:
        folder, remaining = shards.artifact.local() / "packed" / name / split, rows
        for file in sorted(folder.glob("*.parquet")):
            if remaining > 0:
                packed = pq.read_table(file, schema=PACKED).slice(0, remaining).to_pylist()
                remaining -= len(packed)
                shown += [RowShown(name, split, row, samples_of(row, tokenizer)) for row in packed]
    if not shown:
        streams = ", ".join(sorted(shards.counts.packed))
        problem = Problem(
            f"{stream or 'every stream'}/{split}", "no row.", f"There are: {streams}."
        )
        raise InputError("this can't be shown:", [problem])
    return shown


def samples_of(row: Row, tokenizer: Any) -> list[SampleShown]:
    """Cut a row of the PACKED contract at its samples' borders."""
    ids, by = row["input_ids"], [BY[masks] for masks in zip(row["label_mask"], row["teacher_mask"])]
    starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
    samples = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(ids)])):
        # What is behind the last sample is padding, which restarts its positions too.
        source = row["sources"][number] if number < len(row["sources"]) else None
        of_token = ["none", *by[start : end - 1]] if source else [PADDING] * (end - start)
        texts = token_texts(ids[start:end], tokenizer)
        tokens = [Token(*values) for values in zip(ids[start:end], texts, of_token)]
        samples.append(SampleShown(source, tokens, by[end - 1]))
    return samples


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text; together they are the text."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    texts = [stream.step(tokenizer.backend_tokenizer, i) or "" for i in ids]
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Bytes of a character that is never completed are left.
    return [*texts[:-1], texts[-1] + text[len("".join(texts)) :]]


def counts(rows: Sequence[RowShown]) -> dict[str, dict[str, int]]:
    """Stream → `rows`, `tokens` without padding, `padding`, and predictions by who supervises."""
    by_stream: dict[str, dict[str, int]] = {}
    for row in rows:
        keys = ("rows", "tokens", *BY.values(), PADDING)
        table = by_stream.setdefault(row.stream, dict.fromkeys(keys, 0))
        table["rows"] += 1
        for by in row.predictions:
            table[by] += 1
        table["tokens"] += sum(token.by != PADDING for token in row.tokens)
    return by_stream


def plain(rows: Sequence[RowShown]) -> dict[str, object]:
    """The rows as plain values.

    `label_mask` and `teacher_mask` are as training reads them: at i they speak of token i + 1.
    `supervised_by` is shifted: at i it says who supervises the prediction of token i itself.
    """
    plain_rows = [
        {
            "stream": row.stream,
            "split": row.split,
            **row.columns,
            "texts": [token.text for token in row.tokens],
            "supervised_by": [token.by for token in row.tokens],
        }
        for row in rows
    ]
    return {"rows": plain_rows, "counts": counts(rows)}

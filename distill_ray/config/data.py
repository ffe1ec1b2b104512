"""What is read: corpora, tasks, and where their rows come from."""

from __future__ import annotations

import codecs
import string
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.fingerprint import NotInFingerprint
from distill_ray.config.numbers import Fraction, FreeMapping, Int, OpenFraction, PositiveInt
from distill_ray.config.uris import FIX, SECRET_OPTION, without_secrets

FORMATS = ("jsonl", "csv", "tsv", "parquet", "arrow", "text", "dataset", "callable")
FILE_FORMATS = FORMATS[:-2]
"""Formats of files. `dataset` may be a folder, too."""
LINE_FORMATS = ("jsonl", "csv", "tsv", "text")
"""Files of characters, which have an encoding."""
SPLITS = ("train", "validation", "test")
OnLongRow = Literal["error", "truncate_left", "truncate_right", "truncate_middle", "split"]


def _paths(value: Any) -> Any:
    paths = [value] if isinstance(value, str) else value
    if value is None:
        return None
    if not isinstance(paths, (list, tuple)) or not paths or not all(paths):
        raise ValueError("must be a path, a glob or a URI, or a list of them")
    if not all(isinstance(path, str) for path in paths):
        raise ValueError("must be a path, a glob or a URI, or a list of them")
    checked = tuple(without_secrets(path) for path in paths)
    return checked[0] if isinstance(value, str) else checked


Files = Annotated[str | tuple[str, ...] | None, BeforeValidator(_paths)]
"""A file, a folder, a glob or a URI, or a list of them."""


class RowSource(Section):
    """Rows from one place: exactly one of the first eight keys.

    Files may be compressed (.gz, .zst, .bz2, .xz). A folder's hidden files, its README and names
    that begin with `_` aren't data.
    """

    jsonl: Files = None
    """JSON Lines, or one JSON array of objects: a file, a folder, a glob or a URI; or a list."""
    csv: Files = None
    """CSV with a header."""
    tsv: Files = None
    """Tab-separated values with a header."""
    parquet: Files = None
    """Parquet files."""
    arrow: Files = None
    """Arrow IPC files or streams, Feather among them."""
    text: Files = None
    """Plain text, one row a line."""
    dataset: str | None = None
    """A Hugging Face `datasets` id, a folder made by `save_to_disk`, or a cloned repository."""
    callable: str | None = None
    """`package.module:function`; called with `options`, yields dict rows."""
    options: FreeMapping = Field(default_factory=dict)
    """Keyword arguments of `callable` or of `datasets.load_dataset`."""
    split: str = "train"
    """Which split of `dataset` is read. The run makes its own splits from it."""
    encoding: str | None = None
    """Encoding of text files, such as `cp1252`. By default UTF-8, or UTF-16 by its mark."""
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """What separates the cells of a `csv`. By default a comma."""
    row_format: Literal["text", "messages", "sharegpt", "alpaca", "prompt_completion"] | None = None
    """How a row becomes a sample. By default, its columns tell: `text` or a conversation."""
    text_column: str = "text"
    """Column with the text."""
    label_column: str = "label"
    """Column with the label."""
    group_column: str = "group"
    """Optional column with a group. Rows of one group never straddle two splits that the run
    makes; splits that are given are taken as they are."""
    max_rows: PositiveInt | None = None
    """Read at most this many rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` leaves out rows that can't be read, counts them, and keeps them with the reasons
    beside the shards."""

    @model_validator(mode="after")
    def _one_format(self) -> RowSource:
        formats = [key for key in FORMATS if getattr(self, key) is not None]
        if len(formats) != 1:
            raise ValueError(f"needs exactly one of {', '.join(FORMATS)}, got {formats or 'none'}")
        if self.callable is not None and self.callable.count(":") != 1:
            raise ValueError(f"callable {self.callable!r} is not of the form package.module:name")
        if hidden := sorted(key for key in self.options if SECRET_OPTION.fullmatch(key)):
            raise ValueError(f"options with {', '.join(hidden)}; {FIX}")
        if self.options and self.format not in ("callable", "dataset"):
            raise ValueError(f"options are for callable and dataset, not for {self.format}")
        if self.delimiter is not None and self.format != "csv":
            raise ValueError(f"delimiter is for csv, not for {self.format}")
        if self.encoding is not None:
            if self.format == "callable":
                raise ValueError("encoding is for files, not for callable")
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ValueError(f"encoding {self.encoding!r} is unknown to Python") from None
        return self

    @property
    def format(self) -> str:
        """Which of the eight it is."""
        return next(key for key in FORMATS if getattr(self, key) is not None)

    @property
    def locations(self) -> tuple[str, ...]:
        """Its paths or URIs; the one id or import path of a data set or a function."""
        location = getattr(self, self.format)
        return location if isinstance(location, tuple) else (str(location),)

    @property
    def location(self) -> str:
        """The paths, id or import path, for messages."""
        return ", ".join(self.locations)


class DataSource(RowSource):
    """Rows from one place, or `train`, `validation` and `test` from places of their own.

    Beside `train`, the other keys are defaults of all three. A split that isn't given is taken
    from `train`.
    """

    train: RowSource | None = None
    """Where the train rows are."""
    validation: RowSource | None = None
    """Where the validation rows are."""
    test: RowSource | None = None
    """Where the test rows are."""

    @model_validator(mode="before")
    @classmethod
    def _shared_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not any(data.get(split) for split in SPLITS):
            return data
        shared = {key: value for key, value in data.items() if key not in SPLITS}
        own = {split: data[split] for split in SPLITS if data.get(split) is not None}
        return {
            split: {**shared, **value} if isinstance(value, dict) else value
            for split, value in own.items()
        }

    @model_validator(mode="after")
    def _one_format(self) -> DataSource:
        if not any(getattr(self, split) for split in SPLITS):
            super()._one_format()  # type: ignore[operator]
        elif self.train is None:
            raise ValueError("validation and test need a train beside them")
        return self

    def by_split(self) -> dict[str | None, RowSource]:
        """Split → its source; under None the one that the run splits by itself.

        Rows of a given `train` are split, too, where `validation` or `test` isn't given.
        """
        if self.train is None:
            return {None: self}
        given: dict[str | None, RowSource] = {"train": self.train}
        return given | {s: v for s in SPLITS[1:] if (v := getattr(self, s)) is not None}


class ConversationConfig(Section):
    """How conversations become samples. They are rendered by the tokenizer's chat template."""

    supervise: Literal["all", "last", "marked", "each"] = "all"
    """Which of the assistant's turns are learnt: `all`, the `last`, those `marked` by their field
    `train`, or `each` as a sample of its own, since some templates show earlier turns otherwise."""
    reasoning: Literal["supervise", "mask", "strip"] = "supervise"
    """Whether reasoning is learnt, only read, or left out."""
    template_args: FreeMapping = Field(default_factory=dict)
    """Arguments of the chat template, such as `enable_thinking: false`."""


class CorpusConfig(Section):
    """Running text, or conversations."""

    name: Name
    """Name of its stream, in `mix`."""
    kind: Literal["domain", "generic"] = "domain"
    """`generic` text guards what the student knew. The audit measures how specific the domain is
    against it."""
    source: DataSource
    """Where its rows come from."""
    conversation: ConversationConfig = ConversationConfig()
    """For rows that are conversations."""
    filters: tuple[str, ...] = ()
    """Rules that a text must pass: `gopher_quality`, `gopher_repetition`, `c4`, `fineweb`, or your
    own `my_module:keep`."""
    on_long_row: OnLongRow | None = None
    """What happens to a row longer than `sequence_length`. By default `split` for text, `error`
    for conversations."""


class NearDuplicatesConfig(Section):
    """Removes train rows that are nearly equal to another row of their stream (MinHash LSH)."""

    threshold: OpenFraction = 0.8
    """Jaccard similarity of two texts' n-grams from which they count as the same."""
    ngram: PositiveInt = 5
    """Words of an n-gram."""


class DecontaminationConfig(Section):
    """Removes train rows that share text with the tasks' test rows or with benchmarks."""

    ngram: PositiveInt = 13
    """Words of an n-gram."""
    min_share: Fraction = 0.0
    """A row goes when more than this share of its n-grams is in a test."""
    benchmarks: dict[Name, RowSource] = Field(default_factory=dict)
    """Further test sets, by name; `text_column` says what is compared."""


class CorporaConfig(Section):
    """All running text, and how every row of the run is split and batched."""

    sources: tuple[CorpusConfig, ...] = Field(min_length=1)
    sequence_length: PositiveInt = 1024
    """Tokens of a packed row, and the most that a row of its own may have."""
    batching: Literal["packed", "grouped"] = "packed"
    """`packed` fills rows with whole samples (best fit), which never see each other. `grouped`
    gives each sample its own row and puts rows of similar length into one micro-batch, padded to
    its longest row. A step then has as many samples as rows, `token_budget` is an upper bound, and
    validation rows are single samples too."""
    validation_fraction: OpenFraction = 0.05
    """Share of groups held out for choices: audits, probes, best checkpoints."""
    test_fraction: OpenFraction = 0.05
    """Share of groups held out for the evaluation only."""
    near_duplicates: NearDuplicatesConfig | None = None
    """By default, only equal texts are duplicates."""
    decontaminate: DecontaminationConfig | None = None
    """By default, only texts equal to held-out ones are removed from train."""
    split_seed: Int = 0
    """Another seed gives another split."""

    @model_validator(mode="after")
    def _some_train(self) -> CorporaConfig:
        if self.validation_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction "
                f"{self.test_fraction} leave under a tenth to train on"
            )
        return self


class ShiftedConfig(Section):
    """The same task in other words or from another place."""

    name: Name
    """Name of the set, in the audit and the report."""
    source: RowSource
    prompt: str | None = None
    """Another template. By default, the task's own."""


class TaskConfig(Section):
    """A labelled question about the domain, answered by completing a prompt."""

    name: Name
    """Begins the names of its streams: `<name>.labelled` and `<name>.prompts`."""
    source: DataSource
    """Labelled rows."""
    prompt: str = "{text}\nAnswer:"
    """Template with `{text}`."""
    answer: str = " {label}"
    """Template of the answer that follows the prompt, with `{label}`."""
    answers: dict[str, str] | None = None
    """Label → the text that answers it, instead of the template."""
    chat: bool = False
    """Render the prompt as the user's turn of the tokenizer's chat template, and the answer,
    without white space around it, as the assistant's. The token that ends that turn ends the
    answer."""
    system: str | None = None
    """System turn of that chat. By default, the template decides."""
    template_args: FreeMapping = Field(default_factory=dict)
    """Arguments of the chat template, such as `enable_thinking: false`."""
    labels: tuple[str, ...] = ()
    """The labels, without `answers`. By default, those in the data."""
    num_labelled_rows: PositiveInt | None = None
    """Train rows that keep their label. The others serve as unlabelled prompts. By default, all."""
    prompts: RowSource | None = None
    """Further rows without a label."""
    on_conflict: Literal["error", "majority", "drop"] = "error"
    """What happens to a text that the data give several labels: `majority` keeps the most
    frequent, and drops the text where there is none."""
    on_long_row: Literal["error", "truncate_left", "truncate_right", "truncate_middle"] = "error"
    """What happens to a prompt that is too long for `sequence_length` with its answer. Its text is
    truncated, never the template."""
    shifted: tuple[ShiftedConfig, ...] = ()
    """Sets on which the audit measures behaviour under shift."""
    max_examples: Annotated[PositiveInt, NotInFingerprint("in that of the scores")] = 2000
    """Most held-out examples to score, per split."""

    @model_validator(mode="after")
    def _templates(self) -> TaskConfig:
        for where, template in (
            ("prompt", self.prompt),
            *((f"shifted.{s.name}.prompt", s.prompt) for s in self.shifted if s.prompt),
        ):
            fields = {f for _, f, _, _ in string.Formatter().parse(template) if f is not None}
            if fields != {"text"}:
                raise ValueError(f"{where} must hold {{text}} and no other field, got {template!r}")
        fields = {f for _, f, _, _ in string.Formatter().parse(self.answer) if f is not None}
        if fields != {"label"}:
            raise ValueError(f"answer must hold {{label}} and no other field, got {self.answer!r}")
        return self

    @model_validator(mode="after")
    def _system_in_chat(self) -> TaskConfig:
        if self.system is not None and not self.chat:
            raise ValueError("system is a turn of a chat: set chat: true, or leave it out")
        if self.template_args and not self.chat:
            raise ValueError("template_args are of a chat template: set chat: true")
        return self

    @property
    def labelled_stream(self) -> str:
        """Name of the stream of labelled rows, as `mix` sections use it."""
        return f"{self.name}.labelled"

    @property
    def prompts_stream(self) -> str:
        """Name of the stream of unlabelled prompts."""
        return f"{self.name}.prompts"

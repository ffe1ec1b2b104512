"""What is read: corpora, tasks, and where their rows come from."""

from __future__ import annotations

import string
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.fingerprint import NotInFingerprint
from distill_ray.config.numbers import FreeMapping, Int, OpenFraction, PositiveInt
from distill_ray.config.uris import FIX, SECRET_OPTION, Uri

FORMATS = ("jsonl", "csv", "parquet", "text", "dataset", "callable")


class RowSource(Section):
    """Rows from one place: exactly one of the first six keys."""

    jsonl: Uri | None = None
    """JSON Lines: a file, a folder or a URI."""
    csv: Uri | None = None
    """CSV with a header."""
    parquet: Uri | None = None
    """Parquet files."""
    text: Uri | None = None
    """Plain text, one row a line."""
    dataset: str | None = None
    """A Hugging Face `datasets` id, or a folder made by `save_to_disk`."""
    callable: str | None = None
    """`package.module:function`; called with `options`, yields dict rows."""
    options: FreeMapping = Field(default_factory=dict)
    """Keyword arguments of `callable` or of `datasets.load_dataset`."""
    split: str = "train"
    """Which split of `dataset` is read. The run makes its own splits from it."""
    text_column: str = "text"
    """Column with the text."""
    label_column: str = "label"
    """Column with the label."""
    group_column: str = "group"
    """Optional column with a group. Rows of one group never straddle two splits."""
    max_rows: PositiveInt | None = None
    """Read at most this many rows."""

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
        return self

    @property
    def format(self) -> str:
        """Which of the six it is."""
        return next(key for key in FORMATS if getattr(self, key) is not None)

    @property
    def location(self) -> str:
        """The path, id or import path."""
        return str(getattr(self, self.format))


class CorpusConfig(Section):
    """Running text."""

    name: Name
    """Name of its stream, in `mix`."""
    kind: Literal["domain", "generic"] = "domain"
    """`generic` text guards what the student knew. The audit measures how specific the domain is
    against it."""
    source: RowSource
    """Where its rows come from."""


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
    num_shards: PositiveInt = 8
    """Files of each stream. A file is the unit of parallel work."""
    split_seed: Int = 0
    """Another seed gives another split."""

    @model_validator(mode="after")
    def _some_train(self) -> CorporaConfig:
        if self.validation_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction "
                f"{self.test_fraction} leave under a tenth to train on"
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
    source: RowSource
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
    labels: tuple[str, ...] = ()
    """The labels, without `answers`. By default, those in the data."""
    num_labelled_rows: PositiveInt | None = None
    """Train rows that keep their label. The others serve as unlabelled prompts. By default, all."""
    prompts: RowSource | None = None
    """Further rows without a label."""
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
        return self

    @property
    def labelled_stream(self) -> str:
        """Name of the stream of labelled rows, as `mix` sections use it."""
        return f"{self.name}.labelled"

    @property
    def prompts_stream(self) -> str:
        """Name of the stream of unlabelled prompts."""
        return f"{self.name}.prompts"

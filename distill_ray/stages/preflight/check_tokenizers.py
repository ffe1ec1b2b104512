"""Whether teachers read the student's token ids, and its tokenizer can render chats."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from distill_ray.config.data import CorpusConfig
from distill_ray.config.errors import Problem
from distill_ray.config.models import ModelSource, TokenizerSource
from distill_ray.config.run import RunConfig
from distill_ray.data.chat_template import corpus_template
from distill_ray.data.prompt_format import task_prompt_format
from distill_ray.models import vocab
from distill_ray.models.folder import folder_problems
from distill_ray.models.tokenizers import SAME, differs, tokenizer_of
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.inspection import TEXT_FORMAT, is_here, row_format

CHAT = "Leave chat out, or name the tokenizer of a chat model as student.tokenizer."
"""What would do where a chat can't be rendered."""


def tokenizer_problems(cfg: RunConfig) -> Iterator[Problem]:
    """Tokenizers that aren't there, and teachers' that differ from the student's.

    One on the hub is compared when it is loaded.
    """
    trained = cfg.student.tokenizer is not None and cfg.student.tokenizer.train is not None
    student = None if trained else _tokenizer_file(cfg.student.model, cfg.student.tokenizer)
    sources = [("student.tokenizer", cfg.student.tokenizer)]
    sources += [(f"teachers.{i}.tokenizer", t.tokenizer) for i, t in enumerate(cfg.teachers)]
    for where, tokenizer in sources:
        if tokenizer is not None and tokenizer.path and not Path(tokenizer.path).is_dir():
            yield Problem(f"{where}.path", f"no such folder: {tokenizer.path}.")
        elif tokenizer is not None and tokenizer.path:
            yield from folder_problems(Path(tokenizer.path), f"{where}.path")
    for i, teacher in enumerate(cfg.teachers):
        where = f"teachers.{i}.tokenizer" if teacher.tokenizer else f"teachers.{i}.model"
        teacher_file = _tokenizer_file(teacher.model, teacher.tokenizer)
        if teacher.tokenizer is not None and teacher.tokenizer.train is not None:
            yield Problem(f"{where}.train", "only the student's tokenizer is trained.", SAME)
        elif trained and teacher.model.init is None:
            what = f"{teacher.name} has a tokenizer of its own, the student's is yet to be trained."
            yield Problem(where, what, "Set student.tokenizer to the teacher's folder or hub id.")
        elif student is not None and teacher_file is not None:
            fit = vocab.compare(student, teacher_file)
            if not fit.equal:
                yield differs(where, teacher.name, fit)


def _tokenizer_file(model: ModelSource, tokenizer: TokenizerSource | None) -> dict[str, Any] | None:
    """The parsed tokenizer where it lies on this machine."""
    place = (tokenizer.path if tokenizer else None) or (None if tokenizer else model.path)
    try:
        return vocab.tokenizer_file(Path(place)) if place else None
    except (OSError, ValueError):
        return None  # Another check says what is wrong with the folder.


def local_chat_problems(cfg: RunConfig) -> Iterator[Problem]:
    """Chats and the student's tokenizer, unless it is on the hub: then it is seen when loaded."""
    source = cfg.student.tokenizer or cfg.student.model
    if source.hub is not None:
        return
    corpora = [corpus.name for corpus in cfg.corpora.sources if _holds_conversations(corpus)]
    if not corpora and not any(task.chat for task in cfg.tasks):
        return
    try:
        trained = isinstance(source, TokenizerSource) and source.train is not None
        tokenizer = None if trained else tokenizer_of(source)
    except (ImportError, OSError, ValueError):
        return  # Another check says what is wrong with the model or the tokenizer.
    yield from chat_problems(cfg, tokenizer)
    yield from conversation_problems(cfg, corpora, tokenizer)


def chat_problems(cfg: RunConfig, tokenizer: Any) -> Iterator[Problem]:
    """Tasks that are worded as a chat, which this tokenizer's template doesn't serve for.

    Args:
        cfg: the config.
        tokenizer: the student's; None for one that is trained here.
    """
    for i, task in enumerate(cfg.tasks):
        if task.chat and tokenizer is None:
            yield Problem(f"tasks.{i}.chat", "a tokenizer trained here has no chat template.", CHAT)
        elif task.chat:
            try:
                task_prompt_format(tokenizer, task)
            except ValueError as error:
                yield Problem(f"tasks.{i}.chat", f"{error}.", CHAT)


def conversation_problems(
    cfg: RunConfig, corpora: Collection[str], tokenizer: Any
) -> Iterator[Problem]:
    """Corpora of conversations that no chat template can render as their config asks.

    Args:
        cfg: the config.
        corpora: names of those that hold conversations.
        tokenizer: the student's; None for one that is trained here.
    """
    for i, corpus in enumerate(cfg.corpora.sources):
        if corpus.name not in corpora:
            continue
        reason = ""
        if tokenizer is None:
            reason = "a tokenizer trained here has no chat template, which conversations need"
        else:
            try:
                corpus_template(tokenizer, corpus.conversation)
            except ValueError as error:
                reason = str(error)
        if reason:
            fix = "Name the tokenizer of a chat model as student.tokenizer."
            yield Problem(f"corpora.sources.{i}.conversation", f"{reason}.", fix)


def _holds_conversations(corpus: CorpusConfig) -> bool:
    """Whether a corpus says that it holds conversations, or its files here do."""
    for source in corpus.source.by_split().values():
        if source.row_format is not None:
            return source.row_format != TEXT_FORMAT
        try:
            if is_here(source) and row_format(source, is_corpus=True) != TEXT_FORMAT:
                return True
        except ReadError:
            return False  # Another check says what is wrong with the file.
    return False

"""A model's scores in parts: ranges of questions that are scored apart and merged. No Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from distill_ray.data.batches import in_order
from distill_ray.data.examples import Questions
from distill_ray.engine.build import load_streams
from distill_ray.engine.inference.generate import greedy_answers
from distill_ray.engine.inference.loglikelihood import (
    divergence,
    option_scores,
    prior_scores,
    size_of,
    text_score,
)
from distill_ray.engine.job import DataSpec
from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.stages.results.data_spec import local_data
from distill_ray.stages.results.local_files import local_ref
from distill_ray.stages.results.model_scores import RowLosses, ScoresRecord, TextScores
from distill_ray.stages.results.record import Record

BATCH_ROWS = 16


@dataclass(frozen=True)
class ScoringInputs:
    """What all models of a stage are scored on."""

    questions: list[Questions]
    shards: Artifact
    split: str
    data: DataSpec
    num_generated: int
    """Questions of each set that are answered freely."""
    device: str


@dataclass(frozen=True)
class QuestionRange:
    """A range of a model's questions; the first range comes with the text as well."""

    start: int
    stop: int
    """Places in all sets' questions, one set after another."""

    @property
    def key(self) -> str:
        """Names its file."""
        return f"{self.start:08d}-{self.stop:08d}"

    def slices(self, questions: Sequence[Questions]) -> Iterator[tuple[Questions, int, int]]:
        """Each set with the places in it that this range covers."""
        before = 0
        for question_set in questions:
            count = len(question_set.answer_index)
            start, stop = (min(max(place - before, 0), count) for place in (self.start, self.stop))
            yield question_set, start, stop
            before += count


class PartScores(Record):
    """A model's scores on a range of questions. Maps have question sets as keys."""

    options: dict[str, list[list[float]]]
    generated: dict[str, list[list[int]]]
    prior: dict[str, list[float]] | None
    """None but for the first range."""
    text: TextScores | None
    """None but for the first range."""
    wall_s: float


def parts_of(questions: Sequence[Questions], size: int) -> list[QuestionRange]:
    """Ranges of at most that many questions; one at least, for the text."""
    total = sum(len(question_set.answer_index) for question_set in questions)
    return [QuestionRange(i, min(i + size, total)) for i in range(0, max(total, 1), size)]


def score_part(
    model: Any, teacher: ModelRef | None, scoring: ScoringInputs, part: QuestionRange
) -> PartScores:
    """Score a model on a range of questions, and with the first range also on the text.

    `wall_s` is left at 0: the caller knows when it began.

    Args:
        model: frozen, on the device.
        teacher: KL from this one is measured as well.
        scoring: questions and text.
        part: the range.
    """
    device, vocabulary = torch.device(scoring.device), scoring.data.vocabulary
    options, generated = {}, {}
    for question_set, start, stop in part.slices(scoring.questions):
        name, in_range = question_set.name, question_set.between(start, stop)
        free = in_range.first(max(0, scoring.num_generated - start))
        scores = option_scores(model, in_range, device=device, vocabulary=vocabulary)
        options[name] = scores.round(5).tolist()
        generated[name] = greedy_answers(model, free, device=device, vocabulary=vocabulary)
    prior = {
        q.name: prior_scores(model, q, device=device, vocabulary=vocabulary).round(5).tolist()
        for q in scoring.questions
        if part.start == 0
    }
    is_first = part.start == 0
    return PartScores(
        options=options,
        generated=generated,
        prior=prior if is_first else None,
        text=_text_scores(model, teacher, scoring) if is_first else None,
        wall_s=0.0,
    )


def _text_scores(model: Any, teacher: ModelRef | None, scoring: ScoringInputs) -> TextScores:
    """What a model makes of the held-out rows, how far a teacher is, and what running it costs."""
    device, vocabulary = torch.device(scoring.device), scoring.data.vocabulary
    data = local_data(scoring.data, scoring.shards)
    streams = load_streams(data, scoring.split, data.num_validation_rows)
    scores = {
        name: text_score(model, in_order({name: s}, batch_size=BATCH_ROWS), device, vocabulary)
        for name, s in streams.items()
    }
    scores = {name: score for name, score in scores.items() if score.tokens}
    corpora = {name: score for name, score in scores.items() if not streams[name].is_task}
    pace = [seconds for score in corpora.values() for seconds in score.pace]
    size = size_of(model)
    teacher_kl: dict[str, float] = {}
    if teacher is not None:
        teacher_model = load_frozen(local_ref(teacher), device=device)
        batches = in_order(streams, batch_size=BATCH_ROWS)
        teacher_kl = divergence(model, teacher_model, batches, device, vocabulary)
    return TextScores(
        rows={name: RowLosses(nll=s.sums, tokens=s.counts) for name, s in scores.items()},
        text={name: score.nll for name, score in corpora.items()},
        full_ece={name: score.full_ece for name, score in scores.items()},
        divergence=teacher_kl,
        parameters=size["parameters"] or 0,
        bytes=size["bytes"] or 0,
        context=size["context"],
        # The first forward pass is still warming up.
        seconds_per_token=median(pace[1:] or pace) if pace else None,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def merge(questions: Sequence[Questions], parts: Sequence[PartScores]) -> ScoresRecord:
    """The scores of a model from those of all its ranges in order."""
    text, prior = parts[0].text, parts[0].prior
    assert text is not None and prior is not None
    return ScoresRecord(
        options={
            q.name: [row for part in parts for row in part.options[q.name]] for q in questions
        },
        generated={
            q.name: [ids for part in parts for ids in part.generated[q.name]] for q in questions
        },
        prior=prior,
        answer_index={q.name: q.answer_index for q in questions},
        groups={q.name: q.groups for q in questions},
        lengths={q.name: [len(option) for option in q.options] for q in questions},
        answers={q.name: q.answers for q in questions},
        end={q.name: q.end for q in questions},
        **dict(text),
    )

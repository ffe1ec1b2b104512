"""What a sheet is made of: parts that are scored apart, and put together. Knows no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from distill_ray.data.batches import Stream, in_order
from distill_ray.data.examples import Questions
from distill_ray.engine.build import load_streams
from distill_ray.engine.inference.generate import greedy_answers
from distill_ray.engine.inference.loglikelihood import (
    TextScore,
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
from distill_ray.runtime.storage import cache_folder
from distill_ray.stages.results.local_files import local_ref

BATCH_ROWS = 16

Scores = dict[str, Any]
"""A part's results, or a whole sheet's, as JSON."""


@dataclass(frozen=True)
class ScoringInputs:
    """What all models of a stage are scored on."""

    questions: list[Questions]
    shards: Artifact
    split: str
    data: DataSpec
    generate: int
    """Questions of each set that are answered freely."""
    device: str


@dataclass(frozen=True)
class QuestionRange:
    """Some of a model's questions; the first part has the text as well."""

    start: int
    stop: int
    """Places in all sets' questions, one set after another."""

    @property
    def key(self) -> str:
        """Names its file."""
        return f"{self.start:08d}-{self.stop:08d}"

    def shares(self, questions: Sequence[Questions]) -> Iterator[tuple[Questions, int, int]]:
        """Each set with this part's places in it."""
        before = 0
        for asked in questions:
            count = len(asked.answer_index)
            ends = (min(max(place - before, 0), count) for place in (self.start, self.stop))
            yield asked, *ends  # type: ignore[misc]
            before += count


def parts_of(questions: Sequence[Questions], size: int) -> list[QuestionRange]:
    """Parts of at most that many questions; one at least, for the text."""
    total = sum(len(asked.answer_index) for asked in questions)
    return [QuestionRange(at, min(at + size, total)) for at in range(0, max(total, 1), size)]


def score_part(
    model: Any, teacher: ModelRef | None, scoring: ScoringInputs, part: QuestionRange
) -> Scores:
    """A model's answers to a part's questions; of the first part, also what it makes of text.

    Args:
        model: frozen, on the device.
        teacher: KL from this one is measured as well.
        scoring: questions and text.
        part: of the questions.
    """
    where: dict[str, Any] = {
        "device": torch.device(scoring.device),
        "vocabulary": scoring.data.vocabulary,
    }
    found: Scores = {"options": {}, "generated": {}}
    for asked, start, stop in part.shares(scoring.questions):
        mine = asked.between(start, stop)
        free = mine.first(max(0, scoring.generate - start))
        found["options"][asked.name] = option_scores(model, mine, **where).round(5).tolist()
        found["generated"][asked.name] = greedy_answers(model, free, **where)
    if part.start == 0:
        found["prior"] = {
            q.name: prior_scores(model, q, **where).round(5).tolist() for q in scoring.questions
        }
        found |= _on_text(model, teacher, scoring)
    return found


def _on_text(model: Any, teacher: ModelRef | None, scoring: ScoringInputs) -> Scores:
    device, vocabulary = torch.device(scoring.device), scoring.data.vocabulary
    data = replace(scoring.data, folder=scoring.shards.local(), cache=cache_folder() / "rows")
    streams = load_streams(data, scoring.split, data.validation_rows)
    scores = {
        name: text_score(model, in_order({name: s}, batch_rows=BATCH_ROWS), device, vocabulary)
        for name, s in streams.items()
    }
    scores = {name: score for name, score in scores.items() if score.tokens}
    return {
        "rows": {name: {"nll": s.sums, "tokens": s.counts} for name, s in scores.items()},
        "text": {name: s.nll for name, s in scores.items() if not streams[name].is_task},
        "full_ece": {name: score.full_ece for name, score in scores.items()},
        "divergence": {} if teacher is None else _divergence(model, teacher, streams, scoring),
        **_cost(model, [scores[n] for n in scores if not streams[n].is_task], device),
    }


def _cost(model: Any, texts: Sequence[TextScore], device: torch.device) -> Scores:
    """Sizes, and what a forward pass takes; the first one is still warming up."""
    pace = [seconds for text in texts for seconds in text.pace]
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    took = median(pace[1:] or pace) if pace else None
    return {**size_of(model), "seconds_per_token": took, "peak_bytes": peak}


def _divergence(
    model: Any, teacher: ModelRef, streams: dict[str, Stream], scoring: ScoringInputs
) -> dict[str, float]:
    device = torch.device(scoring.device)
    theirs = load_frozen(local_ref(teacher), device=device)
    batches = in_order(streams, batch_rows=BATCH_ROWS)
    return divergence(model, theirs, batches, device, scoring.data.vocabulary)


def merge(questions: Sequence[Questions], parts: Sequence[Scores]) -> Scores:
    """The sheet of a model, from the scores of all its parts in order."""
    first = {name: value for name, value in parts[0].items() if name != "wall_s"}
    answers = {
        kind: {q.name: [one for part in parts for one in part[kind][q.name]] for q in questions}
        for kind in ("options", "generated")
    }
    asked = {
        "gold": {q.name: q.answer_index for q in questions},
        "groups": {q.name: q.groups for q in questions},
        "lengths": {q.name: [len(option) for option in q.options] for q in questions},
        "answers": {q.name: q.answers for q in questions},
        "end": {q.name: q.end for q in questions},
    }
    return {**first, **asked, **answers}

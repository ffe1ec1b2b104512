"""Check that teachers and student share one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.models import ModelSource, TokenizerSource
from distill_ray.models.tokenizers import differs, parsed, tokenizer_of
from distill_ray.models.vocab import compare
from distill_ray.runtime.run import Run
from distill_ray.stages.results.shard_set import ShardSet, VocabularyFits

FIT = "fit.json"


def vocabulary_fits(run: Run, shards: ShardSet) -> dict[str, float]:
    """Find the share of the student's tokens that each teacher has; it must have all of them.

    Raises:
        InputError: a teacher's tokenizer can't be loaded, or differs from the student's.
    """
    sources = {
        teacher.name: teacher.tokenizer or teacher.model
        for teacher in run.cfg.teachers
        if teacher.tokenizer is not None or teacher.model.init is None
    }
    identity = {"shard": shards.artifact.fingerprint, "tokenizers": sources}
    artifact = run.artifact("vocabulary", "", identity)
    if not artifact.is_complete():
        with artifact.building() as building:
            VocabularyFits(teachers=_fits(shards.tokenizer(), sources)).write(building, FIT)
    fits = VocabularyFits.read(artifact, FIT).teachers
    return {teacher.name: fits.get(teacher.name, 1.0) for teacher in run.cfg.teachers}


def _fits(student: Any, sources: Mapping[str, TokenizerSource | ModelSource]) -> dict[str, float]:
    fits, problems = {}, []
    for name, source in sources.items():
        try:
            fit = compare(parsed(student), parsed(tokenizer_of(source)))
        except (OSError, ValueError) as error:
            what = f"{name}'s tokenizer can't be loaded ({error})."
            problems.append(Problem(f"teachers.{name}", what))
            continue
        fits[name] = fit.overlap
        if not fit.equal:
            problems.append(differs(f"teachers.{name}", name, fit))
    if problems:
        raise InputError("teachers and student don't fit:", problems)
    return fits

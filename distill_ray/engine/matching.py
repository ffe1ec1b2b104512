"""Which layers of a student are matched with which of its teachers', from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_ray.config.objective import HiddenMatch, MatchConfig
from distill_ray.core.matching import Match, Matching, pairs_of
from distill_ray.models.load import config_of
from distill_ray.models.ref import ModelRef


def matching_of(
    chosen: MatchConfig, student: ModelRef, teachers: Mapping[str, ModelRef], seed: int
) -> Matching | None:
    """The module that compares them; none where nothing is matched.

    Args:
        chosen: what is.
        student: its base.
        teachers: teacher → one of its checkpoints; all of them are of one shape.
        seed: of the projections.

    Raises:
        ValueError: a layer isn't there, or sizes differ without a projection.
    """
    if not chosen.wanted:
        return None
    mine = config_of(student)
    theirs = {name: config_of(ref) for name, ref in teachers.items()}
    kinds = {}
    for kind, match in (("hidden", chosen.hidden), ("attention", chosen.attention)):
        if match is not None:
            pairs = {
                name: pairs_of(match.layers, mine.num_hidden_layers, config.num_hidden_layers)
                for name, config in theirs.items()
            }
            widths = {n: config.hidden_size for n, config in theirs.items()}
            widths = widths if isinstance(match, HiddenMatch) and match.projection else {}
            kinds[kind] = Match(pairs, match.distance, match.weight, widths)
    if chosen.hidden is not None and not chosen.hidden.projection:
        _require_equal(mine, theirs)
    return Matching(kinds, mine.hidden_size, seed=seed)


def _require_equal(mine: Any, theirs: Mapping[str, Any]) -> None:
    for name, config in theirs.items():
        if config.hidden_size != mine.hidden_size:
            raise ValueError(
                f"objective.match.hidden: the student's hidden size is {mine.hidden_size}, that of "
                f"{name} {config.hidden_size}: set projection true"
            )

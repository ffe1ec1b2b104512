"""Which layers of a student are matched with which of its teachers', from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_ray.config.objective import HiddenMatch, MatchConfig
from distill_ray.core.matching import Match, Matching, pairs_of
from distill_ray.models.load import config_of
from distill_ray.models.ref import ModelRef


def matching_of(
    match_config: MatchConfig, student: ModelRef, teachers: Mapping[str, ModelRef], seed: int
) -> Matching | None:
    """The module that compares them; none where nothing is matched.

    Args:
        match_config: what is.
        student: its base.
        teachers: teacher → one of its checkpoints; all of them are of one shape.
        seed: of the projections.

    Raises:
        ValueError: a layer isn't there, or sizes differ without a projection.
    """
    if not match_config.wanted:
        return None
    student_config = config_of(student)
    teacher_configs = {name: config_of(ref) for name, ref in teachers.items()}
    kinds = {}
    for kind, match in (("hidden", match_config.hidden), ("attention", match_config.attention)):
        if match is not None:
            pairs = {
                name: pairs_of(
                    match.layers, student_config.num_hidden_layers, config.num_hidden_layers
                )
                for name, config in teacher_configs.items()
            }
            widths = {n: config.hidden_size for n, config in teacher_configs.items()}
            widths = widths if isinstance(match, HiddenMatch) and match.projection else {}
            kinds[kind] = Match(pairs, match.distance, match.weight, widths)
    if match_config.hidden is not None and not match_config.hidden.projection:
        _require_equal(student_config, teacher_configs)
    return Matching(kinds, student_config.hidden_size, seed=seed)


def _require_equal(student_config: Any, teacher_configs: Mapping[str, Any]) -> None:
    for name, config in teacher_configs.items():
        if config.hidden_size != student_config.hidden_size:
            raise ValueError(
                "objective.match.hidden: the student's hidden size is "
                f"{student_config.hidden_size}, that of {name} {config.hidden_size}: "
                "set projection true"
            )

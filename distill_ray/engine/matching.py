"""Which layers of a student are matched with which of its teachers', from their configs."""

from __future__ import annotations

from collections.abc import Mapping

from distill_ray.config.objective import HiddenMatch, MatchConfig
from distill_ray.core.matching import Match, Matching, pairs_of
from distill_ray.models.load import config_of
from distill_ray.models.ref import ModelRef


def matching_of(
    match_config: MatchConfig, student: ModelRef, teachers: Mapping[str, ModelRef], seed: int
) -> Matching | None:
    """Build the module that compares matched layers; None where nothing is matched.

    Args:
        match_config: which layers are matched, and how.
        student: its base model.
        teachers: teacher → one of its checkpoints; all of a teacher's have one shape.
        seed: of the projections.

    Raises:
        ValueError: a layer isn't there, or hidden sizes differ without a projection.
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
    size = student_config.hidden_size
    if match_config.hidden is not None and not match_config.hidden.projection:
        for name, config in teacher_configs.items():
            if config.hidden_size != size:
                raise ValueError(
                    f"objective.match.hidden: the student's hidden size is {size}, that of {name} "
                    f"{config.hidden_size}: set projection true"
                )
    return Matching(kinds, size, seed=seed)

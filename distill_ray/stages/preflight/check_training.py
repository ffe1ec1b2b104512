"""Whether this machine has the kernels, and the models the layers, that a training asks for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

from distill_ray.config.errors import Problem
from distill_ray.config.models import ModelSource
from distill_ray.config.objective import HiddenMatch
from distill_ray.config.run import RunConfig
from distill_ray.config.training import TrainingConfig
from distill_ray.core.matching import pairs_of
from distill_ray.core.memory import ModelShape
from distill_ray.models.inspect import shape_of


@dataclass(frozen=True)
class Kernels:
    """What the workers of this machine can compute with."""

    gpu: bool
    """Each worker has an accelerator."""
    compiler: bool
    """There is a C++ compiler, which torch.compile needs on a CPU."""
    flash: bool
    """The package flash-attn is there."""

    @classmethod
    def here(cls, gpus_per_worker: float) -> Kernels:
        """Look for them on this machine."""
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        return cls(gpus_per_worker > 0, compiler is not None, find_spec("flash_attn") is not None)


def kernel_problems(where: str, training: TrainingConfig, kernels: Kernels) -> Iterator[Problem]:
    """Kernels that a training asks for and that aren't there.

    Args:
        where: the training's place in the config.
        training: its config.
        kernels: what there is.
    """
    sdpa = "Set attn_implementation: sdpa."
    if training.torch_compile and not (kernels.gpu or kernels.compiler):
        what = "on a CPU it needs a C++ compiler, and there is no g++."
        yield Problem(f"{where}.torch_compile", what, "Install one, or set torch_compile: false.")
    if training.attn_implementation in ("flash_attention_2", "flex_attention") and not kernels.gpu:
        kernel = training.attn_implementation
        what = f"{kernel} trains on a GPU only, and cluster.gpus_per_worker is 0."
        yield Problem(f"{where}.attn_implementation", what, sdpa)
    elif training.attn_implementation == "flash_attention_2" and not kernels.flash:
        yield Problem(
            f"{where}.attn_implementation", "the package flash-attn is not installed.", sdpa
        )
    elif training.attn_implementation == "flash_attention_2" and training.precision == "float32":
        what = "flash_attention_2 computes in bfloat16, and precision is float32."
        yield Problem(
            f"{where}.attn_implementation",
            what,
            "Set precision: bfloat16, or attn_implementation: sdpa.",
        )


def match_problems(cfg: RunConfig) -> Iterator[Problem]:
    """Layers that aren't there and sizes that differ, of models that can be read here."""
    objectives = {"probe": cfg.probe.objective, "distill": cfg.distill.objective}
    matches = {where: each.match for where, each in objectives.items() if each.match.wanted}
    student = _shape(cfg.student.model) if matches else None
    if student is None:
        return
    shapes = [(teacher.name, _shape(teacher.model)) for teacher in cfg.teachers]
    teachers = [(name, shape) for name, shape in shapes if shape is not None]
    for (place, match), (name, teacher) in product(matches.items(), teachers):
        for kind, section in (("hidden", match.hidden), ("attention", match.attention)):
            if section is None:
                continue
            where = f"{place}.objective.match.{kind}"
            try:
                pairs_of(section.layers, student.layers, teacher.layers)
            except ValueError as error:
                yield Problem(f"{where}.layers", f"{name}: {error}.")
            projected = not isinstance(section, HiddenMatch) or section.projection
            if not projected and student.hidden != teacher.hidden:
                what = f"{name}'s hidden size is {teacher.hidden}, the student's {student.hidden}."
                yield Problem(f"{where}.projection", what, "Set projection: true.")


def _shape(source: ModelSource) -> ModelShape | None:
    """A model's sizes, where its config tells them; another check says what is wrong with it."""
    try:
        shape = shape_of(source, None)
    except (OSError, ValueError):
        return None
    return shape if shape is not None and shape.layers and shape.hidden else None

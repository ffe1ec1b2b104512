"""How models are trained: the budgets, optimiser and loss that adapt, probe and distill share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.ensemble import EnsembleConfig
from distill_ray.config.fingerprint import (
    HOW_COMPUTED,
    NotInArm,
    NotInFingerprint,
    NotInStudy,
    OnlyWithTeacher,
)
from distill_ray.config.mixing import Mix, MixingConfig
from distill_ray.config.numbers import REAL, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.schedule import (
    STEP_SCHEDULES,
    FixedSchedule,
    OnSwitchConfig,
    ProgressConfig,
    RankedSchedule,
    ReassessConfig,
    Schedule,
)
from distill_ray.config.serving import ColocatedServing, PoolServing, SampledTargets, Serving

ONE_WORKER = NotInStudy("a study trains on one worker, with the teacher in it")
SAID_BY_STUDY = NotInStudy("a study's trials say themselves who teaches when")
SAID_BY_ARM = NotInArm("an arm says itself what happens when the teacher changes")


class LossWeights(Section):
    """Weight of each kind of row. Each kind is a mean over its own supervised tokens."""

    text: NonNegativeFloat = 1.0
    """Weight of running text."""
    task: NonNegativeFloat = 1.0
    """Weight of labelled rows and prompts."""


class OffloadConfig(Section):
    """What DeepSpeed keeps in main memory instead of the accelerator's."""

    optimizer: bool = False
    """Optimiser states. Needs `zero_stage` 1 or more."""
    parameters: bool = False
    """Weights. Needs `zero_stage` 3."""


class TrainingConfig(Section):
    """The keys that all trainings share: recipes of adapt, probes, and distill."""

    token_budget: PositiveInt
    """Tokens to train on, padding included. Steps are token_budget / (global_batch_size ×
    sequence_length)."""
    global_batch_size: PositiveInt = 32
    """Packed rows in a step, over all workers."""
    micro_batch_size: PositiveInt = 8
    """Rows of one forward pass of one worker. Gradient accumulation makes up the global batch."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate of a cosine schedule with linear warm-up."""
    warmup_ratio: Fraction = 0.1
    """Share of the steps that warm up."""
    min_lr_ratio: Fraction = 0.1
    """Final learning rate, as a share of the peak."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    mix: Mix
    """Share of each stream, from the first step on."""
    mixing: MixingConfig = MixingConfig()
    """What the shares count, and whether they change during training."""
    loss_weights: LossWeights = LossWeights()
    precision: Literal["float32", "bfloat16"] = "float32"
    """Weights and arithmetic of the model. Losses are always computed in float32."""
    zero_stage: Annotated[Literal[0, 1, 2, 3], ONE_WORKER] = 0
    """DeepSpeed ZeRO: 1 shards optimiser states, 2 gradients too, 3 parameters too."""
    offload: Annotated[OffloadConfig, ONE_WORKER] = OffloadConfig()
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    """Attention kernels of transformers."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    torch_compile: bool = False
    """Compile the backbones with `torch.compile`. On a CPU it needs a C++ compiler."""
    max_skipped_steps: PositiveInt = 10
    """Training stops after this many steps in a row whose loss or gradient isn't finite. Each such
    step is skipped and its rows are quarantined."""

    @model_validator(mode="after")
    def _offload_fits(self) -> TrainingConfig:
        if self.offload.optimizer and self.zero_stage < 1:
            raise ValueError("offload.optimizer needs zero_stage 1, 2 or 3")
        if self.offload.parameters and self.zero_stage < 3:
            raise ValueError("offload.parameters needs zero_stage 3")
        return self

    @property
    def mixes(self) -> tuple[dict[str, float], ...]:
        """The first mix, and those that follow it."""
        return (self.mix, *(change.mix for change in self.mixing.changes))

    @property
    def streams(self) -> frozenset[str]:
        """All that are read at some time."""
        return frozenset(name for mix in self.mixes for name in mix)

    def num_steps(self, sequence_length: int) -> int:
        """Optimiser steps of the whole budget, at least one."""
        return max(1, self.token_budget // (self.global_batch_size * sequence_length))


Training = TypeVar("Training", bound=TrainingConfig)


def without(training: Training, streams: Collection[str]) -> Training:
    """The same training, with the share of some streams given to the others of each mix."""

    def rest(mix: dict[str, float]) -> dict[str, float]:
        return {name: share for name, share in mix.items() if name not in streams} or mix

    how = training.mixing
    changes = tuple(c.model_copy(update={"mix": rest(c.mix)}) for c in how.changes)
    how = how.model_copy(update={"changes": changes})
    return training.model_copy(update={"mix": rest(training.mix), "mixing": how})


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by peft."""

    rank: PositiveInt = 16
    """Rank of each adapter."""
    alpha: PositiveFloat = 32.0
    """Adapters are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1), REAL] = 0.0
    """Dropout before each adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear`, or names as peft takes them."""


class RecipeConfig(TrainingConfig):
    """One phase of a teacher's adaptation."""

    method: Literal["full", "lora"] = "full"
    """Train all weights, or adapters."""
    lora: LoraConfig = LoraConfig()
    """Adapters, if the method is `lora`."""
    num_checkpoints: PositiveInt = 3
    """Checkpoints to keep, at equal token spacing. The last one is the end of training."""
    early_stopping_patience: PositiveInt | None = 2
    """Training stops after this many checkpoints in a row without a lower validation loss. `null`
    trains to the end."""


class AdaptConfig(Section):
    """How teachers are fine-tuned on the domain before they teach."""

    recipes: dict[Name, RecipeConfig] = Field(default_factory=dict)
    """Name → recipe. Teachers refer to the names."""
    num_validation_rows: PositiveInt = 64
    """Packed validation rows per stream that choose the best checkpoint."""
    save_steps: PositiveInt = 200
    """Steps between checkpoints for resuming."""


def _default_schedule(known: Mapping[str, Any]) -> Schedule:
    """The ranking anew, where it is one teacher that is chosen, and can be on the way."""
    cached = getattr(known.get("serving"), "kind", "") == "cached"
    return FixedSchedule() if cached or known.get("ensemble") is not None else RankedSchedule()


ALL_KEPT = "it selects among checkpoints that are all kept"


class DistillConfig(TrainingConfig):
    """How the student is distilled."""

    lora: LoraConfig | None = None
    """Train adapters of the student instead of all its weights."""
    serving: Annotated[Serving, OnlyWithTeacher(), ONE_WORKER] = ColocatedServing()
    """Where the teacher runs."""
    objective: Annotated[ObjectiveConfig, OnlyWithTeacher()] = ObjectiveConfig()
    first_teacher: Annotated[Name | None, OnlyWithTeacher()] = None
    """The teacher that begins. By default, the one that leads the ranking for an untrained
    student."""
    ensemble: Annotated[EnsembleConfig | None, OnlyWithTeacher()] = None
    """Several teachers at once. By default, one teaches at a time. Members move through their
    checkpoints together: each is at the same share of its own."""
    schedule: Annotated[Schedule, OnlyWithTeacher(), SAID_BY_STUDY] = Field(
        default_factory=_default_schedule
    )
    """Which checkpoint teaches when. By default `ranked`, or `fixed` for an ensemble and for cached
    targets."""
    reassess: Annotated[ReassessConfig, OnlyWithTeacher(), SAID_BY_STUDY] = ReassessConfig()
    progress: Annotated[ProgressConfig, OnlyWithTeacher(), SAID_BY_ARM] = ProgressConfig()
    on_switch: Annotated[OnSwitchConfig, OnlyWithTeacher(), SAID_BY_ARM] = OnSwitchConfig()
    eval_steps: Annotated[PositiveInt, SAID_BY_STUDY] = 50
    """Steps between measurements of the student's progress."""
    num_validation_rows: PositiveInt = 64
    """Packed validation rows per stream of these measurements."""
    num_checkpoints: PositiveInt = 1
    """Checkpoints of the student to keep, at equal token spacing. The last one is the end of
    training."""
    select_checkpoint: Annotated[Literal["last", "best"], NotInFingerprint(ALL_KEPT)] = "last"
    """Which of them is evaluated and exported. `best` has the least validation loss. The control's
    is selected in the same way."""
    save_steps: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED), NotInStudy(HOW_COMPUTED)] = (
        100
    )
    """Steps between checkpoints for resuming."""

    @model_validator(mode="after")
    def _something_to_choose(self) -> DistillConfig:
        if self.select_checkpoint == "best" and self.num_checkpoints == 1:
            raise ValueError(
                "select_checkpoint: the best of 1 checkpoint is the last one. Set "
                "num_checkpoints too"
            )
        return self

    @model_validator(mode="after")
    def _serving_fits(self) -> DistillConfig:
        targets = getattr(self.serving, "targets", None)
        if isinstance(targets, SampledTargets) and self.objective.divergence != "forward_kl":
            raise ValueError(
                "serving.targets: samples are unbiased for forward_kl alone, and "
                f"objective.divergence is {self.objective.divergence}. Set kind: top_k"
            )
        by_steps = self.schedule.kind in STEP_SCHEDULES
        decided = [] if by_steps else [f"schedule {self.schedule.kind}"]
        if self.reassess.at_progress:
            decided.append(f"reassess.at_progress {list(self.reassess.at_progress)}")
        if self.serving.kind == "cached" and decided:
            raise ValueError(
                "serving cached computes targets before training, but which checkpoint they are of "
                f"is decided on the way, by {' and '.join(decided)}. Set reassess.at_progress: [] "
                "and a schedule fixed, at_steps or equal_periods, or another serving"
            )
        exact = self.serving.kind == "colocated" or getattr(self.serving, "is_exact", False)
        if self.schedule.kind == "scd" and not exact:
            raise ValueError(
                "schedule scd compares checkpoints by whole distributions, and serving.targets is "
                f"{targets.kind if targets else self.serving.kind}. Set kind: hidden"
            )
        return self

    @model_validator(mode="after")
    def _match_fits(self) -> DistillConfig:
        require_match(self, self.objective)
        if self.objective.match.wanted and self.serving.kind != "colocated":
            raise ValueError(
                "objective.match: the teacher's layers are read in the worker, and serving is "
                f"{self.serving.kind}. Set serving colocated"
            )
        return self

    @model_validator(mode="after")
    def _ensemble_fits(self) -> DistillConfig:
        if self.ensemble is None:
            return self
        wrong = []
        if self.first_teacher is not None:
            wrong.append(f"first_teacher {self.first_teacher} begins alone")
        if self.schedule.kind in ("scd", "ranked"):
            wrong.append(f"schedule {self.schedule.kind} chooses among single checkpoints")
        if self.reassess.at_progress:
            wrong.append(f"reassess.at_progress {list(self.reassess.at_progress)} changes the one")
        if self.serving.kind != "colocated":
            wrong.append(f"serving {self.serving.kind} answers for one")
        if self.objective.match.wanted:
            wrong.append("objective.match reads the layers of one")
        if wrong:
            raise ValueError(
                f"ensemble: all teach at a time, but {', and '.join(wrong)}. Set a schedule fixed, "
                "at_steps, equal_periods or on_plateau, reassess.at_progress: [], serving "
                "colocated, neither first_teacher nor objective.match, or leave ensemble out"
            )
        return self

    def pools(self) -> list[PoolServing]:
        """The teacher pools that work beside the workers."""
        return [self.serving] if isinstance(self.serving, PoolServing) else []


def require_match(training: TrainingConfig, objective: ObjectiveConfig) -> None:
    """Refuse to match what the kernels don't tell.

    Raises:
        ValueError: attention maps are wanted, and the attention isn't eager.
    """
    if objective.match.attention is not None and training.attn_implementation != "eager":
        raise ValueError(
            "objective.match.attention: only eager attention returns its maps, and "
            f"attn_implementation is {training.attn_implementation}. Set attn_implementation eager"
        )

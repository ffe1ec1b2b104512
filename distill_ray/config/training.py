"""How models are trained: the budgets, optimiser and loss that adapt, probe and distill share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill_ray.config.base import Fraction, Name, Section
from distill_ray.config.ensemble import EnsembleConfig
from distill_ray.config.mixing import Mix, MixingConfig
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


class LossWeights(Section):
    """How much each kind of row counts; each kind is a mean over its own supervised tokens."""

    text: NonNegativeFloat = 1.0
    """Weight of running text."""
    task: NonNegativeFloat = 1.0
    """Weight of labelled rows and prompts."""


class OffloadConfig(Section):
    """What DeepSpeed keeps in the main memory instead of the accelerator's."""

    optimizer: bool = False
    """Optimiser states; ZeRO stage 1 and up."""
    parameters: bool = False
    """Weights; ZeRO stage 3."""


class TrainingConfig(Section):
    """One training run."""

    token_budget: PositiveInt
    """Budget, padding included: steps are tokens / (global_batch_size x sequence_length)."""
    global_batch_size: PositiveInt = 32
    """Packed rows in a step, over all workers: the global batch."""
    micro_batch_size: PositiveInt = 8
    """Rows of one forward pass of one worker; the rest is gradient accumulation."""
    learning_rate: PositiveFloat = 1e-4
    """Peak of a cosine with linear warm-up."""
    warmup_ratio: Fraction = 0.1
    """Share of the steps that warm up."""
    min_lr_ratio: Fraction = 0.1
    """Learning rate at the end, as a share of the peak."""
    weight_decay: NonNegativeFloat = 0.01
    """Of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    mix: Mix
    """Which streams, in which shares, from the first step on."""
    mixing: MixingConfig = MixingConfig()
    """Shares of what, and whether they change in the course of training."""
    loss_weights: LossWeights = LossWeights()
    precision: Literal["float32", "bfloat16"] = "float32"
    """Weights and arithmetic of the model; losses are computed in float32 always."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 1 shards optimiser states, 2 gradients too, 3 parameters too."""
    offload: OffloadConfig = OffloadConfig()
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    """Attention kernels of transformers."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about
    a third more time."""
    torch_compile: bool = False
    """`torch.compile` the backbones; needs a C++ compiler on a CPU."""
    max_skipped_steps: PositiveInt = 10
    """Steps in a row whose loss or gradient isn't finite, after which training stops. Each is left
    out and its batch set aside."""

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
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before each adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear`, or names as peft takes them."""


class RecipeConfig(TrainingConfig):
    """One phase of a teacher's adaptation."""

    method: Literal["full", "lora"] = "full"
    """Train all weights, or adapters."""
    lora: LoraConfig = LoraConfig()
    """Read when the method is lora."""
    num_checkpoints: PositiveInt = 3
    """Rungs of the ladder, at equal token spacing; the last is the end of training."""
    early_stopping_patience: PositiveInt | None = 2
    """Checkpoints in a row without a lower validation loss, after which training stops early; null
    trains to the end."""


class AdaptConfig(Section):
    """Teachers are trained on the domain before they teach."""

    recipes: dict[Name, RecipeConfig] = Field(default_factory=dict)
    """Named recipes that teachers refer to."""
    num_validation_rows: PositiveInt = 64
    """Packed validation rows per stream that choose the best checkpoint."""
    save_steps: PositiveInt = 200
    """Steps between checkpoints for resuming."""


def _default_schedule(known: Mapping[str, Any]) -> Schedule:
    """The ranking anew, where it is one teacher that is chosen, and can be on the way."""
    cached = getattr(known.get("serving"), "kind", "") == "cached"
    return FixedSchedule() if cached or known.get("ensemble") is not None else RankedSchedule()


class DistillConfig(TrainingConfig):
    """The distillation proper."""

    lora: LoraConfig | None = None
    """Train adapters of the student instead of all its weights."""
    serving: Serving = ColocatedServing()
    """Where the teacher lives."""
    objective: ObjectiveConfig = ObjectiveConfig()
    first_teacher: Name | None = None
    """The teacher that begins; left out, the one that leads the ranking for an untrained
    student."""
    ensemble: EnsembleConfig | None = None
    """Several teachers at once; left out, one teaches at a time. As a group they climb their
    checkpoints in step: each is at the share of its own that the schedule has reached."""
    schedule: Schedule = Field(default_factory=_default_schedule)
    """Left out, `ranked`; `fixed` for an ensemble and for cached targets."""
    reassess: ReassessConfig = ReassessConfig()
    progress: ProgressConfig = ProgressConfig()
    on_switch: OnSwitchConfig = OnSwitchConfig()
    eval_steps: PositiveInt = 50
    """Steps between measurements of the student's progress."""
    num_validation_rows: PositiveInt = 64
    """Packed validation rows per stream of these measurements."""
    num_checkpoints: PositiveInt = 1
    """Checkpoints of the student that stay, at equal token spacing; the last is the end."""
    select_checkpoint: Literal["last", "best"] = "last"
    """Which of them is the student that is evaluated and exported: `best` is the one with the least
    validation loss. The control's is chosen alike."""
    save_steps: PositiveInt = 100
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

"""How models are trained: the budgets, optimiser and loss that adapt, probe and distill share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill_ray.config.base import Fraction, Name, OpenFraction, Section
from distill_ray.config.errors import did_you_mean
from distill_ray.config.mixing import Mix, MixingConfig
from distill_ray.config.several import SeveralConfig


class LossWeights(Section):
    """How much each kind of row counts; each kind is a mean over its own supervised tokens."""

    text: NonNegativeFloat = 1.0
    task: NonNegativeFloat = 1.0


class OffloadConfig(Section):
    """What DeepSpeed keeps in the main memory instead of the accelerator's."""

    optimizer: bool = False
    """Optimiser states; ZeRO stage 1 and up."""
    parameters: bool = False
    """Weights; ZeRO stage 3."""


class TrainingConfig(Section):
    """One training run."""

    tokens: PositiveInt
    """Budget, padding included: steps are tokens / (batch_rows x sequence_length)."""
    batch_rows: PositiveInt = 32
    """Packed rows in a step, over all workers: the global batch."""
    micro_batch_rows: PositiveInt = 8
    """Rows of one forward pass of one worker; the rest is gradient accumulation."""
    learning_rate: PositiveFloat = 1e-4
    """Peak of a cosine with linear warm-up."""
    warmup: Fraction = 0.1
    """Share of the steps that warm up."""
    final_learning_rate: Fraction = 0.1
    """Learning rate at the end, as a share of the peak."""
    weight_decay: NonNegativeFloat = 0.01
    clip: PositiveFloat = 1.0
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
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    """Attention kernels of transformers."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about
    a third more time."""
    compile: bool = False
    """`torch.compile` the backbones; needs a C++ compiler on a CPU."""
    max_bad_steps: PositiveInt = 10
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
        return max(1, self.tokens // (self.batch_rows * sequence_length))


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
    alpha: PositiveFloat = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


class RecipeConfig(TrainingConfig):
    """One phase of a teacher's adaptation."""

    method: Literal["full", "lora"] = "full"
    lora: LoraConfig = LoraConfig()
    """Read when the method is lora."""
    checkpoints: PositiveInt = 3
    """Rungs of the ladder, at equal token spacing; the last is the end of training."""
    patience: PositiveInt | None = 2
    """Checkpoints in a row without a lower validation loss, after which training stops early; null
    trains to the end."""


class AdaptConfig(Section):
    """Teachers are trained on the domain before they teach."""

    recipes: dict[Name, RecipeConfig] = Field(default_factory=dict)
    """Named recipes that teachers refer to."""
    validation_rows: PositiveInt = 64
    """Packed validation rows per stream that choose the best checkpoint."""
    save_every: PositiveInt = 200
    """Steps between checkpoints for resuming."""


class FixedSchedule(Section):
    """The teacher's best checkpoint from start to end."""

    kind: Literal["fixed"] = "fixed"


class AtStepsSchedule(Section):
    """One rung up at each of the given steps."""

    kind: Literal["at_steps"] = "at_steps"
    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Increasing step numbers; the first step that sees the next rung."""

    @model_validator(mode="after")
    def _increasing(self) -> AtStepsSchedule:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps must increase, got {list(self.steps)}")
        return self


class EqualStagesSchedule(Section):
    """The rungs in order, each for an equal share of the tokens."""

    kind: Literal["equal_stages"] = "equal_stages"


class OnPlateauSchedule(Section):
    """Hand over once the student stops gaining on the current rung."""

    kind: Literal["on_plateau"] = "on_plateau"
    window: Annotated[int, Field(ge=1, le=1000)] = 200
    """Steps in each of the two windows that are compared."""
    min_gain: OpenFraction = 0.02
    """Move on when the relative fall in loss between the windows is smaller than this."""


class ScdSchedule(Section):
    """At each stage the checkpoint that is closest to the student and to the best checkpoint."""

    kind: Literal["scd"] = "scd"
    stages: PositiveInt | None = None
    """Stages of equal length; null for as many as the teacher has checkpoints."""


class RankedSchedule(Section):
    """The ranking is computed anew with short probes from the student as it is: it may change the
    teacher, the checkpoint, or nothing."""

    kind: Literal["ranked"] = "ranked"
    every: PositiveInt | None = None
    """Steps between two assessments; null waits until the loss no longer falls."""
    window: Annotated[int, Field(ge=1, le=1000)] = 100
    """Steps in each of the two windows that are compared for that."""
    min_gain: OpenFraction = 0.02
    """It no longer falls when its relative fall between the windows is smaller than this."""
    probe_steps: PositiveInt = 8
    """Optimiser steps with each candidate, undone afterwards."""
    probe_rows: PositiveInt = 16
    """Packed validation rows per stream on which these steps are measured."""
    margin: Fraction = 0.02
    """Another must lead the current one's score by this much."""


ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""`my_package.module:function`."""


class PluginSchedule(Section):
    """One of your own: a function like those of `core.schedules`."""

    kind: Literal["plugin"] = "plugin"
    function: ImportPath
    """`my_package.module:function`; every worker must be able to import it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its keyword-only arguments."""


Schedule = Annotated[
    FixedSchedule
    | AtStepsSchedule
    | EqualStagesSchedule
    | OnPlateauSchedule
    | ScdSchedule
    | RankedSchedule
    | PluginSchedule,
    Field(discriminator="kind"),
]
STEP_SCHEDULES = ("fixed", "at_steps", "equal_stages")
"""Those that read nothing but step numbers."""


def scheduling(schedule: Schedule) -> tuple[str, dict[str, Any]]:
    """Name or import path of a schedule's function, and its options."""
    if isinstance(schedule, PluginSchedule):
        return schedule.function, dict(schedule.options)
    return schedule.kind, schedule.model_dump(exclude={"kind"})


class ProgressConfig(Section):
    """How measurements of the student become the progress that decides."""

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of what was believed before; 0 believes the last measurement alone."""
    monotone: bool = True
    """Noise never takes progress back."""


class AtSwitchConfig(Section):
    """What happens to the optimiser when another checkpoint begins to teach."""

    optimizer: Literal["keep", "reset"] = "keep"
    """`reset` forgets its moments, as SCD does."""
    warmup: Fraction = 0.0
    """Share of all steps over which the learning rate rises anew to where it would be; 0 leaves
    it."""


class ReassessConfig(Section):
    """The ranking is computed anew with the student's progress, and the teacher may change."""

    at_progress: tuple[OpenFraction, ...] = (0.5,)
    """Shares of the closed gap to the best teacher at which it happens."""
    margin: Fraction = 0.02
    """A new teacher must lead the current one's score by this much."""


DIVERGENCE_NAMES = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "adaptive_kl",
    "total_variation",
)
"""The keys of `core.divergence.DIVERGENCES`, known here without importing torch."""


WEIGHTING_NAMES = ("adaptive",)
"""The keys of `core.weighting.WEIGHTINGS`."""


Layers = Literal["last", "uniform"] | dict[PositiveInt, PositiveInt]
"""`last`: the last layer of both. `uniform`: every layer of the student, with the teacher's at
the same relative depth. Or layer of the student → layer of the teacher, counted from 1."""


class HiddenMatch(Section):
    """Hidden states of inner layers are pulled towards the teacher's."""

    weight: PositiveFloat = 1.0
    """Against the rest of the loss."""
    layers: Annotated[Layers, Field(min_length=1)] = "last"
    distance: Literal["cosine", "mse"] = "cosine"
    projection: bool = True
    """Compare through a matrix that is learned with the student and then dropped; without it, both
    hidden sizes must be equal."""


class AttentionMatch(Section):
    """Attention maps, averaged over their heads, are pulled towards the teacher's."""

    weight: PositiveFloat = 1.0
    """Against the rest of the loss."""
    layers: Annotated[Layers, Field(min_length=1)] = "last"
    distance: Literal["kl", "squared_error"] = "kl"


class MatchConfig(Section):
    """What of the inner layers is matched; nothing, when left out."""

    hidden: HiddenMatch | None = None
    attention: AttentionMatch | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is."""
        return self.hidden is not None or self.attention is not None


class ObjectiveConfig(Section):
    """What the student is pulled towards."""

    divergence: str = "forward_kl"
    """One of ours (see docs/methods.md), or `my_package.module:function`."""
    options: dict[str, float] = Field(default_factory=dict)
    """Keyword options of the divergence, such as `beta` of jsd or `skew`."""
    temperature: PositiveFloat = 1.0
    alpha: Fraction = 0.9
    """Share of the divergence to the teacher; the rest is cross-entropy on the data."""
    calibrate: bool = False
    """Divide each teacher's logits by the temperature that the audit fitted for it (Guo et al.
    2017). With `temperature` τ and a teacher's T it acts as τ·T on the teacher's side alone."""
    weighting: str | None = None
    """`adaptive` weighs each sample by what a frozen student, fine-tuned without a teacher, and the
    teacher know of it: its weight takes the place of alpha. Or `my_package.module:function`."""
    match: MatchConfig = MatchConfig()
    """Added to both; the teacher must be colocated."""

    @model_validator(mode="after")
    def _known_divergence(self) -> ObjectiveConfig:
        if ":" not in self.divergence and self.divergence not in DIVERGENCE_NAMES:
            hint = did_you_mean(self.divergence, DIVERGENCE_NAMES)
            raise ValueError(f"divergence: no {self.divergence!r}. {hint}".rstrip("."))
        chosen = self.weighting
        if chosen is not None and ":" not in chosen and chosen not in WEIGHTING_NAMES:
            hint = did_you_mean(chosen, WEIGHTING_NAMES)
            raise ValueError(f"weighting: no {chosen!r}. {hint}".rstrip("."))
        return self


class TopKTargets(Section):
    """The teacher's likeliest tokens, and the mass of all others as one."""

    kind: Literal["top_k"] = "top_k"
    k: PositiveInt = 64


class SampledTargets(Section):
    """Tokens drawn from the teacher: unbiased for the forward KL (arXiv 2503.16870)."""

    kind: Literal["samples"] = "samples"
    samples: PositiveInt = 64


class HiddenTargets(Section):
    """The teacher's last hidden states; its output weights are in each worker. Exact."""

    kind: Literal["hidden"] = "hidden"


SparseTarget = Annotated[TopKTargets | SampledTargets, Field(discriminator="kind")]
AnyTarget = Annotated[HiddenTargets | TopKTargets | SampledTargets, Field(discriminator="kind")]


class ColocatedServing(Section):
    """The teacher is in each worker."""

    kind: Literal["colocated"] = "colocated"
    shard: bool = False
    """Shard it over the workers' accelerators (ZeRO-3, no optimiser), for one that doesn't fit in
    each. Its output weights stay whole; each worker's main memory must hold it while it loads."""


class PoolServing(Section):
    """The teacher is in processes of its own, on other accelerators, and works ahead."""

    kind: Literal["pool"] = "pool"
    actors: PositiveInt = 1
    cpus_per_actor: PositiveFloat = 1.0
    gpus_per_actor: NonNegativeFloat = 0.0
    lookahead: PositiveInt = 2
    """Steps that may be asked for ahead: beyond them the pool waits for the student."""
    targets: AnyTarget = HiddenTargets()
    """What it sends."""
    parity_rows: NonNegativeInt = 1
    """Rows that are compared with a local forward pass before training; 0 where the teacher
    doesn't fit beside the student."""

    @property
    def is_exact(self) -> bool:
        """Whether it sends hidden states, for which each worker has the output weights."""
        return isinstance(self.targets, HiddenTargets)


class CachedServing(Section):
    """The teacher's targets are computed once, beside the shards, and read in every epoch."""

    kind: Literal["cached"] = "cached"
    targets: SparseTarget = TopKTargets()
    actors: PositiveInt = 1
    """Processes that compute them."""
    rows_per_file: PositiveInt = 256
    """What an interrupted pass can lose, for each process."""


Serving = Annotated[
    ColocatedServing | PoolServing | CachedServing,
    Field(discriminator="kind"),
]


class DistillConfig(TrainingConfig):
    """The distillation proper."""

    lora: LoraConfig | None = None
    """Train adapters of the student instead of all its weights."""
    serving: Serving = ColocatedServing()
    """Where the teacher lives."""
    objective: ObjectiveConfig = ObjectiveConfig()
    first: Name | None = None
    """The teacher that begins; left out, the one that leads the ranking for an untrained
    student."""
    schedule: Schedule = EqualStagesSchedule()
    several: SeveralConfig | None = None
    """Several teachers at once; left out, one teaches at a time. As a group they climb their
    ladders in step: each is at the share of its own that the schedule has reached."""
    reassess: ReassessConfig = ReassessConfig()
    progress: ProgressConfig = ProgressConfig()
    at_switch: AtSwitchConfig = AtSwitchConfig()
    validate_every: PositiveInt = 50
    """Steps between measurements of the student's progress."""
    validation_rows: PositiveInt = 64
    """Packed validation rows per stream of these measurements."""
    save_every: PositiveInt = 100
    """Steps between checkpoints for resuming."""

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
                "and a schedule fixed, at_steps or equal_stages, or another serving"
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
    def _several_fit(self) -> DistillConfig:
        if self.several is None:
            return self
        wrong = []
        if self.first is not None:
            wrong.append(f"first {self.first} begins alone")
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
                f"several: all teach at a time, but {', and '.join(wrong)}. Set a schedule fixed, "
                "at_steps, equal_stages or on_plateau, reassess.at_progress: [], serving "
                "colocated, neither first nor objective.match, or leave several out"
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
    if objective.match.attention is not None and training.attention != "eager":
        raise ValueError(
            "objective.match.attention: only eager attention tells its maps, and attention is "
            f"{training.attention}. Set attention eager"
        )

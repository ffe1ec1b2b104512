"""Benchmarks against other code: full logits, a plain loop, another library. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill_ray.bench.harness.compare import Listener, compare
from distill_ray.bench.harness.machine import has_gpu, provenance
from distill_ray.bench.harness.plan import Arm, Plan
from distill_ray.bench.harness.result import Comparison, Report, Target
from distill_ray.bench.suites.work import LLAMA_1B, PRESETS, LossWork, StepWork
from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.models import ModelSource
from distill_ray.models.inspect import check_model
from distill_ray.models.ref import ModelRef

ARMS = "distill_ray.bench.arms"
OURS = "ours"
PLAIN, TRL, TRL_TUNED = "plain loop", "TRL GKD", "TRL GKD, tuned"
NAIVE = "full logits"
NO_GPU = (
    "There is no GPU here, so the step of Llama-3.2-1B's shape (32 x 1024 tokens in bfloat16, "
    "under 1.224 s) was not measured: on one, the same command does."
)
LIVE_LOGITS = 7
"""Tensors of the size of the logits, in float32, that the plain loop holds at its peak."""
LARGEST = 64 * 2**30
"""Bytes of logits from which the plain loop is left out."""
BAD = "This benchmark can't run:"
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Precision → relative loss difference up to which it is the same work."""


@dataclass(frozen=True)
class Settings:
    """Options that every benchmark has."""

    pairs: int = 5
    warmup: int = 1
    """Rounds before those that count."""
    threads: int = 2
    """Threads of one process."""
    patience_s: float = 0.0
    """The longest to wait, before each unit, for other processes to leave the machine idle."""
    judge: bool = True
    """Whether to check the targets, which are for the default sizes."""
    listen: Listener | None = None
    """Gets a line at every turn."""

    @property
    def plan(self) -> Plan:
        """The harness's plan."""
        return Plan(self.pairs, self.warmup, patience_s=self.patience_s)

    def aims(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """The targets, if they are checked; none otherwise."""
        return tuple(targets) if self.judge else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"pairs": self.pairs, "warmup": self.warmup, "threads": self.threads}


def loss(
    settings: Settings, *, works: Sequence[LossWork] = (LossWork(49152), LossWork(128256))
) -> Report:
    """Compare the loss alone: from hidden states and output matrices to the gradients of both."""
    comparisons, targets = [], []
    for work in works:
        arms = [
            _arm(NAIVE, "plain:loss", settings, work=work),
            _arm(OURS, "engine:loss", settings, work=work),
        ]
        what = f"Loss, vocabulary {work.vocabulary}"
        comparison = compare(
            f"{what}, {work.tokens} tokens, hidden {work.hidden}",
            arms,
            settings.plan,
            tolerance=TOLERANCE[work.precision],
            listen=settings.listen,
        )
        comparisons.append(comparison)
        memory_ratio = comparison.memory_ratio(OURS)
        targets += [
            Target(f"{what}: time, {OURS} / {NAIVE}", comparison.ratio(OURS), 0.9),
            Target(f"{what}: memory, {OURS} / {NAIVE}", memory_ratio, 0.08),
        ]
    reported = settings.to_dict() | {"works": [asdict(work) for work in works]}
    return Report("loss", tuple(comparisons), settings.aims(targets), reported, provenance())


def step(settings: Settings, *, work: StepWork, peer: str | None = None) -> Report:
    """Compare optimiser steps with the plain loop, and with one of `PEERS` if it is named.

    Raises:
        InputError: there is no such peer, or it isn't installed.
    """
    arms = [_arm(OURS, "engine:step", settings, work=work)]
    notes = [] if has_gpu() else [NO_GPU]
    # The plain loop's logits may fill a large GPU, with nothing left for other arms.
    vocabulary = (work.teacher.init or {}).get("vocab_size", 0)
    if 4 * work.tokens * int(vocabulary) * LIVE_LOGITS > LARGEST:
        notes.append(f"no {PLAIN}: its logits would fill the device")
    else:
        arms.insert(0, _arm(PLAIN, "plain:step", settings, work=work))
    if peer is not None:
        _check_name("--peer", peer, PEERS)
        arms += PEERS[peer](settings, work)
    title = f"Step, {work.rows} x {work.length} tokens, {work.precision}"
    tolerance = TOLERANCE[work.precision]
    comparison = compare(title, arms, settings.plan, tolerance=tolerance, listen=settings.listen)
    reported = settings.to_dict() | {"work": asdict(work), "peer": peer}
    targets = settings.aims(_step_targets(comparison, work))
    return Report("step", (comparison,), targets, reported, provenance(), tuple(notes))


def _step_targets(comparison: Comparison, work: StepWork) -> list[Target]:
    if work.teacher.init == LLAMA_1B:
        ours = comparison.arm(OURS)
        on_gpu = ours.device not in ("", "cpu")
        return [Target("seconds of a step", ours.cost if on_gpu else None, 1.224)]
    targets = [Target(f"time of a step, {OURS} / {PLAIN}", comparison.ratio(OURS), 1.03)]
    if any(arm.name == TRL_TUNED for arm in comparison.arms):
        targets += [
            Target(
                f"time of a step, {TRL_TUNED} / {OURS}",
                comparison.ratio(TRL_TUNED, OURS),
                1.3,
                False,
            ),
            Target(f"memory, {OURS} / {TRL_TUNED}", comparison.memory_ratio(OURS, TRL_TUNED), 0.55),
        ]
    return targets


def step_work(
    preset: str | None = None,
    precision: str | None = None,
    *,
    teacher: str | None = None,
    student: str | None = None,
) -> StepWork:
    """Build the work of a preset, with other models where they are given.

    Args:
        preset: a name in `PRESETS`; the default suits this machine.
        precision: `float32` or `bfloat16`; the default suits the preset.
        teacher: a folder, GGUF file or hub id; `PLACE:N` keeps its first N layers.
        student: likewise.

    Raises:
        InputError: a name is unknown, or a model doesn't exist.
    """
    preset = preset or ("llama-1b" if has_gpu() else "smollm2-135m")
    precision = precision or ("bfloat16" if preset == "llama-1b" else "float32")
    _check_name("--preset", preset, PRESETS)
    _check_name("--precision", precision, TOLERANCE)
    if preset == "llama-1b" and not has_gpu():
        raise InputError(BAD, [Problem("--preset llama-1b", "there is no GPU here.")])
    work = PRESETS[preset].step(precision)
    if teacher is not None:
        work = replace(work, teacher=_ref("--teacher", teacher))
    if student is not None:
        work = replace(work, student=_ref("--student", student))
    return work


def _check_name(flag: str, value: str, allowed: Mapping[str, Any]) -> None:
    if value not in allowed:
        problem = Problem(flag, f"no {value!r}.", did_you_mean(value, allowed))
        raise InputError(BAD, [problem])


def _ref(flag: str, value: str) -> ModelRef:
    """Parse the model of a flag: `PLACE`, or `PLACE:N` for its first N layers."""
    place, _, count = value.rpartition(":")
    if not count.isdigit():
        place, count = value, ""
    layers = {"num_hidden_layers": int(count)} if count else {}
    kind = "gguf" if place.endswith(".gguf") else "path" if Path(place).exists() else "hub"
    source = ModelSource.model_validate({kind: place, **layers})
    if problems := check_model(source, flag):
        raise InputError(BAD, problems)
    return ModelRef.of(source)


def _arm(name: str, run: str, settings: Settings, note: str = "", **options: Any) -> Arm:
    return Arm(name, f"{ARMS}.{run}", options, threads=settings.threads, note=note)


def _trl(settings: Settings, work: StepWork) -> list[Arm]:
    """Make two arms of TRL: as it ships, and without gradient checkpointing."""
    if find_spec("trl") is None:
        fix = "Install distill-ray[bench]; TRL needs Python 3.11."
        raise InputError(BAD, [Problem("--peer", "TRL is not installed.", fix)])
    return [
        _arm(TRL, "peer_trl:step", settings, "as it ships", work=work, tuned=False),
        _arm(TRL_TUNED, "peer_trl:step", settings, "no checkpointing", work=work, tuned=True),
    ]


PEERS: dict[str, Callable[[Settings, StepWork], list[Arm]]] = {"trl": _trl}
"""Name → function that makes the arms of another library, for the step benchmark."""

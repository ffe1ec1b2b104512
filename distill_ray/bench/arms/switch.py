"""How long training stalls when the teacher switches to another of its checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from distill_ray.bench.arms.engine import session_of
from distill_ray.bench.arms.inputs import load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import StepWork
from distill_ray.core.schedule import TeacherCheckpoints, begin
from distill_ray.core.schedules import at_steps
from distill_ray.engine.loop import distill
from distill_ray.engine.session import Session, Teaching
from distill_ray.engine.teachers.base import Colocated
from distill_ray.models.adapters import add_lora
from distill_ray.models.execution import Execution
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.models.teachers import TeacherBank

STEPS = 4
"""Steps from one switch to the next."""
SWITCHES = 2
"""Switches in a turn."""
LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}


def full(turns: ArmClient, *, work: StepWork, ahead: bool) -> None:
    """Switch between whole models. `ahead`: each is read while the one before it teaches."""
    with TemporaryDirectory() as base:
        _take(turns, work, model_checkpoints(work, Path(base), 2), ahead)


def adapter(turns: ArmClient, *, work: StepWork, ahead: bool) -> None:
    """Switch between adapters of rank 16 on all linear layers of one model."""
    with TemporaryDirectory() as base:
        _take(turns, work, adapter_checkpoints(work, Path(base)), ahead)


def model_checkpoints(work: StepWork, base: Path, count: int) -> list[ModelRef]:
    """Save the work's teacher, then copies with other weights, below `base`."""
    model = load_model(work.teacher, precision=work.precision)
    refs = [ModelRef("path", str(base / str(number))) for number in range(count)]
    for ref in refs:
        model.save_pretrained(ref.location)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
    return refs


def adapter_checkpoints(work: StepWork, base: Path) -> list[ModelRef]:
    """Save the work's teacher and two adapters on it below `base`."""
    (model_ref,) = model_checkpoints(work, base / "base", 1)
    refs = [model_ref.with_adapter(str(base / str(seed))) for seed in range(2)]
    for seed, ref in enumerate(refs):
        model = add_lora(load_model(model_ref), seed=seed, **LORA)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:  # New ones are zero, so all adapters would be equal.
                    weight.copy_(torch.randn(weight.shape, generator=generator) / 100)
        model.save_pretrained(ref.adapter)
    return refs


class WatchedTeacher(Colocated):
    """A teacher that notes when a checkpoint is read, and that may be kept from reading ahead."""

    def __init__(self, bank: TeacherBank, ahead: bool) -> None:
        super().__init__(bank)
        self._ahead, self._expected = ahead, set[tuple[str, int]]()
        self.is_reading = False
        """Whether a checkpoint was read since this was last set to False."""

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read a checkpoint's weights ahead, if that is what is measured."""
        if self._ahead:
            super().expect(teacher, checkpoint_index)
            checkpoint = (teacher, checkpoint_index)
            self.is_reading |= self._bank.reading or checkpoint not in self._expected
            self._expected.add(checkpoint)


def session_with(
    turns: ArmClient, work: StepWork, refs: list[ModelRef], ahead: bool
) -> tuple[Session, WatchedTeacher]:
    """Build a session whose teacher switches to the next of some checkpoints every `STEPS`."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    switches = turns.total * SWITCHES
    session = session_of(pair, work, turns.device, switches * STEPS + 1)
    pair.teacher.to("meta")  # The bank loads its own.
    cycled = [refs[number % len(refs)] for number in range(switches + 1)]
    bank = TeacherBank(
        {"teacher": cycled},
        device=turns.device,
        execution=Execution(work.precision),
        vocabulary=pair.vocabulary,
    )
    bank.use("teacher", 0)
    switch_steps = tuple(STEPS // 2 + number * STEPS for number in range(switches))
    decide = partial(at_steps, steps=switch_steps)
    checkpoints = TeacherCheckpoints({"teacher": len(cycled)}, session.optim.steps)
    source = WatchedTeacher(bank, ahead)
    session.teaching = Teaching(source, checkpoints, decide, begin("teacher", checkpoints, decide))
    return session, source


@dataclass
class TurnTimes:
    """Seconds that the steps of a turn took, by what happened meanwhile."""

    stalls: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    """Steps without a switch, and with nothing read meanwhile."""
    beside: list[float] = field(default_factory=list)
    """Steps during which a checkpoint was read."""
    first: list[float] = field(default_factory=list)
    """First steps with a new checkpoint, without the stall."""

    def figures(self) -> dict[str, float]:
        """Medians of the other kinds of step, in units of a plain step."""
        step = median(self.plain)
        kinds = {"beside": self.beside, "first": self.first}
        return {name: median(seconds) / step for name, seconds in kinds.items() if seconds}


def _take(turns: ArmClient, work: StepWork, refs: list[ModelRef], ahead: bool) -> None:
    session, source = session_with(turns, work, refs, ahead)
    assert session.teaching is not None
    steps, stalls = distill(session), session.teaching.stalls
    for _ in turns:
        times, losses = TurnTimes(), []
        for _ in range(SWITCHES * STEPS):
            num_stalls, source.is_reading = len(stalls), False
            began = time.perf_counter()
            losses.append(next(steps).loss)
            seconds = time.perf_counter() - began
            if len(stalls) > num_stalls:
                times.stalls.append(stalls[-1][1])
                times.first.append(seconds - stalls[-1][1])
            else:
                (times.beside if source.is_reading else times.plain).append(seconds)
        # A switch's cost is reported in steps of the same turn, so a plain step is the unit.
        turns.done(
            losses,
            amount=median(times.plain),
            seconds=median(times.stalls),
            figures=times.figures(),
        )

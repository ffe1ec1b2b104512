"""Steps of the loop whose teacher changes its checkpoint: what a step waits for the change."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from distill_ray.engine.loop import Step, distill
from distill_ray.engine.session import Session, Teaching
from distill_ray.engine.teachers.base import Colocated
from distill_ray.models.adapters import add_lora
from distill_ray.models.execution import Execution
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.models.teachers import TeacherBank

STEPS = 4
"""From one switch to the next."""
SWITCHES = 2
"""In a turn."""
LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}


def full(turns: ArmClient, *, work: StepWork, ahead: bool) -> None:
    """Checkpoints are whole models. `ahead`: each is read while the one before it teaches."""
    with TemporaryDirectory() as base:
        _take(turns, work, _models(work, Path(base), 2), ahead)


def adapter(turns: ArmClient, *, work: StepWork, ahead: bool) -> None:
    """Checkpoints are adapters of rank 16 on all linear layers of one model."""
    with TemporaryDirectory() as base:
        _take(turns, work, _adapters(work, Path(base)), ahead)


def _models(work: StepWork, base: Path, count: int) -> list[ModelRef]:
    """Folders of the work's teacher, and of others of its form."""
    model = load_model(work.teacher, precision=work.precision)
    refs = [ModelRef("path", str(base / str(number))) for number in range(count)]
    for ref in refs:
        model.save_pretrained(ref.location)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
    return refs


def _adapters(work: StepWork, base: Path) -> list[ModelRef]:
    (on,) = _models(work, base / "base", 1)
    refs = [on.with_adapter(str(base / str(seed))) for seed in range(2)]
    for seed, ref in enumerate(refs):
        model = add_lora(load_model(on), seed=seed, **LORA)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:  # Fresh ones are zero: all adapters would say the same.
                    weight.copy_(torch.randn(weight.shape, generator=generator) / 100)
        model.save_pretrained(ref.adapter)
    return refs


class Watched(Colocated):
    """A teacher that notes when a checkpoint is being read; or that isn't told what comes next."""

    def __init__(self, bank: TeacherBank, ahead: bool) -> None:
        super().__init__(bank)
        self._ahead, self._known = ahead, set[tuple[str, int]]()
        self.is_reading = False
        """Whether something was read since this was last set."""

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read its weights, if that is what is measured."""
        if self._ahead:
            super().expect(teacher, checkpoint_index)
            self.is_reading |= self._bank.reading or (teacher, checkpoint_index) not in self._known
            self._known.add((teacher, checkpoint_index))


def session_with(
    turns: ArmClient, work: StepWork, refs: list[ModelRef], ahead: bool
) -> tuple[Session, Watched]:
    """A session whose teacher goes through the checkpoints again and again, one every `STEPS`."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    switches = turns.total * SWITCHES
    session = session_of(pair, work, turns.device, switches * STEPS + 1)
    pair.teacher.to("meta")  # The bank loads its own.
    rungs = [refs[number % len(refs)] for number in range(switches + 1)]
    bank = TeacherBank(
        {"teacher": rungs},
        device=turns.device,
        execution=Execution(work.precision),
        vocabulary=pair.vocabulary,
    )
    bank.use("teacher", 0)
    places = tuple(STEPS // 2 + number * STEPS for number in range(switches))
    decide = partial(at_steps, steps=places)
    checkpoints = TeacherCheckpoints({"teacher": len(rungs)}, session.optim.steps)
    source = Watched(bank, ahead)
    session.teaching = Teaching(source, checkpoints, decide, begin("teacher", checkpoints, decide))
    return session, source


@dataclass
class Seen:
    """What the steps of a turn took, in seconds."""

    stalls: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    """Steps without a switch and with nothing read meanwhile."""
    beside: list[float] = field(default_factory=list)
    """Steps during which a checkpoint was read."""
    first: list[float] = field(default_factory=list)
    """Steps that a new checkpoint was first used in, without the stall."""

    def figures(self) -> dict[str, float]:
        """Of the turn: what the other steps take, in plain steps."""
        step = median(self.plain)
        kinds = {"beside": self.beside, "first": self.first}
        return {name: median(seconds) / step for name, seconds in kinds.items() if seconds}


def _take(turns: ArmClient, work: StepWork, refs: list[ModelRef], ahead: bool) -> None:
    session, source = session_with(turns, work, refs, ahead)
    steps = distill(session)
    for _ in turns:
        record = Seen()
        losses = [_one(steps, session, source, record) for _ in range(SWITCHES * STEPS)]
        # One step is the unit: what a switch costs is told in steps of the same turn.
        seconds, step = median(record.stalls), median(record.plain)
        turns.done(losses, amount=step, seconds=seconds, figures=record.figures())


def _one(steps: Iterator[Step], session: Session, source: Watched, seconds_seen: Seen) -> float:
    """The loss of one more step."""
    assert session.teaching is not None
    stalls = session.teaching.stalls
    known, source.is_reading = len(stalls), False
    began = time.perf_counter()
    loss = next(steps).loss
    took = time.perf_counter() - began
    if len(stalls) > known:
        seconds_seen.stalls.append(stalls[-1][1])
        seconds_seen.first.append(took - stalls[-1][1])
    else:
        (seconds_seen.beside if source.is_reading else seconds_seen.plain).append(took)
    return loss
